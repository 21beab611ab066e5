"""Memory of a checkpoint while it answers: as `hf-videollm info` predicts it, and as it is measured."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_memory import give_back, memory_of_process
from transformers import AutoModelForImageTextToText

from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.live_bytes import LiveBytes, unique_bytes
from hf_videollm.costs.memory import DTYPES, MemoryPrediction, make_inputs

NEW_TOKENS = 4


def load(source: str | os.PathLike[str], device: str, **options: Any) -> Any:
    """A model on one device, ready to answer."""
    return AutoModelForImageTextToText.from_pretrained(source, device_map={"": device}, **options).eval()


def predict(folder: str | os.PathLike[str]) -> MemoryPrediction:
    """What `hf-videollm info` says: the design's default frames, up to 30 seconds of sound, 256 tokens of text.

    Raises:
        ValueError: the memory cannot be predicted; the message says why.
    """
    facts = describe_checkpoint(folder)
    if facts.memory is None:
        raise ValueError(f"The memory of {folder} cannot be predicted: {' '.join(facts.notes)}")
    return facts.memory


def inputs_of_prediction(model: Any, predicted: MemoryPrediction) -> dict[str, torch.Tensor]:
    """The inputs of the prediction, with random values, on the device of the model."""
    config = model.config
    dtype, sound = DTYPES[predicted.dtype], predicted.sound_frames
    inputs = make_inputs(config, dtype, predicted.num_frames, predicted.text_tokens, sound)
    filled = {name: torch.randn_like(value, device="cpu") if value.is_meta else value for name, value in inputs.items()}
    return {name: value.to(model.device) for name, value in filled.items()}


@torch.inference_mode()
def answer(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Generate a few tokens."""
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def stored_tensors(model: Any) -> Iterator[torch.Tensor]:
    """The tensors that a model keeps, also those inside quantized weights of bitsandbytes and torchao."""
    for value in (*model.parameters(), *model.buffers()):
        yield from parts_of(value.data if isinstance(value, torch.nn.Parameter) else value)
        state = getattr(value, "quant_state", None)
        if state is not None:
            yield from (part for part in state.as_dict(packed=False).values() if isinstance(part, torch.Tensor))
        if isinstance(scale := getattr(value, "SCB", None), torch.Tensor):
            yield scale


def parts_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a tensor of a class of its own consists of; a plain tensor itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from parts_of(getattr(tensor, name))


def live_peak(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes of all tensors at the fullest moment of the prompt: weights, inputs and what is computed from them."""
    known = [*stored_tensors(model), *inputs.values()]
    with torch.no_grad(), LiveBytes(model.device.type, known) as counter:
        model(**inputs, logits_to_keep=1, use_cache=True)
    return unique_bytes(known) + counter.peak


def memory_on_cpu(folder: str | os.PathLike[str]) -> dict[str, float]:
    """Predicted and measured memory of a checkpoint, in MB (Linux). Call it in a process of its own.

    The model is loaded and answers once before, so that what libraries keep for themselves is not counted.
    """
    predicted = predict(folder)
    warm = load(folder, "cpu")
    answer(warm, inputs_of_prediction(warm, predicted))
    live = live_peak(warm, inputs_of_prediction(warm, predicted))
    del warm
    give_back()
    before = memory_of_process("VmRSS")
    model = load(folder, "cpu")
    loading = memory_of_process("VmHWM") - before
    inputs = inputs_of_prediction(model, predicted)
    give_back()
    answer(model, inputs)
    peak = memory_of_process("VmHWM") - before
    return {**summary(predicted, live, peak), "mb_loading": in_mb(loading)}


def memory_on_gpu(folder: str | os.PathLike[str], device: str) -> dict[str, float]:
    """Predicted and measured memory of a checkpoint on a GPU, in MB. The peak is that of torch's allocator."""
    predicted = predict(folder)
    reset_peak()
    model = load(folder, device)
    loading = torch.cuda.max_memory_allocated()
    inputs = inputs_of_prediction(model, predicted)
    torch.cuda.reset_peak_memory_stats()
    answer(model, inputs)
    peak = torch.cuda.max_memory_allocated()
    return {**summary(predicted, live_peak(model, inputs), peak), "mb_loading": in_mb(loading)}


def reset_peak() -> None:
    """Give unused memory of the GPU back, and let the peak begin at what is used now."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def summary(predicted: MemoryPrediction, live: int, peak: int) -> dict[str, float]:
    """Prediction, both measurements, and the errors of the prediction."""
    return {
        "mb_predicted": in_mb(predicted.total),
        "mb_tensors": in_mb(live),
        "mb_peak": in_mb(peak),
        "error_to_tensors": round(predicted.total / live - 1, 4),
        "error_to_peak": round(predicted.total / peak - 1, 4),
        "frames": predicted.num_frames,
        "sound_frames": predicted.sound_frames,
    }


def in_mb(size: int) -> float:
    return round(size / 1e6, 3)


def bytes_on_disk(folder: str | os.PathLike[str]) -> int:
    """Size of the weight files of a checkpoint."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
