"""What LinVT uses of an image-LLM of transformers, the same for every family.

LinVT uses only the base model of an image-LLM, without its head: `get_image_features` for the frames,
`get_input_embeddings`, and a forward from `inputs_embeds` with positions. The families differ in the form of the
features that they return, in how they count positions, and in the token types that their attention masks need.
`Backbone` hides these differences; `linvt_families.py` lists them.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from .linvt_families import (
    ADDED_FEATURES,
    EXAMPLES,
    FRAME_CALLS,
    LAYER_FAMILIES,
    REFUSED,
    SQUARE_IMAGES,
    TYPE_RULES,
    UNUSED_PARTS,
    TypeRule,
)
from .linvt_frames import split_frames
from .linvt_tower import make_tower_stoppable, used_layers
from .media_blank import blank_frames
from .video_llm_chunks import RowJoiner
from .video_llm_vision_tower import freeze_unused_layers


class VisualFeatures(NamedTuple):
    """Visual tokens of images, `(tokens, hidden_size)` each, or of videos, `(frames, tokens, hidden_size)` each.

    Args:
        tokens: what the first layer of the language model reads.
        deepstack: what deeper layers of the language model read for the same tokens. The axis before the last one
            counts these layers (levels). `None` in families whose tower does not feed deeper layers.
    """

    tokens: list[torch.Tensor]
    deepstack: list[torch.Tensor] | None = None


class Backbone:
    """The base model of an image-LLM of any family. It stores only the model, so callers may create it at every use."""

    def __init__(self, model: Any) -> None:
        """Args:
        model: the image-LLM without its head.
        """
        self.model = model

    @property
    def family(self) -> str:
        """The `model_type` of the image-LLM, which is the key in the tables of `linvt_families.py`."""
        family: str = self.model.config.model_type
        return family

    @property
    def type_rule(self) -> TypeRule | None:
        """The token types that the attention masks need; `None` in families whose masks are only causal."""
        return TYPE_RULES.get(self.family)

    @property
    def splits_prompt_from_answer(self) -> bool:
        """Whether prompt tokens attend in both directions, and answer tokens only to earlier tokens (PaliGemma)."""
        return self.type_rule is not None and self.type_rule.meaning == "prefix"

    @property
    def adds_features(self) -> bool:
        """Whether features are added to the embedding of the placeholder, instead of replacing it (Molmo2)."""
        return self.family in ADDED_FEATURES

    @property
    def has_spatial_positions(self) -> bool:
        """Whether a position is a time, a row and a column (M-RoPE of Qwen2-VL) instead of one number."""
        return hasattr(self.model, "get_rope_index")

    @property
    def has_deepstack(self) -> bool:
        """Whether the tower also feeds deeper layers of the language model, through the arguments of Qwen3-VL."""
        return {"visual_pos_masks", "deepstack_visual_embeds"} <= self._language_arguments()

    @property
    def first_position(self) -> int:
        """The position of the first token of a prompt."""
        return 1 if self.family == "paligemma" else 0

    def _language_arguments(self) -> set[str]:
        language_model = getattr(self.model, "language_model", None)
        return set() if language_model is None else set(inspect.signature(language_model.forward).parameters)

    def check(self) -> None:
        """Refuse image-LLMs that would run with LinVT, but would give wrong results.

        Raises:
            ValueError: names the class and the reason.
        """
        name = type(self.model).__name__
        if watches_videos(self.model.config):
            raise ValueError(f"{name} is a video-LLM already: load it as it is, or take an image-LLM ({EXAMPLES}).")
        if not hasattr(self.model, "get_image_features"):
            raise ValueError(
                f"{name} has no get_image_features, so LinVT cannot get the tokens of frames: take an image-LLM that "
                f"has one ({EXAMPLES})."
            )
        if (reason := self._why_refused()) is not None:
            raise ValueError(f"LinVT does not support {name} yet: {reason}. Take another image-LLM ({EXAMPLES}).")

    def _why_refused(self) -> str | None:
        if self.family in REFUSED:
            return REFUSED[self.family]
        accepted = inspect.signature(self.model.forward).parameters
        types = {"token_type_ids", "mm_token_type_ids"} & accepted.keys()
        if types and self.type_rule is None and not self.has_spatial_positions:
            return f"its forward takes {', '.join(sorted(types))}, and LinVT does not know which types it needs"
        if getattr(self.model.config, "is_encoder_decoder", False):
            return "its images go into an encoder, but LinVT puts vectors into the prompt of a decoder"
        if "inputs_embeds" not in accepted:
            return "its forward takes no inputs_embeds"
        if any("deepstack" in name for name in self._language_arguments()) and not self.has_deepstack:
            return "its tower also feeds deeper layers of the language model, in a way that LinVT does not know"
        return None

    def freeze_unused_parts(self) -> None:
        """Freeze the parts that are not used to encode images or videos, and let the tower stop before them."""
        for name in UNUSED_PARTS.get(self.family, ()):
            getattr(self.model, name).requires_grad_(False)
        if (tower := getattr(self.model, "vision_tower", None)) is None:
            return
        if self.family not in LAYER_FAMILIES:
            freeze_unused_layers(tower, None, uses_closing_norm=True)
            return
        layer = self._feature_layer()
        # If InternVL is configured to use layer -1, it uses the output of the tower, after the tower's last norm.
        freeze_unused_layers(tower, layer, uses_closing_norm=self.family == "internvl" and layer == -1)
        make_tower_stoppable(tower)

    def _feature_layer(self) -> Any:
        """The hidden state(s) of the tower that one of `LAYER_FAMILIES` uses."""
        config = self.model.config
        return getattr(config, "vision_feature_layers", None) or config.vision_feature_layer

    def _used_layers(self) -> AbstractContextManager[Any]:
        """A context in which the tower runs only the layers that are used."""
        is_chosen = self.family in LAYER_FAMILIES and hasattr(self.model, "vision_tower")
        return used_layers(self.model.vision_tower, self._feature_layer()) if is_chosen else nullcontext()

    def blank_image(self, device: torch.device) -> dict[str, torch.Tensor] | None:
        """What the image processor returns for an image of zeros; `None` if that is not known for this family."""
        vision: Any = getattr(self.model.config, "vision_config", None)
        if self.family in SQUARE_IMAGES:
            return {"pixel_values": blank_frames(vision, device)}
        if self.has_spatial_positions and hasattr(vision, "spatial_merge_size"):
            side = vision.spatial_merge_size
            channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
            width = channels * vision.temporal_patch_size * vision.patch_size**2
            grid = torch.tensor([[1, side, side]], device=device)
            return {"pixel_values": torch.zeros(side * side, width, device=device), "image_grid_thw": grid}
        return None

    def takes_with_images(self, name: str) -> bool:
        """Whether `name` is one of the inputs that an image processor makes."""
        accepted = inspect.signature(self.model.get_image_features).parameters
        return name in accepted or name.startswith(("pixel_", "image_"))

    def encode_images(self, media: dict[str, Any]) -> VisualFeatures:
        """Visual tokens of images, in the same form for all families.

        Args:
            media: what the image processor returned. Entries that `get_image_features` does not take are skipped.
                `image_grid_thw` may begin with the grids of earlier images.

        Returns:
            One entry per image. In families that return one result per tile or per prompt, one entry for each of those.
        """
        accepted = inspect.signature(self.model.get_image_features).parameters
        inputs = {name: value for name, value in media.items() if name in accepted and value is not None}
        if "image_grid_thw" in inputs:
            inputs["image_grid_thw"] = _last_grids(inputs["image_grid_thw"], len(inputs["pixel_values"]))
        with self._used_layers():
            outputs = self.model.get_image_features(**inputs, return_dict=True)
        tokens = [part.flatten(0, -2) for part in outputs.pooler_output]
        levels = getattr(outputs, "deepstack_features", None)
        if not levels or not self.has_deepstack:
            return VisualFeatures(tokens)
        return VisualFeatures(tokens, [torch.stack(parts, dim=1) for parts in zip(*levels, strict=True)])

    def encode_frames(
        self, media: dict[str, Any], num_frames: Sequence[int], chunk_size: int | None = None
    ) -> VisualFeatures:
        """Visual tokens of videos.

        Args:
            media: what the image processor returned for all frames of all videos, one after the other.
            num_frames: frames of each video.
            chunk_size: frames that run through the tower at a time; all if `None`.

        Returns:
            One entry per video.

        Raises:
            ValueError: the number of results is not the number of frames, or the frames of a video differ in their
                number of tokens.
        """
        joiner = _VideoJoiner(num_frames)
        for chunk in split_frames(media, num_frames, chunk_size):
            joiner.add(self.encode_images(chunk))
        self._check_frames(joiner.num_results, joiner.lengths, sum(num_frames))
        return joiner.result()

    def _check_frames(self, num_results: int, lengths_of_videos: list[set[int]], num_frames: int) -> None:
        """Check that there is one result per frame, and that the frames of each video have equally many tokens."""
        method = f"{type(self.model).__name__}.get_image_features"
        # For a family that is not in the table, LinVT knows no option of its image processor that switches tiles off.
        known = self.family in FRAME_CALLS
        untried = "" if known else f" LinVT has no row for {self.family!r} in linvt_families.FRAME_CALLS."
        if num_results != num_frames:
            raise ValueError(
                f"{method} gave {num_results} results for {num_frames} frames: switch tiles off in its image processor "
                f"and keep the frames apart, as linvt_frames.frame_inputs does.{untried}"
            )
        for number, lengths in enumerate(lengths_of_videos):
            if len(lengths) > 1:
                raise ValueError(
                    f"{method} gave {sorted(lengths)} tokens for frames of video {number}: all frames of a video must "
                    f"be of one size, and give one view each.{untried}"
                )

    def embed_indicators(self, input_ids: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Embed the indicator tokens that Ovis2 writes around each image, from Ovis2's separate table of embeddings.

        Args:
            input_ids: `(batch, length)`.
            embeds: `(batch, length, width)`, from the table of the language model.

        Returns:
            As `embeds`, unchanged in other families.
        """
        if self.family != "ovis2":
            return embeds
        ids = torch.as_tensor(self.model.config.visual_indicator_token_ids, device=input_ids.device)
        end = self.model.visual_vocab_size
        vectors = self.model.visual_embeddings_table(torch.arange(end - len(ids), end, device=input_ids.device))
        matches = input_ids.unsqueeze(-1) == ids
        return torch.where(matches.any(-1, keepdim=True), vectors.to(embeds)[matches.int().argmax(-1)], embeds)

    def token_types(
        self, media_mask: torch.Tensor, known_types: torch.Tensor | None, num_cached: int = 0
    ) -> dict[str, torch.Tensor]:
        """Token types for the attention masks; empty in most families.

        Args:
            media_mask: `(batch, length)` bool, placeholders of images and videos.
            known_types: `(batch, length)`, the types that the caller passed for the same argument.
            num_cached: number of tokens before these, whose keys are in the cache.

        Returns:
            A dict from the name of the argument in the family's forward to the types, `(batch, all tokens so far)`.
        """
        rule = self.type_rule
        if rule is None:
            return {}
        if rule.meaning == "media":
            # Processors also give type 1 to the tokens around an image. (In Molmo2, these stand at the beginning and at
            # the end of an image, and at the end of each of its rows.)
            types = (media_mask if known_types is None else media_mask | (known_types > 0)).long()
        elif known_types is not None:
            types = known_types
        else:
            types = torch.zeros_like(media_mask, dtype=torch.long)
        # Attention masks look up the type of each key by its position, and cached keys come first.
        return {rule.argument: torch.nn.functional.pad(types, (num_cached, 0))}

    def prompt_positions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_mask: torch.Tensor,
        media: dict[str, Any],
    ) -> torch.Tensor:
        """Positions of a prompt. A vector of a video mixes tokens of all frames, so it takes one position like a word.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: `(batch, length)`.
            image_mask: `(batch, length)` bool, the placeholders of images.
            media: what the image processor returned for the images.

        Returns:
            `(batch, length)`. With spatial positions `(4, batch, length)`: first the position counted as in a text, in
            which each placeholder counts as one token, and then time, row and column.
        """
        positions = text_positions(attention_mask, input_ids.shape[1], self.first_position)
        if not self.has_spatial_positions:
            return positions
        # The state that the model stores (rope_deltas) is not used, because it belongs to the previous prompt.
        spatial, _ = self.model.get_rope_index(
            input_ids,
            mm_token_type_ids=image_mask.int(),
            image_grid_thw=media.get("image_grid_thw"),
            attention_mask=attention_mask,
        )
        return torch.cat([positions.unsqueeze(0), spatial])

    def run(self, deepstack_embeds: torch.Tensor | None = None, **inputs: Any) -> Any:
        """Run the forward of the image-LLM; with `deepstack_embeds`, run the forward of its language model instead.

        Args:
            deepstack_embeds: `(batch, length, levels, width)`, what deeper layers add to the states of each position.
            inputs: arguments of the forward.
        """
        if deepstack_embeds is None:
            return self.model(**inputs)
        # The image-LLM's own forward computes `deepstack_visual_embeds` from images, and has no argument for it.
        all_positions = torch.ones(deepstack_embeds.shape[:2], dtype=torch.bool, device=deepstack_embeds.device)
        levels = [level.flatten(0, 1) for level in deepstack_embeds.unbind(2)]
        return self.model.language_model(**inputs, visual_pos_masks=all_positions, deepstack_visual_embeds=levels)


class _VideoJoiner:
    """Joins the features of frames, which come in chunks, to those of videos; each is in memory once.

    Args:
        num_frames: frames of each video.
    """

    def __init__(self, num_frames: Sequence[int]) -> None:
        self.num_results = 0
        self.lengths: list[set[int]] = [set() for _ in num_frames]
        self._owners = [number for number, count in enumerate(num_frames) for _ in range(count)]
        self._tokens, self._levels = ([RowJoiner(count) for count in num_frames] for _ in range(2))

    def add(self, features: VisualFeatures) -> None:
        """Add the features of the next frames. Those of a video must all have the same number of tokens (`lengths`)."""
        for index, frame in enumerate(features.tokens):
            if self.num_results < len(self._owners):
                number = self._owners[self.num_results]
                self.lengths[number].add(len(frame))
                if len(self.lengths[number]) == 1:
                    self._tokens[number].add(frame.unsqueeze(0))
                    if features.deepstack is not None:
                        self._levels[number].add(features.deepstack[index].unsqueeze(0))
            self.num_results += 1

    def result(self) -> VisualFeatures:
        """One entry per video."""
        tokens = [joiner.result() for joiner in self._tokens]
        has_levels = any(joiner.num_added for joiner in self._levels)
        return VisualFeatures(tokens, [joiner.result() for joiner in self._levels] if has_levels else None)


def watches_videos(config: Any) -> bool:
    """Whether a configuration is one of this package's designs, LinVT among them."""
    return hasattr(config, "num_video_tokens")


def text_positions(attention_mask: torch.Tensor, length: int, first: int = 0) -> torch.Tensor:
    """Positions of the last `length` tokens, `(batch, length)`; padding is not counted.

    Args:
        attention_mask: `(batch, number of all tokens so far)`.
        first: position of the first token.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:] + first


def _last_grids(grids: torch.Tensor, num_patches: int) -> torch.Tensor:
    """The grids of the last images, which are those whose patches were passed.

    A call that continues a conversation from a cache passes the grids of all images, but only the patches of new ones.

    Args:
        grids: `(images, 3)`, patches along time, height and width.
        num_patches: number of patches that were passed, for all new images together.
    """
    # The entries are the number of patches of the last image, of the last two images, and so on.
    counted = grids.prod(-1).flip(0).cumsum(0).tolist()
    if counted and counted[-1] > num_patches and num_patches in counted:
        return grids[-1 - counted.index(num_patches) :]
    return grids


__all__ = ["Backbone", "VisualFeatures", "text_positions", "watches_videos"]
