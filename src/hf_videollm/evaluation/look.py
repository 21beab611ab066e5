"""What a model looked at: which patches and frames of a video a design chooses or attends to for a question.

- LinVT (paper, Figures 4 and 5): the tokens that its scorer keeps, and the weight of each token in the vectors that the
  language model reads.
- IVA: the attention of its adapter over frames and patches (Eq. 3 and 4). What a query reads is a weighted mean over
  all patches of all frames; the weight of a patch is that of its frame times that within the frame.
- FTFV: the patches at which the kept queries of a frame have their peaks (Eq. 2), and their mean attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models.configuration_video_llm import patch_grid
from ..models.iva_adapter import IvaInteractor
from ..models.modeling_ftfv import attention_peaks, choose_queries
from .asking import Ask, Asker, Inputs
from .engines import make_engine
from .items import Item, Medium
from .prompting import Prompt
from .run_options import RunOptions

__all__ = ["DESIGNS", "Look", "Seen", "check_design", "look_at"]

# Image-LLMs whose tokens of a frame lie in a grid of places, row by row. Tokens of others (resamplers) have no place.
IN_PLACE = ("llava", "vipllava", "internvl")


@dataclass(frozen=True)
class Seen:
    """What a design says of one video.

    Attributes:
        meaning: what the colours and bars mean, in one sentence.
        frames: `(T,)`, one number for each frame; they sum to 1.
        patches: `(T, rows, columns)`, the weight of each patch; None where tokens have no place.
        chosen: `(T, rows, columns)` bool, the patches that were chosen; None where nothing is chosen.
    """

    meaning: str
    frames: np.ndarray
    patches: np.ndarray | None = None
    chosen: np.ndarray | None = None


@dataclass(frozen=True)
class Look:
    """A question, its answer, and what was looked at.

    Attributes:
        question: as it was asked.
        answer: of the model.
        seen: where it looked.
        pictures: `(T, height, width, 3)` uint8, the frames as the vision tower got them.
        numbers: of the frames in the video.
        seconds: of the frames; None without a clock.
    """

    question: str
    answer: str
    seen: Seen
    pictures: np.ndarray
    numbers: tuple[int, ...]
    seconds: tuple[float, ...] | None = field(default=None)


def check_design(model: Any) -> None:
    """Refuse a design that chooses nothing.

    Raises:
        ValueError: the message names the designs that can be looked into.
    """
    if model.config.model_type not in DESIGNS:
        raise ValueError(
            f"{type(model).__name__} chooses no patches, so there is nothing to look at: take a model of one of "
            f"{', '.join(DESIGNS)}."
        )


@torch.inference_mode()
def look_at(
    pipe: Any,
    video: str | Path,
    question: str,
    *,
    start: float | None = None,
    end: float | None = None,
    processor_options: Mapping[str, Any] | None = None,
    max_new_tokens: int = 64,
) -> Look:
    """Ask a question about a video, and see where the model looks.

    Args:
        pipe: from `load_pipeline`.
        video: file or folder of frames.
        question: on the video.
        start: second where the clip begins.
        end: second where it ends.
        processor_options: e.g. `{"num_frames": 16}`.
        max_new_tokens: longest answer.

    Raises:
        ValueError: the design chooses nothing, or its frames cannot be shown.
        MediaError: the video cannot be read.

    Example:
        >>> look_at(load_pipeline("./linvt-1b"), "clip.mp4", "What moves?").seen.frames   # doctest: +SKIP
    """
    model = pipe.model
    check_design(model)
    options = RunOptions(
        batch_size=1,
        processor_options=processor_options or {},
        generate_options={"do_sample": False, "max_new_tokens": max_new_tokens},
    )
    item = Item("look", (Medium(Path(video), start=start, end=end),), (question,))
    asker = Asker(pipe.processor, model.dtype, options.processor_options)
    inputs = asker.inputs(Ask(item, 0, Prompt(question)))
    pictures = _pictures(pipe.processor, inputs)
    seen = DESIGNS[model.config.model_type](model, _arguments(model, inputs, options))
    (outcome,) = make_engine(model, pipe.processor, options).outcomes([inputs])
    if outcome.error is not None:
        raise outcome.error
    (fact,) = inputs.media
    numbers, fps = tuple(fact["frames"]), fact["fps"]
    seconds = tuple(number / fps for number in numbers) if fps else None
    return Look(question, outcome.answer.strip(), seen, pictures, numbers, seconds)


def _arguments(model: Any, inputs: Inputs, options: RunOptions) -> dict[str, Any]:
    """Arguments of a forward."""
    shared = model.base_model.media_options
    given = {name: value for name, value in options.processor_options.items() if name in shared}
    row = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in inputs.row.items()}
    return {**row, **given}


def _pictures(processor: Any, inputs: Inputs) -> np.ndarray:
    """The frames as the vision tower gets them, with their colours as they were.

    Raises:
        ValueError: the image processor cuts frames into patches, of which no picture can be made.
    """
    pixels = inputs.row["pixel_values_videos"]
    # LinVT's frames go through the image processor of its image-LLM, and are not split by video.
    maker = processor.video_processor if pixels.ndim == 5 else processor.image_processor
    frames = pixels[0] if pixels.ndim == 5 else pixels
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(
            f"{type(maker).__name__} cuts frames into patches (shape {tuple(pixels.shape)}), of which no picture is "
            f"made: look draws frames before LinVT with {', '.join(IN_PLACE)}, IVA and FTFV."
        )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (maker.image_mean, maker.image_std))
    shown = frames.float().cpu() * std + mean if maker.do_normalize else frames.float().cpu()
    return (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _see_linvt(model: Any, arguments: Mapping[str, Any]) -> Seen:
    calls: list[dict[str, Any]] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("selection") is not None:
            calls.append(dict(kwargs))

    base = model.base_model
    with _hook(base.linvt.register_forward_pre_hook(keep, with_kwargs=True)):
        model(**arguments)
    selection = calls[0]["selection"]
    _, weights = base.linvt(**{**calls[0], "return_map": True})
    num_frames, num_tokens = selection.scores.shape[1:]
    mean = weights[0].mean(0).view(num_frames, num_tokens).float().cpu().numpy()
    kept = np.zeros(num_frames * num_tokens, dtype=bool)
    kept[selection.indices[0][selection.mask[0]].cpu().numpy()] = True
    side = round(num_tokens**0.5)
    family = model.config.backbone_config.model_type
    meaning = "Red: patches of the tokens that LinVT's scorer keeps. Heat and bars: their weight in what the LLM reads."
    if family not in IN_PLACE or side * side != num_tokens:
        return Seen("Bars: weight of each frame's tokens in what the LLM reads; they have no place.", mean.sum(1))
    shape = (num_frames, side, side)
    return Seen(meaning, mean.sum(1), mean.reshape(shape), kept.reshape(shape))


def _see_iva(model: Any, arguments: Mapping[str, Any]) -> Seen:
    inside: list[torch.Tensor] = []

    def keep(module: Any, args: Any) -> None:
        inside.append(module.patch_weights(*args))

    record: list[Any] = []
    interactors = [module for module in model.modules() if isinstance(module, IvaInteractor)]
    with _hook(*(module.register_forward_pre_hook(keep) for module in interactors)):
        model.base_model(**arguments, record=record)
    if not record:
        raise ValueError("This model has no adapter (num_insertions is 0), and so no attention over frames.")
    of_frames = [layer for call in record[0].selections for layer in call]
    valid = record[0].valid[0]
    # Layer after layer, both lists are in the order of the calls.
    parts = [
        torch.einsum("qt,qp->tp", frames[0, valid].float(), patches[0, valid].float()) / int(valid.sum())
        for frames, patches in zip(of_frames, inside, strict=True)
    ]
    mean = torch.stack(parts).mean(0).cpu().numpy()
    meaning = "Heat and bars: mean attention of IVA's adapter over patches and frames, over its layers and queries."
    return Seen(meaning, mean.sum(1), mean.reshape(len(mean), *patch_grid(model.config.vision_config)))


def _see_ftfv(model: Any, arguments: Mapping[str, Any]) -> Seen:
    calls: list[tuple[Any, ...]] = []

    def keep(module: Any, args: tuple[Any, ...]) -> None:
        calls.append(args)

    attention = model.base_model.connector.attn
    with _hook(attention.register_forward_pre_hook(keep)):
        model(**arguments)
    # Frames may come in several chunks.
    weights = torch.cat([attention.attention_weights(query, key) for query, key, *_ in calls])
    num_kept = calls[0][3]
    peaks = attention_peaks(weights, model.config.attention_score_reduction)
    kept = choose_queries(peaks, num_kept, "query")
    heads = weights.mean(1) if model.config.attention_score_reduction == "mean" else weights.amax(1)
    num_frames, _, num_patches = heads.shape
    places = heads.argmax(-1).gather(1, kept)
    chosen = torch.zeros(num_frames, num_patches, dtype=torch.bool, device=places.device).scatter_(1, places, True)
    mean = weights.mean(1).gather(1, kept.unsqueeze(-1).expand(-1, -1, num_patches)).mean(1) / num_frames
    scores = peaks.gather(1, kept).mean(1)
    side = round(num_patches**0.5)
    shape = (num_frames, side, side)
    return Seen(
        f"Red: where the {num_kept} kept queries of a frame peak. Heat: their mean attention. Bars: mean peak.",
        (scores / scores.sum()).cpu().numpy(),
        mean.cpu().numpy().reshape(shape),
        chosen.cpu().numpy().reshape(shape),
    )


# Type of model -> how its choice is read.
DESIGNS: dict[str, Callable[[Any, Mapping[str, Any]], Seen]] = {
    "linvt": _see_linvt,
    "iva": _see_iva,
    "ftfv": _see_ftfv,
}


@contextmanager
def _hook(*handles: Any) -> Iterator[None]:
    """Remove hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
