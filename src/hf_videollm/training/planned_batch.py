"""A batch without values at the size of a paper, for a plan of a training whose data are not there."""

from __future__ import annotations

from typing import Any

import torch

from ..costs.memory import filter_bank_frames, make_inputs

__all__ = ["SOUND_SECONDS", "TEXT_TOKENS", "planned_batch", "planned_tokens"]

META = "meta"
# What is assumed of a sample if there are no data.
TEXT_TOKENS, SOUND_SECONDS = 256, 30


def planned_tokens(config: Any, media: str, num_frames: int) -> int:
    """Tokens of one sample: of its media, and of as much text as is assumed.

    Args:
        config: configuration of any design.
        media: `video`, `audio_visual`, `audio`, `image` or `text`.
        num_frames: of a video.
    """
    tokens = TEXT_TOKENS + config.num_prompt_tokens()
    if media in ("video", "audio_visual"):
        tokens += config.num_video_tokens(num_frames)
    if media in ("audio", "audio_visual"):
        tokens += config.num_audio_tokens(filter_bank_frames(SOUND_SECONDS))
    return tokens + (config.num_image_tokens() if media == "image" else 0)


def planned_batch(config: Any, media: str, num_frames: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A batch of one sample. Its media are on the meta device; half of the text is learned.

    Args:
        config: configuration of any design.
        media: as in `planned_tokens`.
        num_frames: of a video.
        dtype: type of frames and sounds.

    Raises:
        ValueError: the size of the frames is not in the configuration.
    """
    sound = filter_bank_frames(SOUND_SECONDS) if media in ("audio", "audio_visual") else None
    batch = make_inputs(config, dtype, num_frames, TEXT_TOKENS, sound)
    if media not in ("video", "audio_visual"):
        batch = _without_video(batch)
    frame = batch.pop("frame", None)
    if media == "image":
        image = torch.full((1, config.num_image_tokens()), config.image_token_id)
        batch["input_ids"] = torch.cat([image, batch["input_ids"]], dim=1)
        batch["mm_token_type_ids"] = torch.cat([torch.ones_like(image), batch["mm_token_type_ids"]], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        assert frame is not None
        batch["pixel_values"] = frame
    labels = torch.full_like(batch["input_ids"], -100)
    end = labels.shape[1] - config.num_prompt_tokens()
    labels[:, end - TEXT_TOKENS // 2 : end] = batch["input_ids"][:, end - TEXT_TOKENS // 2 : end]
    return {**batch, "labels": labels}


def _without_video(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch without its video, and one frame of it as `frame`."""
    kept = batch["mm_token_type_ids"][0] != 2
    words = ("input_ids", "attention_mask", "mm_token_type_ids")
    rest = {name: batch[name][:, kept] for name in words}
    sounds = {name: value for name, value in batch.items() if name.startswith("input_features")}
    frames = batch["pixel_values_videos"]
    return {**rest, **sounds, "frame": frames.flatten(0, frames.dim() - 4)[:1]}
