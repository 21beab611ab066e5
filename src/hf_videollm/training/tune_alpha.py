"""Searches for the LoRA alpha that gives the best answers: post-training optimisation (PLLaVA paper, section 3.4).

A video model that was fine-tuned from an image model may answer better with a lower alpha than in training. The paper
trains with 32, and finds the best alpha near 20 on MVBench and near 4 on Video-ChatGPT's benchmark. Alpha changes only
the language model, so each video is decoded and encoded once, and its questions are answered with every alpha.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..atomic import atomic_file
from ..convert.stream import read_json
from ..data.records import VideoQARecord, read_jsonl
from ..inference import load_pipeline
from ..models.video_llm_contract import ModelContract

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class AlphaScore:
    """Mean score of one alpha over `n` records."""

    alpha: float
    score: float
    n: int


@dataclass(frozen=True)
class TuneReport:
    """Scores of all alphas, in the order they were asked for."""

    rows: list[AlphaScore]

    @property
    def best(self) -> float:
        """The alpha with the highest score; the smallest one if several have this score."""
        return min(self.rows, key=lambda row: (-row.score, row.alpha)).alpha

    @property
    def is_tied(self) -> bool:
        """Whether all of several alphas have the same score, so that none is better than another."""
        return len(self.rows) > 1 and len({row.score for row in self.rows}) == 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"best": self.best, "tied": self.is_tied, "rows": [asdict(row) for row in self.rows]}

    def render(self) -> Group:
        """The table and the best value, for a rich console."""
        table = Table("alpha", "score", "n")
        for row in self.rows:
            style = "bold" if row.alpha == self.best and not self.is_tied else None
            table.add_row(f"{row.alpha:g}", f"{row.score:.4f}", f"{row.n}", style=style)
        best = "all alphas have the same score: none is best" if self.is_tied else f"best alpha: {self.best:g}"
        return Group(table, best)


def normalise(text: str) -> str:
    """Lower case, without punctuation, single spaces."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both texts are the same after `normalise`, else 0.0."""
    return float(normalise(prediction) == normalise(reference))


def tune_alpha(
    model: Any,
    processor: Any,
    records: Sequence[VideoQARecord],
    alphas: Sequence[float],
    *,
    batch_size: int = 8,
    num_frames: int | None = None,
    max_new_tokens: int = 32,
    score: Score = exact_match,
    set_best: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TuneReport:
    """Answer all records greedily with every alpha, and compare the answers with those of the records.

    Args:
        model: PLLaVA with its LoRA attached, on the device to run on.
        processor: its processor.
        records: questions about local videos or images; each record ends with the correct answer.
        alphas: values to try; repeated ones count once.
        batch_size: number of records that are answered at a time.
        num_frames: frames per video; `None` uses the processor's own number.
        max_new_tokens: longest answer, in tokens.
        score: function of a prediction and a reference. Its values are averaged over the records; higher is better.
        set_best: leave the model at the best alpha instead of the one it had; not if all have the same score.
        progress: called with (answers given, answers to give).

    Returns:
        The scores; `report.best` is the alpha to use.

    Raises:
        ValueError: there is no alpha or no record, an alpha is negative, the model has no adapter, or a record has no
            answer or has audio.
        MediaError: a video cannot be read.
    """
    alphas = list(dict.fromkeys(alphas))
    _check_task(model, records, alphas, batch_size, max_new_tokens)
    before, was_training = current_alpha(model), model.training
    totals = dict.fromkeys(alphas, 0.0)
    done = 0
    model.eval()
    try:
        for batch in _batches(records, batch_size):
            for alpha, answers in _answers(model, processor, batch, alphas, num_frames, max_new_tokens):
                pairs = zip(answers, batch, strict=True)
                totals[alpha] += sum(score(answer, record.answer or "") for answer, record in pairs)
                done += len(batch)
                if progress is not None:
                    progress(done, len(records) * len(alphas))
        report = TuneReport([AlphaScore(alpha, totals[alpha] / len(records), len(records)) for alpha in alphas])
        if set_best and not report.is_tied:
            before = report.best
    finally:
        model.set_lora_alpha(before)
        model.train(was_training)
    return report


def current_alpha(model: Any) -> float:
    """The alpha that the model runs with.

    Raises:
        ValueError: the model has no adapter.
    """
    name, layers = model.lora_name(), model.lora_layers()
    layer = next(iter(layers.values()))
    return layer.scaling[name] * layer.r[name]


def _check_task(
    model: Any, records: Sequence[VideoQARecord], alphas: Sequence[float], batch_size: int, max_new_tokens: int
) -> None:
    if not alphas:
        raise ValueError("No alphas to try: pass at least one.")
    for alpha in alphas:
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be a number of at least 0, not {alpha}.")
    if not records:
        raise ValueError("There are no records to answer.")
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(f"batch_size ({batch_size}) and max_new_tokens ({max_new_tokens}) must be at least 1.")
    keeps_lora = isinstance(model, ModelContract) and model.keeps_lora
    if not keeps_lora:
        raise ValueError(f"{type(model).__name__} keeps no LoRA whose alpha could be tuned: PLLaVA does.")
    model.lora_layers()
    for record in records:
        if record.answer is None:
            raise ValueError(f"Record {record.id!r} has no answer to compare with: end it with an assistant message.")
        if record.media("audio"):
            raise ValueError(f"Record {record.id!r} has sound, which PLLaVA cannot hear.")


def _batches(records: Sequence[VideoQARecord], size: int) -> Iterator[Sequence[VideoQARecord]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


@torch.inference_mode()
def _answers(
    model: Any,
    processor: Any,
    batch: Sequence[VideoQARecord],
    alphas: Sequence[float],
    num_frames: int | None,
    max_new_tokens: int,
) -> Iterator[tuple[float, list[str]]]:
    """Yield each alpha with the answers to the questions of a batch. The media are encoded once."""
    inputs = dict(_inputs(processor, batch, num_frames).to(model.device))
    media, inputs = model.model.encode_media(inputs)
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens}
    if model.generation_config.pad_token_id is None:
        options["pad_token_id"] = processor.tokenizer.pad_token_id
    for alpha in alphas:
        model.set_lora_alpha(alpha)
        # A new dict: `generate` may add to the one it gets.
        tokens = model.generate(**inputs, mm_encoder_outputs=dict(media), **options)
        yield alpha, processor.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)


def _inputs(processor: Any, batch: Sequence[VideoQARecord], num_frames: int | None) -> Any:
    prompts = [
        processor.apply_chat_template(record.prompt_messages(), tokenize=False, add_generation_prompt=True)
        for record in batch
    ]
    videos = [video for record in batch for video in record.media("video")]
    images = [image for record in batch for image in record.media("image")]
    options: dict[str, Any] = {} if num_frames is None or not videos else {"num_frames": num_frames}
    # Left padding: answers begin in the same column.
    return processor(
        text=prompts,
        videos=videos or None,
        images=images or None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **options,
    )


def tune_alpha_on_file(
    source: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    alphas: Sequence[float],
    limit: int | None = None,
    batch_size: int = 8,
    num_frames: int | None = None,
    max_new_tokens: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    save: bool = False,
    progress: bool = True,
) -> TuneReport:
    """Run `tune_alpha` for a checkpoint, with the records of a JSON Lines file.

    Args:
        source: folder or Hub id of a converted checkpoint that still has its LoRA.
        data: the file; its records have answers.
        limit: use the first `limit` records only.
        dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`.
        device: a torch device; `None` takes the first GPU, or the CPU if there is no GPU.
        save: write the best alpha into the folder's config.json; nothing is written if all have the same score.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: as in `tune_alpha`; or `save` is set, but `source` is no local folder.
        RecordError: a record is invalid.
        OSError: a file cannot be found.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if save and not Path(source, "config.json").is_file():
        raise ValueError(f"{source} is no local folder with a config.json, so the best alpha cannot be saved there.")
    records = read_jsonl(data)[:limit]
    pipe = load_pipeline(source, dtype=dtype, device=device)
    # This comes first, so that no progress bar is on the screen if there is an error.
    _check_task(pipe.model, records, list(alphas), batch_size, max_new_tokens)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    with bar:
        task = bar.add_task("Answering", total=None)
        report = tune_alpha(
            pipe.model,
            pipe.processor,
            records,
            alphas,
            batch_size=batch_size,
            num_frames=num_frames,
            max_new_tokens=max_new_tokens,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if save and not report.is_tied:
        save_alpha(source, report.best)
    return report


def save_alpha(folder: str | os.PathLike[str], alpha: float) -> None:
    """Write `alpha` into config.json, so that the checkpoint in `folder` is loaded with it.

    Raises:
        CheckpointError: config.json is missing or damaged.
    """
    file = Path(folder, "config.json")
    config = read_json(file)
    config["lora_alpha"] = alpha
    # The file is replaced completely or not at all.
    with atomic_file(file, mode=stat.S_IMODE(file.stat().st_mode)) as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["AlphaScore", "TuneReport", "exact_match", "normalise", "save_alpha", "tune_alpha", "tune_alpha_on_file"]
