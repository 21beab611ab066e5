"""What ranking options by likelihood costs: each option alone, with shared videos, and behind a kept prompt.

python benchmarks/bench_likelihood.py --help
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_pllava import VIDEO_ID, VOCABULARY, make_model
from bench_tools import record, seconds_by_turns, with_ratios

from hf_videollm.models.video_llm_kept_prompt import KeptPrompt

QUICK = ("--width", "64", "--questions", "2", "--repeats", "1")
PROMPT_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids")
Question = tuple[dict[str, torch.Tensor], list[list[int]]]


def make_questions(model: Any, count: int, options: int, generator: torch.Generator) -> list[Question]:
    """Questions on one video of 16 frames, each with the tokens of its options (6 each)."""
    video = torch.full((model.config.num_video_tokens(16),), VIDEO_ID)
    pixels = torch.randn(1, 16, 3, 112, 112, generator=generator)
    questions = []
    for _ in range(count):
        text = torch.randint(10, VOCABULARY, (32,), generator=generator)
        ids = torch.cat([torch.full((8,), 7), video, text]).unsqueeze(0)
        row = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == VIDEO_ID).long() * 2,
            "pixel_values_videos": pixels,
            "num_video_frames": torch.tensor([16]),
        }
        tokens = torch.randint(10, VOCABULARY, (options, 6), generator=generator).tolist()
        questions.append((row, tokens))
    return questions


def scores_of(logits: torch.Tensor, tokens: list[int]) -> float:
    """Log-likelihood of tokens from the logits of the positions before them."""
    rows = logits.float().log_softmax(-1)
    return sum(float(rows[place, token]) for place, token in enumerate(tokens))


def alone(model: Any, questions: list[Question], encoded: Any = None) -> list[float]:
    """One forward over everything for each option; with `encoded` media, the tower does not run."""
    found = []
    for row, options in questions:
        media = {name: value for name, value in row.items() if name not in PROMPT_KEYS}
        for tokens in options:
            ids = torch.cat([row["input_ids"], torch.tensor([tokens])], 1)
            given = media if encoded is None else {"mm_encoder_outputs": dict(encoded)}
            logits = model(input_ids=ids, **given, logits_to_keep=len(tokens) + 1).logits[0]
            found.append(scores_of(logits, tokens))
    return found


def encoded_once(model: Any, questions: list[Question]) -> list[float]:
    """The video is encoded once, and every option runs through the language model with it."""
    media = {name: value for name, value in questions[0][0].items() if name not in PROMPT_KEYS}
    return alone(model, questions, model.model.encode_media(media)[0])


def kept(model: Any, questions: list[Question]) -> list[float]:
    """The video is encoded once and runs through the language model once."""
    prompt, found = KeptPrompt(model, PROMPT_KEYS), []
    for row, options in questions:
        ids = prompt.begin(row, "video")
        first = prompt.logits(ids)[-1:]
        for tokens in options:
            rest = prompt.logits([*ids, *tokens[:-1]], first=len(ids))
            found.append(scores_of(torch.cat([first, rest]), tokens))
    return found


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    width: Annotated[int, typer.Option(help="Width of tower and language model.")] = 256,
    questions: Annotated[int, typer.Option(help="Questions on the video.")] = 4,
    options: Annotated[int, typer.Option(help="Options of each question.")] = 4,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 3,
) -> None:
    """Measure the ranking of options; ratios within one run are what counts.

    Examples:

      python benchmarks/bench_likelihood.py --width 64 --questions 2 --repeats 1

      python benchmarks/bench_likelihood.py --out benchmarks/results/likelihood_cpu.json --machine "2 shared cores"
    """
    model = make_model(width)
    with torch.inference_mode():
        asked = make_questions(model, questions, options, torch.Generator().manual_seed(0))
        ways = {"each_alone": alone, "encoded_once": encoded_once, "kept_prompt": kept}
        scores = {name: torch.tensor(way(model, asked)) for name, way in ways.items()}
        differences = {name: float((values - scores["each_alone"]).abs().max()) for name, values in scores.items()}
        times = seconds_by_turns({name: lambda way=way: way(model, asked) for name, way in ways.items()}, repeats)
    name = f"{questions}_questions_of_{options}_options"
    record({name: with_ratios(times, "each_alone"), "largest_difference": differences}, out, machine)


if __name__ == "__main__":
    typer.run(main)
