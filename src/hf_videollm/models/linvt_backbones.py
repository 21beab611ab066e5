"""What image-LLMs of transformers share, and where they differ, as far as LinVT has to know.

All that LinVT asks of one is its base model: `get_image_features` for the frames, `get_input_embeddings`, and a forward
from `inputs_embeds` with positions. The families differ in how their image processor wants frames (`frame_inputs`), in
the form in which features come out (`encode_images`), and in positions (`prompt_positions`).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class FrameCall:
    """How the image processor of a family gives one image per frame.

    Args:
        layout: `"flat"`, all frames in one list; `"videos"`, one list per video; `"frames"`, one list per frame.
        options: switch off tiles.
    """

    layout: Literal["flat", "videos", "frames"] = "flat"
    options: dict[str, Any] = field(default_factory=dict)


# Families that are not here take a flat list.
FRAME_CALLS: dict[str, FrameCall] = {
    "internvl": FrameCall(options={"crop_to_patches": False}),
    "aya_vision": FrameCall(options={"crop_to_patches": False}),
    "perception_lm": FrameCall(options={"vision_input_type": "vanilla"}),
    # Several images of one prompt are not cut up; a single one is, so that a video of one frame has more tokens.
    "llava_onevision": FrameCall("videos"),
    # A flat list would be one prompt, and its features would come back without borders between the frames.
    "smolvlm": FrameCall("frames", {"do_image_splitting": False}),
    "idefics3": FrameCall("frames", {"do_image_splitting": False}),
    "lfm2_vl": FrameCall(options={"do_image_splitting": False}),
}

# Model type -> what LinVT would do wrong.
REFUSED: dict[str, str] = {
    "molmo2": "it adds image features to placeholder embeddings, types them in its masks, and cuts every image up",
    "gemma3": "its masks let the tokens of an image see each other",
    "paligemma": "its masks let the prompt see itself in both directions",
    "gemma3n": "its layers read further embeddings of the ids",
    "qwen3_vl": "its tower also feeds deeper layers of the language model (deepstack)",
    "qwen3_vl_moe": "its tower also feeds deeper layers of the language model (deepstack)",
    "ovis2": "it writes visual indicator tokens beside the features of an image",
}


def check_backbone(base: Any) -> None:
    """Refuse image-LLMs that would run, but not as they should.

    Args:
        base: the base model of the image-LLM, without its head.

    Raises:
        ValueError: with the class and the reason.
    """
    name, model_type = type(base).__name__, base.config.model_type
    if not hasattr(base, "get_image_features"):
        raise ValueError(
            f"{name} has no get_image_features, so LinVT cannot get the tokens of frames: take an image-LLM that has "
            "one (llava, llava_onevision, internvl, qwen2_vl, ...)."
        )
    reason = REFUSED.get(model_type)
    accepted = inspect.signature(base.forward).parameters
    if reason is None and not has_spatial_positions(base):
        typed = {"token_type_ids", "mm_token_type_ids"} & accepted.keys()
        reason = f"its forward wants {', '.join(sorted(typed))}, of which LinVT knows no rule" if typed else None
    if reason is None and "inputs_embeds" not in accepted:
        reason = "its forward takes no inputs_embeds"
    if reason is not None:
        raise ValueError(
            f"LinVT does not support {name} yet: {reason}. Take another image-LLM (llava, llava_onevision, internvl, "
            "qwen2_vl, ...)."
        )


def has_spatial_positions(base: Any) -> bool:
    """Whether tokens have a time, a height and a width (M-RoPE, as in Qwen2-VL) instead of one position."""
    return hasattr(base, "get_rope_index")


def frame_inputs(image_processor: Any, model_type: str, videos: Sequence[Sequence[Any]]) -> dict[str, torch.Tensor]:
    """Run an image-LLM's image processor over the frames of videos.

    Args:
        image_processor: that of the image-LLM.
        model_type: of the image-LLM's configuration.
        videos: frames of each, as the image processor takes images.

    Returns:
        What the image processor gives for all frames one after the other, each name with `_videos` behind it, and
        `num_video_frames`, `(videos,)` int64.
    """
    call = FRAME_CALLS.get(model_type, FrameCall())
    if call.layout == "videos":
        images: list[Any] = [list(video) for video in videos]
    else:
        images = [[frame] if call.layout == "frames" else frame for video in videos for frame in video]
    outputs = image_processor(images, return_tensors="pt", **call.options)
    named = {f"{name}_videos": value for name, value in outputs.items()}
    return {**named, "num_video_frames": torch.tensor([len(video) for video in videos])}


def encode_images(base: Any, media: dict[str, Any]) -> list[torch.Tensor]:
    """Visual tokens as the language model is fed them, whatever form the family gives them.

    Args:
        base: the base model of the image-LLM.
        media: what its image processor gave; what `get_image_features` does not take is left aside.

    Returns:
        One `(tokens, hidden_size)` tensor per image. Where tiles or prompts count as images, per tile or prompt.
    """
    accepted = inspect.signature(base.get_image_features).parameters
    given = {name: value for name, value in media.items() if name in accepted and value is not None}
    features = base.get_image_features(**given, return_dict=True).pooler_output
    return [part.flatten(0, -2) for part in features]


def encode_frames(base: Any, media: dict[str, Any], num_frames: Sequence[int]) -> list[torch.Tensor]:
    """Visual tokens of videos.

    Args:
        base: the base model of the image-LLM.
        media: what its image processor gave for all frames of all videos, one after the other.
        num_frames: frames of each video.

    Returns:
        One `(frames, tokens, hidden_size)` tensor per video.

    Raises:
        ValueError: not one result per frame, or frames of a video differ in their number of tokens.
    """
    features = encode_images(base, media)
    if len(features) != sum(num_frames):
        raise ValueError(
            f"{type(base).__name__}.get_image_features gave {len(features)} results for {sum(num_frames)} frames: "
            "switch tiles off in its image processor and keep the frames apart, as linvt_backbones.frame_inputs does."
        )
    videos = []
    for number, start in enumerate(torch.tensor([0, *num_frames]).cumsum(0).tolist()[:-1]):
        frames = features[start : start + num_frames[number]]
        lengths = sorted({len(frame) for frame in frames})
        if len(lengths) > 1:
            raise ValueError(
                f"{type(base).__name__}.get_image_features gave {lengths} tokens for frames of video {number}: all "
                "frames of a video must be of one size."
            )
        videos.append(torch.stack(frames))
    return videos


def text_positions(attention_mask: torch.Tensor, length: int) -> torch.Tensor:
    """Positions of the last `length` tokens, which count no padding: `(batch, length)`.

    Args:
        attention_mask: `(batch, all tokens so far)`.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


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
    positions = text_positions(attention_mask, input_ids.shape[1])
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
    "FRAME_CALLS",
    "REFUSED",
    "FrameCall",
    "check_backbone",
    "encode_frames",
    "encode_images",
    "frame_inputs",
    "has_spatial_positions",
    "prompt_positions",
    "text_positions",
]
