"""What the labels of a training batch cost: the collator beside the same rows without labels, by number of answers.

python benchmarks/bench_collator.py --help
"""

from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from bench_tools import record, seconds_by_turns, with_ratios
from transformers import AutoProcessor

import hf_videollm
from hf_videollm.known_models import find_model
from hf_videollm.models import video_llm_checked_processor
from hf_videollm.training.collator import VideoDataCollator

QUICK = ("--words", "200", "--repeats", "1")
ROWS = 4
# Frames as arrays, so that no decoding is measured.
FRAMES = torch.zeros(16, 3, 336, 336, dtype=torch.uint8)


def rows_with(num_answers: int, num_words: int) -> list[dict[str, Any]]:
    """Conversations on one video with this number of answers, and about `num_words` words in all."""
    words = "word " * (num_words // (2 * num_answers))
    turns: list[dict[str, Any]] = []
    for number in range(num_answers):
        media = [] if number else [{"type": "video", "video": FRAMES}]
        turns.append({"role": "user", "content": [*media, {"type": "text", "text": words}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": words}]})
    return [{"id": str(row), "messages": turns} for row in range(ROWS)]


def bench_labels(num_answers: int, num_words: int, repeats: int) -> dict[str, Any]:
    """Seconds of a batch without labels, with labels, and with labels from the positions of tokens as tensors."""
    processor = AutoProcessor.from_pretrained(find_model("pllava-tiny"))
    rows = rows_with(num_answers, num_words)
    collator = VideoDataCollator(processor)

    def without_labels() -> Any:
        chats = [row["messages"] for row in rows]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return processor.apply_chat_template(chats, processor_kwargs={"padding": True}, **options)

    def with_tensors() -> Any:
        with patch.object(video_llm_checked_processor, "offsets_as_lists", lambda outputs: outputs):
            return collator(rows)

    found, before = collator(rows), with_tensors()
    if not torch.equal(found["labels"], before["labels"]):
        raise RuntimeError("The labels differ, so the times cannot be compared.")
    calls = {
        "without_labels": without_labels,
        "collator": lambda: collator(rows),
        "collator_with_positions_in_tensors": with_tensors,
    }
    times = with_ratios(seconds_by_turns(calls, repeats), "without_labels")
    return {"tokens": int(found["attention_mask"].sum() // ROWS), **times}


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    words: Annotated[int, typer.Option(help="Words of a conversation, about.")] = 2400,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 5,
) -> None:
    """Measure the collator; ratios within one run are what counts.

    Examples:

      python benchmarks/bench_collator.py --words 200 --repeats 1

      python benchmarks/bench_collator.py --out benchmarks/results/collator_cpu.json --machine "2 shared cores"
    """
    results = {f"{number}_answers": bench_labels(number, words, repeats) for number in (1, 4, 8)}
    record(results, out, machine, versions={"hf_videollm": hf_videollm.__version__})


if __name__ == "__main__":
    typer.run(main)
