"""A small benchmark of synthetic clips with known answers, and a program that runs it: to be killed, and by two."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.task import Task
from hf_videollm.synthetic.check import ClipQuestion, held_out_clips

COLOURS = ("red", "green", "blue", "yellow", "white", "cyan")


def bare(item: Item, question: str) -> Prompt:
    """The question as it is, and at most six tokens of answer, as in `synthetic.check`."""
    return Prompt(question, generate_kwargs={"do_sample": False, "max_new_tokens": 6})


def clip_questions(folder: Path, per_kind: int = 4) -> list[ClipQuestion]:
    return held_out_clips(folder / "videos", per_kind)


def write_benchmark(folder: Path, clips: list[ClipQuestion], missing: int = 0) -> Path:
    """`questions.jsonl` and the clips; the last `missing` questions are about videos that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"q{n}", "video": str(clip.path), "question": clip.question.question, "answer": clip.question.answer}
        | {"kind": clip.question.kind}
        for n, clip in enumerate(clips)
    ]
    rows += [{**rows[0], "id": f"gone{n}", "video": str(folder / f"gone{n}.mp4")} for n in range(missing)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def load(data: DataFiles) -> Iterator[Item]:
    for row in data.jsonl_rows("questions.jsonl"):
        yield Item(
            row.get("id"),
            (Medium(Path(row.get("video"))),),
            (row.get("question"),),
            answer=row.get("answer"),
            groups={"kind": row.get("kind")},
        )


def load_choices(data: DataFiles) -> Iterator[Item]:
    """The questions of colour alone, with all colours to choose from."""
    for item in load(data):
        if item.answer in COLOURS:
            index = COLOURS.index(item.answer)
            yield Item(item.id, item.media, item.questions, COLOURS, item.answer, index, groups=item.groups)


def make_task(name: str = "clips", **changes: Any) -> Task:
    options: dict[str, Any] = {
        "load": load,
        "files": ("questions.jsonl",),
        "source": "the synthetic generator",
        "prompts": {"default": bare},
        "metric": "exact_match",
        "group_by": ("kind",),
    }
    return Task(name=name, title=name.capitalize(), **{**options, **changes})


TASKS = [make_task(), make_task("colours", load=load_choices, metric="multiple_choice")]


def main(data: str, output: str, batch_size: str = "2") -> None:
    """Run `clips` with the bundled PLLaVA, and print the result; `unfinished` where others are still at work."""
    import torch

    from hf_videollm import load_pipeline
    from hf_videollm.evaluation.ranks import Ranks
    from hf_videollm.evaluation.run_options import RunOptions
    from hf_videollm.evaluation.runner import Runner

    torch.set_num_threads(1)
    pipe = load_pipeline("pllava-tiny", dtype="float32", device="cpu")
    runner = Runner(pipe, "pllava-tiny", RunOptions(batch_size=int(batch_size)), Ranks.of_environment())
    result = runner.run(TASKS[0], DataFiles(Path(data)), Path(output))
    print("unfinished" if result is None else json.dumps(result["metrics"]["accuracy"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
