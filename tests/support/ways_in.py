"""Every way in which an option reaches the processor of a design, and what became of it there."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import AutoProcessor

import hf_videollm
from hf_videollm.training.collator import VideoDataCollator

BUNDLED = {
    "pllava": "pllava-tiny",
    "videollama2_av": "videollama2-av-tiny",
    "ftfv": "ftfv-tiny",
    "linvt": "linvt-tiny",
    "iva": "iva-tiny",
}
QUESTION = {"type": "text", "text": "What moves?"}
TENSORS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
Options = dict[str, Any]


@cache
def processor_of(design: str) -> Any:
    """The processor of a small model that comes with the package."""
    return AutoProcessor.from_pretrained(hf_videollm.default_checkpoint(BUNDLED[design]))


@cache
def pipeline_of(design: str) -> Any:
    """The pipeline of that model."""
    return hf_videollm.load_pipeline(BUNDLED[design], device="cpu")


def ask(*blocks: Options, question: Options = QUESTION) -> list[Options]:
    """A conversation of one message with these media."""
    return [{"role": "user", "content": [*blocks, question]}]


def chat_inputs(design: str, *blocks: Options, **options: Any) -> Any:
    """What the processor makes of a conversation with these media."""
    return processor_of(design).apply_chat_template(ask(*blocks), processor_kwargs=options, **TENSORS)


def _call(design: str, clip: str, options: Options) -> Any:
    processor = processor_of(design)
    questions = {"questions": [None]} if design == "linvt" else {}
    prompt = f"{processor.video_token} What moves?" + ("<iva_query>" if design == "iva" else "")
    return processor(text=prompt, videos=clip, return_tensors="pt", **questions, **options)


def _collate(design: str, block: Options, options: Options) -> Any:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    row = {"id": "a", "messages": [*ask(block), answer]}
    return VideoDataCollator(processor_of(design), processor_kwargs=options)([row])


def _pipeline(design: str, clip: str, options: Options) -> Any:
    pipe = pipeline_of(design)
    preprocess, _, _ = pipe._sanitize_parameters(**options)
    return pipe.preprocess({"videos": clip, "text": "What moves?"}, **preprocess)["row"]


def _video(clip: str, **options: Any) -> Options:
    return {"type": "video", "path": clip, **options}


# Options of a whole call.
OF_A_CALL: dict[str, Callable[[str, str, Options], Any]] = {
    "processor": _call,
    "videos_kwargs": lambda design, clip, options: _call(design, clip, {"videos_kwargs": options}),
    "template": lambda design, clip, options: processor_of(design).apply_chat_template(
        ask(_video(clip)), **TENSORS, **options
    ),
    "processor_kwargs": lambda design, clip, options: chat_inputs(design, _video(clip), **options),
    "video_processor": lambda design, clip, options: processor_of(design).video_processor(
        clip, return_tensors="pt", **options
    ),
    "pipeline": _pipeline,
    "collator": lambda design, clip, options: _collate(design, _video(clip), options),
}
# Options beside the name of a video.
OF_A_VIDEO: dict[str, Callable[[str, str, Options], Any]] = {
    "message": lambda design, clip, options: chat_inputs(design, _video(clip, **options)),
    "message to the collator": lambda design, clip, options: _collate(design, _video(clip, **options), {}),
    "message to the pipeline": lambda design, clip, options: pipeline_of(design).preprocess(
        {"messages": ask(_video(clip, **options))}
    )["row"],
    "video_options": lambda design, clip, options: _call(design, clip, {"video_options": [options]}),
}


def is_same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors."""
    tensors = [
        {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)} for batch in (one, other)
    ]
    return tensors[0].keys() == tensors[1].keys() and all(
        tensors[0][key].shape == tensors[1][key].shape and torch.equal(tensors[0][key], tensors[1][key])
        for key in tensors[0]
    )


def outcome(way: Callable[[str, str, Options], Any], design: str, clip: str, options: Options) -> str:
    """`"changed"`, `"ignored"`, or the error about the options."""
    try:
        found = way(design, clip, options)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "ignored" if is_same(found, way(design, clip, {})) else "changed"
