"""Folders of finished runs, written by the package's own writer, with answers that nobody had to generate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.judges.items import JudgeItem, Judgement
from hf_videollm.evaluation.records import Record
from hf_videollm.evaluation.result import write_result
from hf_videollm.evaluation.scoring import Scoring
from hf_videollm.evaluation.task import Task
from hf_videollm.evaluation.tasks import find_task

OPTIONS = ("a dog", "a man")
UNREAD = "no idea"


def choice_items(count: int = 8, video: str = "clip.mp4", per_video: int = 2) -> list[Item]:
    """Questions with two options, the first right for even numbers; two questions to a video."""
    return [
        Item(
            f"q{number}",
            (Medium(Path(video.replace(".mp4", f"{number // per_video}.mp4"))),),
            (f"What is {number}?",),
            OPTIONS,
            OPTIONS[number % 2],
            number % 2,
            groups={"duration": "short" if number < count // 2 else "long"},
        )
        for number in range(count)
    ]


def open_items(count: int = 4) -> list[Item]:
    return [
        Item(f"q{number}", (Medium(Path(f"clip{number}.mp4")),), (f"Who is {number}?",), answer=f"name{number}")
        for number in range(count)
    ]


def choice_task(name: str = "choices", title: str = "Choices") -> Task:
    return Task(
        name=name,
        title=title,
        load=lambda data: iter(()),
        files=(),
        source="tests",
        prompts={},
        metric="multiple_choice",
        group_by=("duration",),
        notes=("A note.",),
    )


def letters(right: Sequence[bool | None], items: Sequence[Item]) -> list[str]:
    """Answers that are right, wrong, or unreadable (None)."""
    answers = []
    for item, is_right in zip(items, right, strict=True):
        index = item.answer_index if is_right else 1 - (item.answer_index or 0)
        answers.append(UNREAD if is_right is None else f"({'AB'[index or 0]})")
    return answers


def record_of(item: Item, answer: str | Exception, frames: Sequence[int] = (0, 4)) -> Record:
    media = [{"type": "video", "path": str(medium.path), "frames": list(frames), "fps": 8.0} for medium in item.media]
    if isinstance(answer, Exception):
        return {"id": item.id, "error": {"type": type(answer).__name__, "message": str(answer)}, "media": media}
    return {"id": item.id, "answers": [answer], "generated": [answer], "media": media}


def write_run(
    folder: Path,
    answers: Sequence[str | Exception],
    items: Sequence[Item] | None = None,
    task: Task | str | None = None,
    model: str = "./models/tiny",
    settings: Mapping[str, Any] | None = None,
    frames: Sequence[int] = (0, 4),
    partial: str | None = None,
    **scoring: Any,
) -> Path:
    """The folder of a run whose model gave these answers."""
    folder.mkdir(parents=True, exist_ok=True)
    items = choice_items(len(answers)) if items is None else items
    chosen = choice_task() if task is None else find_task(task) if isinstance(task, str) else task
    facts = {"model": model, "path": model, "revision": f"folder-{Path(model).name}", "dtype": "float32"}
    told = {
        "task": chosen.name,
        "model": {name: facts[name] for name in ("path", "revision", "dtype")},
        "prompt_style": "default",
        "mode": "generate",
        "processor_options": {"num_frames": len(frames)},
        "generate_options": {"max_new_tokens": 8},
        "seed": 0,
        **(settings or {}),
    }
    records = {item.id: record_of(item, answer, frames) for item, answer in zip(items, answers, strict=True)}
    write_result(folder, Scoring(chosen, **scoring), items, records, told, facts, "the first prompt", partial=partial)
    return folder


def judge(verdicts: Mapping[str, tuple[bool | None, float | None]]) -> Any:
    """Judges by a table: id of an item -> verdict and score; an item that is not there is a failure."""

    def judge_all(asked: Sequence[JudgeItem]) -> list[Judgement]:
        judgements = []
        for item in asked:
            if item.id not in verdicts:
                judgements.append(Judgement(None, None, failed=True, error="no reply"))
            else:
                pred, score = verdicts[item.id]
                judgements.append(Judgement(pred, score, reply=f"{pred}: {score}"))
        return judgements

    return judge_all
