"""What the benchmarks of quantized variants share: questions, comparison with the original, perplexity, memory."""

import ctypes
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.hub.presets import QuantizationPreset
from hf_videollm.hub.quantize import quantize
from hf_videollm.synthetic.check import ClipQuestion, accuracies, answer_questions, held_out_clips

# Text of nobody's training data: it was written for this file.
TEXT = """
The ferry left the harbour shortly after six, when the fog still lay on the water and the lamps along the quay were no
more than yellow stains. Marta stood at the rail with her brother's camera and filmed what there was to see, which was
not much: a gull that kept pace with the ship for a while, a fisherman who coiled a rope and did not look up, the wake
that closed behind them. She had promised to record the whole crossing, because their mother could no longer travel and
wanted to know whether the lighthouse had been painted again. An hour later the fog lifted, all at once, as if somebody
had pulled a sheet from the furniture of an empty house, and there were the islands, much closer than she had thought.
The lighthouse was white now. It had been red and white in every photograph at home. She filmed it until it was as small
as a matchstick, and then she let the camera run while she talked to an old man who sold coffee from a cart. He told her
that the paint had been a mistake of the harbour office, that the sailors had complained for two years, and that the red
would come back in spring. When she played the recording in the evening, her mother did not ask about the lighthouse at
all. She asked who the old man was, and whether he had said anything about the winter of the long ice, and she made
Marta rewind twice to the moment in which he laughed and put his hand on the rail, because she was sure that she had
danced with him once, at a wedding, sixty years ago, and that he had stepped on her shoe.
"""


def make_questions(folder: Path, checkpoint: str, per_kind: int) -> list[ClipQuestion]:
    """Held-out synthetic clips with their questions: of the sound too, if the checkpoint hears."""
    return held_out_clips(folder, per_kind, sound="av" in checkpoint)


def load(source: str | Path, device: str, **options: Any) -> Any:
    """A model on one device, ready to answer."""
    return AutoModelForImageTextToText.from_pretrained(source, device_map={"": device}, **options).eval()


def inputs_of(clip: ClipQuestion, processor: Any, model: Any) -> dict[str, Any]:
    """The prompt of one question together with its right answer."""
    question = [{"type": "video", "path": str(clip.path)}, {"type": "text", "text": clip.question.question}]
    answer = [{"type": "text", "text": clip.question.answer}]
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() and "pixel" in name else value.dtype)
        for name, value in inputs.items()
    }


@torch.inference_mode()
def text_scores(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> Iterator[torch.Tensor]:
    """For each question, the log-probabilities behind its media: `(tokens of question and answer, vocabulary)`."""
    places = [getattr(model.config, f"{kind}_token_id", None) for kind in ("video", "image", "audio")]
    for clip in clips:
        inputs = inputs_of(clip, processor, model)
        is_medium = sum(inputs["input_ids"][0] == place for place in places if place is not None)
        start = int(is_medium.nonzero().max()) + 1  # type: ignore[union-attr]
        yield model(**inputs).logits[0, start:].float().log_softmax(-1).cpu()


def agreement(
    model: Any, processor: Any, clips: Sequence[ClipQuestion], wanted: Sequence[torch.Tensor]
) -> dict[str, float]:
    """KL(original || variant) in nats and the share of equal most likely tokens, over all tokens of text.

    Args:
        wanted: the scores of the original.
    """
    kl, same, count = 0.0, 0, 0
    for scores, expected in zip(text_scores(model, processor, clips), wanted, strict=True):
        kl += torch.nn.functional.kl_div(scores, expected, log_target=True, reduction="sum").item()
        same += int((scores.argmax(-1) == expected.argmax(-1)).sum())
        count += len(scores)
    return {"kl": round(kl / count, 6), "top1_agreement": round(same / count, 4), "tokens": count}


def accuracy(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> float:
    """Mean share of right answers over the kinds of questions."""
    by_kind = accuracies(answer_questions(model, processor, clips, batch_size=10, progress=False))
    return round(sum(by_kind.values()) / len(by_kind), 4)


def write_variant(checkpoint: str, preset: QuantizationPreset, folder: Path, device: str) -> dict[str, Any]:
    """Write a variant into `folder`, and return its size and the errors of its layers."""
    report = quantize(checkpoint, folder, preset=preset.name, device=device)
    errors = report.errors
    return {
        "mb_on_disk": round(report.weight_bytes / 1e6, 3),
        "mb_of_original": round(report.source_bytes / 1e6, 3),
        "layer_error_mean": round(errors.mean, 4),
        "layer_error_largest": round(errors.largest, 4),
    }


def predicted_mb(folder: Path | str) -> float:
    """Weights as they are stored, and the key-value cache of one video and 256 tokens. Activations are not counted."""
    weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    return round((weights + describe_checkpoint(folder).kv_cache_bytes) / 1e6, 3)


@torch.inference_mode()
def answer_once(model: Any, processor: Any, clip: ClipQuestion) -> None:
    """Answer one question with the design's default number of frames."""
    answer_questions(model, processor, [clip], progress=False)


def peak_mb_on_cpu(folder: str | Path, clip: ClipQuestion) -> float:
    """How much the memory of this process grows while a checkpoint is loaded and answers one question (Linux).

    The same is done once before, so that libraries which load parts of themselves are not counted.
    """
    processor = AutoProcessor.from_pretrained(folder)
    answer_once(load(folder, "cpu"), processor, clip)
    gc.collect()
    # The allocator keeps what was freed; without this, a part of the second run would need no new memory.
    ctypes.CDLL(None).malloc_trim(0)
    before = memory_in_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    answer_once(load(folder, "cpu"), processor, clip)
    return round((memory_in_kib("VmHWM") - before) * 1024 / 1e6, 3)


def memory_in_kib(field: str) -> int:
    """A value of /proc/self/status in KiB, for example VmRSS."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any) -> float:
    """Of `TEXT`, all of it at once."""
    ids = tokenizer(" ".join(TEXT.split()), return_tensors="pt").input_ids.to(model.device)
    scores = model(input_ids=ids).logits[0, :-1].float()
    return round(torch.nn.functional.cross_entropy(scores, ids[0, 1:]).exp().item(), 3)


def measure_language_model(
    source: str, preset: QuantizationPreset | None, folder: Path, device: str
) -> dict[str, float]:
    """Quantize a language model, save it, load it again, and measure its size and perplexity."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    options: dict[str, Any] = {"device_map": {"": device}}
    if preset is not None:
        options |= {"dtype": preset.dtype, "quantization_config": preset.quantization_config()}
    else:
        options |= {"dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(source, **options).save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, device_map={"": device}).eval()
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"perplexity": perplexity(again, tokenizer), "mb_on_disk": round(size / 1e6, 1)}


def measure_answers(
    model: Any, processor: Any, clips: Sequence[ClipQuestion], wanted: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """Compare a variant with the scores of its original, and let it answer all questions."""
    right = accuracy(model, processor, clips)
    return {**agreement(model, processor, clips, wanted), "accuracy": right, "questions": len(clips)}
