"""What the benchmarks of quantized variants share: comparison with the original, and a real language model."""

import logging
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from quantized_memory import bytes_on_disk, in_mb, load
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils import logging as transformers_logging

from hf_videollm.build import build_checkpoint
from hf_videollm.hub.quantize import quantize
from hf_videollm.known_models import default_checkpoint
from hf_videollm.synthetic.check import ClipQuestion

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

# The tower in front of the real language model: small and random, with the 24 x 24 patches of PLLaVA's own.
TOWER = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 6}
FRAMES = {"image_size": 336, "patch_size": 14}
# The packages that quantize.
PACKAGES = ("bitsandbytes", "torchao")


def package_versions() -> dict[str, str | None]:
    """The releases of the packages that quantize; `None` for one that is not installed."""
    return {name: version(name) if find_spec(name) else None for name in PACKAGES}


def hide_notes() -> None:
    """Hide progress bars, and what bitsandbytes writes about every 8-bit layer that runs."""
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def inputs_of(clip: ClipQuestion, processor: Any) -> dict[str, torch.Tensor]:
    """The prompt of one question together with its right answer."""
    question = [{"type": "video", "path": str(clip.path)}, {"type": "text", "text": clip.question.question}]
    answer = [{"type": "text", "text": clip.question.answer}]
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return dict(processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt"))


@torch.inference_mode()
def text_scores(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> list[torch.Tensor]:
    """For each question, the log-probabilities behind its media: `(tokens of question and answer, vocabulary)`."""
    places = [getattr(model.config, f"{kind}_token_id", None) for kind in ("video", "image", "audio")]
    scores = []
    for clip in clips:
        inputs = inputs_of(clip, processor)
        is_medium = torch.isin(inputs["input_ids"][0], torch.tensor([place for place in places if place is not None]))
        start = int(is_medium.nonzero().max()) + 1
        moved = {
            name: value.to(model.device, model.dtype if "pixel" in name else None) for name, value in inputs.items()
        }
        scores.append(model(**moved).logits[0, start:].float().log_softmax(-1).cpu())
    return scores


def agreement(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> dict[str, float]:
    """KL(original || variant) in nats and the share of equal most likely tokens, over all tokens of text.

    Args:
        found: log-probabilities of the variant, `(tokens, vocabulary)` each.
        wanted: those of the original.
    """
    kl, same, count = 0.0, 0, 0
    for scores, expected in zip(found, wanted, strict=True):
        kl += torch.nn.functional.kl_div(scores, expected, log_target=True, reduction="sum").item()
        same += int((scores.argmax(-1) == expected.argmax(-1)).sum())
        count += len(scores)
    return {"kl": round(kl / count, 6), "top1_agreement": round(same / count, 4), "tokens": count}


def write_variant(checkpoint: str, preset: str, folder: Path, device: str) -> dict[str, Any]:
    """Write a variant into `folder`, and return its size and the errors of its layers."""
    report = quantize(checkpoint, folder, preset=preset, device=device)
    errors = report.errors
    return {
        "mb_on_disk": in_mb(report.weight_bytes),
        "mb_of_original": in_mb(report.source_bytes),
        "layer_error_mean": round(errors.mean, 4),
        "layer_error_largest": round(errors.largest, 4),
    }


@torch.inference_mode()
def scores_of_text(model: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of `TEXT`, all of it at once: the ids after the first, and the log-probabilities of all tokens before each."""
    ids = tokenizer(" ".join(TEXT.split()), return_tensors="pt").input_ids
    scores = model(input_ids=ids.to(model.device)).logits[0, :-1].float().log_softmax(-1)
    return ids[0, 1:], scores.cpu()


def perplexity(ids: torch.Tensor, scores: torch.Tensor) -> float:
    """The exponential of the mean negative log-probability of the right tokens."""
    return round(torch.nn.functional.nll_loss(scores, ids).exp().item(), 3)


def write_random_language_model(folder: Path) -> str:
    """Write a tiny language model with random weights and a real tokenizer, for trials. Returns its folder."""
    tokenizer = AutoTokenizer.from_pretrained(default_checkpoint())
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    # Longer than the prompt with PLLaVA's own 2,304 tokens of a video.
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def build_around(language_model: str, folder: Path) -> None:
    """Write a PLLaVA whose language model is a real one. Its tower and connector are random."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as vision:
        CLIPVisionModel(CLIPVisionConfig(**TOWER, **FRAMES)).save_pretrained(vision)
        build_checkpoint("pllava", folder, vision=vision, language_model=language_model, dtype="float32")


def measure_language_part(folder: Path, scores_file: Path, device: str) -> dict[str, Any]:
    """Size and perplexity of the language part of a checkpoint, and how near it is to the original.

    Args:
        folder: a checkpoint that `build_around` has written, or a variant of it.
        scores_file: holds the log-probabilities of the original; the first call, for the original, writes it.
        device: where the model runs.
    """
    model = load(folder, device)
    ids, scores = scores_of_text(model, AutoProcessor.from_pretrained(folder).tokenizer)
    found: dict[str, Any] = {"mb_on_disk": in_mb(bytes_on_disk(folder)), "perplexity": perplexity(ids, scores)}
    if scores_file.exists():
        return {**found, **agreement([scores], [torch.load(scores_file)])}
    torch.save(scores, scores_file)
    return found
