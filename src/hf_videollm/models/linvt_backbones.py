"""What image-LLMs of transformers share, and where they differ, as far as LinVT has to know.

All that LinVT asks of one is its base model: `get_image_features` for the frames, `get_input_embeddings`, and a forward
from `inputs_embeds` with positions. The families differ in how their image processor wants frames (`frame_inputs`), in
the form in which features come out (`encode_images`), in positions (`prompt_positions`), and in what their masks want
to know of the tokens (`TYPE_RULES`). `docs/measured/linvt_backbones.md` lists what was tried.
"""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from .linvt_families import EXAMPLES, FRAME_CALLS, LAYER_FAMILIES, REFUSED, SQUARE_IMAGES, TYPE_RULES, UNUSED_PARTS
from .linvt_frames import split_frames
from .media_blank import blank_frames
from .video_llm_vision_tower import freeze_unused_layers


def check_backbone(base: Any) -> None:
    """Refuse image-LLMs that would run, but not as they should.

    Args:
        base: the base model of the image-LLM, without its head.

    Raises:
        ValueError: with the class and the reason.
    """
    name, model_type = type(base).__name__, base.config.model_type
    if watches_videos(base.config):
        raise ValueError(f"{name} is a video-LLM already: load it as it is, or take an image-LLM ({EXAMPLES}).")
    if not hasattr(base, "get_image_features"):
        raise ValueError(
            f"{name} has no get_image_features, so LinVT cannot get the tokens of frames: take an image-LLM that has "
            f"one ({EXAMPLES})."
        )
    reason = REFUSED.get(model_type)
    accepted = inspect.signature(base.forward).parameters
    typed = {"token_type_ids", "mm_token_type_ids"} & accepted.keys()
    if reason is None and typed and model_type not in TYPE_RULES and not has_spatial_positions(base):
        reason = f"its forward wants {', '.join(sorted(typed))}, of which LinVT knows no rule"
    if reason is None and getattr(base.config, "is_encoder_decoder", False):
        reason = "its images go into an encoder, and LinVT stands before a decoder"
    if reason is None and "inputs_embeds" not in accepted:
        reason = "its forward takes no inputs_embeds"
    if reason is None and _feeds_deeper_layers(base) and not has_deepstack(base):
        reason = "its tower also feeds deeper layers of the language model, in a way that LinVT does not know"
    if reason is not None:
        raise ValueError(f"LinVT does not support {name} yet: {reason}. Take another image-LLM ({EXAMPLES}).")


def freeze_unused_parts(base: Any) -> None:
    """Freeze what neither images nor videos of LinVT run through, see `freeze_unused_layers`.

    Args:
        base: the base model of the image-LLM.
    """
    config = base.config
    for name in UNUSED_PARTS.get(config.model_type, ()):
        getattr(base, name).requires_grad_(False)
    if (tower := getattr(base, "vision_tower", None)) is None:
        return
    if config.model_type not in LAYER_FAMILIES:
        freeze_unused_layers(tower, None, uses_closing_norm=True)
        return
    layer = getattr(config, "vision_feature_layers", None) or config.vision_feature_layer
    # InternVL's last layer is the tower's output, behind its norm.
    freeze_unused_layers(tower, layer, uses_closing_norm=config.model_type == "internvl" and layer == -1)


def blank_image(base: Any, device: torch.device) -> dict[str, torch.Tensor] | None:
    """What the image processor would give for one image of zeros; `None` where that is not known."""
    vision: Any = getattr(base.config, "vision_config", None)
    if base.config.model_type in SQUARE_IMAGES:
        return {"pixel_values": blank_frames(vision, device)}
    if has_spatial_positions(base) and hasattr(vision, "spatial_merge_size"):
        side = vision.spatial_merge_size
        channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
        width = channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, side, side]], device=device)
        return {"pixel_values": torch.zeros(side * side, width, device=device), "image_grid_thw": grid}
    return None


def watches_videos(config: Any) -> bool:
    """Whether a configuration is one of this package's designs, LinVT among them."""
    return hasattr(config, "num_video_tokens")


def has_spatial_positions(base: Any) -> bool:
    """Whether tokens have a time, a height and a width (M-RoPE, as in Qwen2-VL) instead of one position."""
    return hasattr(base, "get_rope_index")


def has_deepstack(base: Any) -> bool:
    """Whether the tower also feeds deeper layers of the language model, by the arguments of Qwen3-VL."""
    return {"visual_pos_masks", "deepstack_visual_embeds"} <= _language_arguments(base)


def _feeds_deeper_layers(base: Any) -> bool:
    return any("deepstack" in name for name in _language_arguments(base))


def _language_arguments(base: Any) -> set[str]:
    language_model = getattr(base, "language_model", None)
    return set() if language_model is None else set(inspect.signature(language_model.forward).parameters)


class VisualFeatures(NamedTuple):
    """Visual tokens of images, `(tokens, hidden_size)` each, or of videos, `(frames, tokens, hidden_size)` each.

    Args:
        tokens: as the language model is fed them.
        deepstack: what its deeper layers are fed for the same tokens, one more axis of levels before the last;
            `None` in families without.
    """

    tokens: list[torch.Tensor]
    deepstack: list[torch.Tensor] | None = None


def encode_images(base: Any, media: dict[str, Any]) -> VisualFeatures:
    """Visual tokens of images, whatever form the family gives them.

    Args:
        base: the base model of the image-LLM.
        media: what its image processor gave; what `get_image_features` does not take is left aside. Grids may begin
            with those of earlier images.

    Returns:
        One entry per image. Where tiles or prompts count as images, per tile or prompt.
    """
    accepted = inspect.signature(base.get_image_features).parameters
    given = {name: value for name, value in media.items() if name in accepted and value is not None}
    if "image_grid_thw" in given:
        grids, patches = given["image_grid_thw"], len(given["pixel_values"])
        # Grids of a whole conversation, whose last images alone are new.
        counted = grids.prod(-1).flip(0).cumsum(0).tolist()
        if counted and counted[-1] > patches and patches in counted:
            given["image_grid_thw"] = grids[-1 - counted.index(patches) :]
    outputs = base.get_image_features(**given, return_dict=True)
    tokens = [part.flatten(0, -2) for part in outputs.pooler_output]
    levels = getattr(outputs, "deepstack_features", None)
    if not levels or not has_deepstack(base):
        return VisualFeatures(tokens)
    return VisualFeatures(tokens, [torch.stack(parts, dim=1) for parts in zip(*levels, strict=True)])


def encode_frames(
    base: Any, media: dict[str, Any], num_frames: Sequence[int], chunk_size: int | None = None
) -> VisualFeatures:
    """Visual tokens of videos.

    Args:
        base: the base model of the image-LLM.
        media: what its image processor gave for all frames of all videos, one after the other.
        num_frames: frames of each video.
        chunk_size: frames that run through the tower at a time; all if `None`.

    Returns:
        One entry per video.

    Raises:
        ValueError: not one result per frame, or frames of a video differ in their number of tokens.
    """
    chunks = [encode_images(base, chunk) for chunk in split_frames(media, num_frames, chunk_size)]
    features = [part for chunk in chunks for part in chunk.tokens]
    levels = [part for chunk in chunks for part in chunk.deepstack or []]
    if len(features) != sum(num_frames):
        raise ValueError(
            f"{type(base).__name__}.get_image_features gave {len(features)} results for {sum(num_frames)} frames: "
            "switch tiles off in its image processor and keep the frames apart, as linvt_backbones.frame_inputs does."
            f"{_untried(base)}"
        )
    ends = torch.tensor([0, *num_frames]).cumsum(0).tolist()
    for number, (start, end) in enumerate(pairwise(ends)):
        lengths = sorted({len(frame) for frame in features[start:end]})
        if len(lengths) > 1:
            raise ValueError(
                f"{type(base).__name__}.get_image_features gave {lengths} tokens for frames of video {number}: all "
                f"frames of a video must be of one size, and give one view each.{_untried(base)}"
            )
    per_video = [slice(start, end) for start, end in pairwise(ends)]
    tokens = [torch.stack(features[part]) for part in per_video]
    return VisualFeatures(tokens, [torch.stack(levels[part]) for part in per_video] if levels else None)


def _untried(base: Any) -> str:
    """What may be the reason, in families that get their frames without options."""
    family = base.config.model_type
    return "" if family in FRAME_CALLS else f" LinVT has no row for {family!r} that would switch tiles off."


def special_embeddings(base: Any, input_ids: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Embeddings of ids that are no words but belong to an image; those of Ovis2, which stand around each.

    Args:
        base: the base model of the image-LLM.
        input_ids: `(batch, length)`.
        embeds: `(batch, length, width)`, of the words.

    Returns:
        As `embeds`.
    """
    if base.config.model_type != "ovis2":
        return embeds
    ids = torch.as_tensor(base.config.visual_indicator_token_ids, device=input_ids.device)
    table = base.visual_embeddings_table
    vectors = table(torch.arange(base.visual_vocab_size - len(ids), base.visual_vocab_size, device=input_ids.device))
    matches = input_ids.unsqueeze(-1) == ids
    return torch.where(matches.any(-1, keepdim=True), vectors.to(embeds)[matches.int().argmax(-1)], embeds)


def token_types(
    base: Any, media_mask: torch.Tensor, given: torch.Tensor | None, num_cached: int = 0
) -> dict[str, torch.Tensor]:
    """What the masks of the family are told of the tokens, under its own name; nothing in most families.

    Args:
        base: the base model of the image-LLM.
        media_mask: `(batch, length)` bool, placeholders of images and videos.
        given: `(batch, length)`, what came with the prompt under that name.
        num_cached: tokens before these, whose keys are in the cache.
    """
    rule = TYPE_RULES.get(base.config.model_type)
    if rule is None:
        return {}
    if rule.meaning == "media":
        # Processors also count what stands around an image (Molmo2: its first and last token, ends of rows).
        types = (media_mask if given is None else media_mask | (given > 0)).long()
    elif given is not None:
        types = given
    else:
        types = torch.zeros_like(media_mask, dtype=torch.long)
    # Masks look them up by the place among all keys.
    return {rule.argument: torch.nn.functional.pad(types, (num_cached, 0))}


def first_position(base: Any) -> int:
    """Where the positions of the family begin."""
    return 1 if base.config.model_type == "paligemma" else 0


def text_positions(attention_mask: torch.Tensor, length: int, first: int = 0) -> torch.Tensor:
    """Positions of the last `length` tokens, which count no padding: `(batch, length)`.

    Args:
        attention_mask: `(batch, all tokens so far)`.
        first: position of the first token.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:] + first


def prompt_positions(
    base: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_mask: torch.Tensor,
    media: dict[str, Any],
) -> torch.Tensor:
    """Positions of a prompt. The tokens of a video are mixtures without a place, so they count like words.

    Args:
        base: the base model of the image-LLM.
        input_ids: `(batch, length)`.
        attention_mask: `(batch, length)`.
        image_mask: `(batch, length)` bool, the placeholders of images.
        media: the images, as their processor gave them.

    Returns:
        `(batch, length)`; `(4, batch, length)` where positions are spatial, the first row as if they were not.
    """
    positions = text_positions(attention_mask, input_ids.shape[1], first_position(base))
    if not has_spatial_positions(base):
        return positions
    # Not from the model's own state (rope_deltas), which belongs to whatever prompt was run before.
    spatial, _ = base.get_rope_index(
        input_ids,
        mm_token_type_ids=image_mask.int(),
        image_grid_thw=media.get("image_grid_thw"),
        attention_mask=attention_mask,
    )
    return torch.cat([positions.unsqueeze(0), spatial])


__all__ = [
    "VisualFeatures",
    "check_backbone",
    "encode_frames",
    "encode_images",
    "first_position",
    "has_deepstack",
    "has_spatial_positions",
    "prompt_positions",
    "special_embeddings",
    "text_positions",
    "token_types",
    "watches_videos",
]
