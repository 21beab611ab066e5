"""Rows that teach nothing are told by their number before a model is loaded; those with missing media are counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Image, List, Video

import hf_videollm
from hf_videollm.data.bad_media import TooManyBadMediaError
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training import plain_sft
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.row_checks import check_rows

TEXT = {"type": "text", "text": "What colour is the shape?"}
BARE = {"role": "user", "content": [{"type": "video"}, TEXT]}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def named(path: str, **part: Any) -> dict[str, Any]:
    content = [{"type": "video", "path": path, **part}, TEXT]
    return {"messages": [{"role": "user", "content": content}, said("red")]}


@pytest.fixture(scope="module")
def collator() -> VideoDataCollator:
    return VideoDataCollator(build_tiny_pllava(num_frames=2, image_size=32, patch_size=8, pooling_shape=(2, 2, 2))[1])


# What is wrong with a row -> the row, and what the message says. Each also has the number of the row.
WRONG: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "no answer": (lambda clip: {"messages": named(clip)["messages"][:1]}, "has no answer"),
    "empty answer": (lambda clip: {"messages": [*named(clip)["messages"][:1], said("")]}, r"messages\[1\] is blank"),
    "blank answer": (lambda clip: {"messages": [*named(clip)["messages"][:1], said(" \n")]}, "is blank"),
    "blank text": (
        lambda clip: {"prompt": named(clip)["messages"][:1], "completion": [{"role": "assistant", "content": " "}]},
        "is blank",
    ),
    "second answer blank": (
        lambda clip: {"messages": [*named(clip)["messages"], {"role": "user", "content": [TEXT]}, said("")]},
        r"messages\[3\] is blank",
    ),
    "backwards": (lambda clip: named(clip, start=3.0, end=1.0), "end 1 is not behind start 3"),
    "too many media": (lambda clip: {"messages": [BARE, said("red")], "videos": [clip, clip]}, "numbers must be"),
    "unknown role": (
        lambda clip: {"messages": [{"role": "tol", "content": [TEXT]}, said("red")]},
        "unknown role 'tol'",
    ),
    "misspelt column": (lambda clip: {"messages": [BARE, said("red")], "vidoes": [clip]}, "'vidoes'.*mean video"),
    "other column": (
        lambda clip: {"messages": [{"role": "user", "content": [TEXT]}, said("red")], "clip": clip},
        "the column 'clip' names",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("number", [0, 3])
def test_wrong_rows_are_told_by_their_number(
    collator: VideoDataCollator, clips: list[str], name: str, number: int
) -> None:
    make, message = WRONG[name]
    right = {"prompt": [BARE], "completion": [said("red")], "video": clips[0]}
    rows = [right] * number + [make(clips[0])] + [right] * 2
    # The control: the other rows alone are right.
    assert check_rows(Dataset.from_list([right] * 3), collator, "train_dataset").total == 3
    with pytest.raises(ValueError, match=f"train_dataset, row {number}.*{message}") as caught:
        check_rows(rows, collator, "train_dataset")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("misspelt", ["vidoes", "vidos", "vidio", "Videos", "imges", "Image", "audois"])
def test_names_near_those_of_media_are_refused(collator: VideoDataCollator, misspelt: str) -> None:
    row = {"messages": [{"role": "user", "content": [TEXT]}, said("red")], misspelt: ["x"]}
    with pytest.raises(ValueError, match=rf"column '{misspelt}'.*did you mean"):
        check_rows([row], collator, "train_dataset")


@pytest.mark.parametrize("more", ["video_id", "videoid", "image_id", "audio_caption", "source", "kind", "idea"])
def test_other_columns_stay_free(collator: VideoDataCollator, clips: list[str], more: str) -> None:
    check_rows([{**named(clips[0]), more: "a.mp4"}], collator, "train_dataset")


STATES: dict[str, Callable[[list[str]], Dataset]] = {
    "paths in messages": lambda paths: Dataset.from_list([named(path) for path in paths]),
    "videos": lambda paths: Dataset.from_list([{"messages": [BARE, said("red")], "videos": [path]} for path in paths]),
    "Video()": lambda paths: Dataset.from_list(
        [{"messages": [BARE, said("red")], "video": path} for path in paths]
    ).cast_column("video", Video()),
    "List(Video())": lambda paths: Dataset.from_list(
        [{"messages": [BARE, said("red")], "videos": [path]} for path in paths]
    ).cast_column("videos", List(Video(decode=False))),
    "shuffled": lambda paths: Dataset.from_list([{"id": path, **named(path)} for path in paths]).select(
        range(len(paths))[::-1]
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_missing_files_are_left_out_up_to_a_share(collator: VideoDataCollator, clips: list[str], state: str) -> None:
    rows = STATES[state]([clips[0], "/nowhere/b.mp4", clips[1], clips[2]])
    checked = check_rows(rows, collator, "train_dataset", 0.25)
    assert checked.total == 4
    assert [bad.path for bad in checked.missing] == ["/nowhere/b.mp4"]
    assert len(checked.rows) == len(set(checked.rows[checked.key])) == 3
    with pytest.raises(TooManyBadMediaError, match=r"train_dataset: 1 of 4 rows .* /nowhere/b\.mp4 \(missing\)"):
        check_rows(rows, collator, "train_dataset", 0.24)


def test_bytes_are_not_missing(collator: VideoDataCollator, clips: list[str]) -> None:
    held = [{"bytes": Path(clip).read_bytes(), "path": "elsewhere.mp4"} for clip in clips]
    rows = [{"messages": [BARE, said("red")], "videos": [medium]} for medium in held]
    for dataset in (Dataset.from_list(rows), Dataset.from_list(rows).cast_column("videos", List(Video(decode=False)))):
        assert not check_rows(dataset, collator, "train_dataset", 0).missing
    picture = {"messages": [{"role": "user", "content": [{"type": "image"}, TEXT]}, said("red")], "image": "no.png"}
    with pytest.raises(TooManyBadMediaError, match=r"no\.png"):
        check_rows(Dataset.from_list([picture]).cast_column("image", Image()), collator, "train_dataset", 0)


EMPTY: dict[str, tuple[Any, type[Exception], str]] = {
    "no rows": (Dataset.from_list([]), ValueError, "train_dataset has no rows"),
    "empty stream": (
        Dataset.from_list([named("a")]).to_iterable_dataset().filter(lambda row: False),
        ValueError,
        "train_dataset has no rows",
    ),
    "splits": (DatasetDict(train=Dataset.from_list([])), TypeError, "DatasetDict with train: pass one of them"),
    "name": ("train", TypeError, "not a str"),
    "stream of wrong rows": (
        Dataset.from_list([{"messages": [BARE]}]).to_iterable_dataset(),
        ValueError,
        "train_dataset, row 0.*blocks without a source|row 0.*no answer",
    ),
}
WRONG_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "model": ({"model": "./nope"}, FileNotFoundError, "no such folder"),
    "model's name": ({"model": "pllava-tini"}, FileNotFoundError, "pllava-tiny"),
    "processor_kwargs": ({"processor_kwargs": {"num_framse": 3}}, TypeError, "num_frames"),
    "pattern": ({"learning_rates": {"conector": 1e-3}}, ValueError, "matches no parameter"),
    "no pattern": ({"learning_rates": {"(": 1e-3}}, ValueError, "no regular expression"),
    "no rate": ({"learning_rates": {"connector": "fast"}}, ValueError, "must be a number"),
    "generate": ({"generate": {"max_new_token": 3}, "eval_dataset": "right"}, TypeError, "max_new_tokens"),
    "of TRL": ({"formating_func": None}, TypeError, "formatting_func"),
    "nothing to compare with": ({"generate": True, "eval_dataset": "asks"}, ValueError, "does not end with an answer"),
    "max_bad": ({"max_bad": 2}, ValueError, "max_bad must be a share"),
    "eval rows": ({"eval_dataset": "wrong"}, ValueError, "eval_dataset, row 0"),
    "eval rows of several": ({"eval_dataset": {"a": "wrong"}}, ValueError, r"eval_dataset\['a'\], row 0"),
}


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any) -> None:
        raise AssertionError("A model is loaded.")

    monkeypatch.setattr(plain_sft, "model_and_processor", load)


def arguments(folder: Path, **options: Any) -> Any:
    quick = {"output_dir": str(folder), "max_steps": 4, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return hf_videollm.sft_config(**{**quick, "per_device_train_batch_size": 1, "logging_steps": 1, **options})


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", [*EMPTY, *WRONG_OPTIONS])
def test_nothing_is_loaded_or_written(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path, name: str
) -> None:
    sets = {"right": Dataset.from_list([named(clips[0])]), "wrong": Dataset.from_list([{"messages": [BARE]}])}
    sets["asks"] = Dataset.from_list([{"messages": [*named(clips[0])["messages"], {**BARE, "content": [TEXT]}]}])
    options: dict[str, Any] = {"model": checkpoint("pllava-tiny"), "train_dataset": sets["right"]}
    if name in EMPTY:
        options["train_dataset"], kind, message = EMPTY[name]
    else:
        changed, kind, message = WRONG_OPTIONS[name]
        given = changed.get("eval_dataset")
        if isinstance(given, dict):
            changed = {**changed, "eval_dataset": {key: sets[value] for key, value in given.items()}}
        elif given is not None:
            changed = {**changed, "eval_dataset": sets[given]}
        options |= changed
    folder = tmp_path / "out"
    with pytest.raises(kind, match=message):
        hf_videollm.make_trainer(**options, args=arguments(folder))
    assert not folder.exists()
    # The control: right rows and options get to the model.
    with pytest.raises(AssertionError, match="A model is loaded"):
        hf_videollm.make_trainer(
            checkpoint("pllava-tiny"), sets["right"], args=arguments(folder), learning_rates={"connector": "1e-3"}
        )


def test_missing_and_broken_rows_are_counted_and_reported(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    rows = Dataset.from_list([named(path) for path in [clips[0], str(broken), "/nowhere.mp4", *clips[1:]]])

    def trainer(max_bad: float) -> Any:
        args = arguments(tmp_path / "run", learning_rate="1e-3")
        return hf_videollm.make_trainer(
            checkpoint("pllava-tiny"), rows, args=args, max_bad=max_bad, processor_kwargs={"num_frames": 2}
        )

    made = trainer(0.5)
    with pytest.warns(UserWarning, match=r"2 of 5 rows .* left out: 1 with missing, 1 with broken media"):
        made.train()
    listed = [json.loads(line) for line in (tmp_path / "run" / "bad_media.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["path"]) for entry in listed] == [("row 1", str(broken))]
    assert made.state.log_history[-1]["rows_left_out"] == 2
    # The control: a smaller share stops the training at the second bad row.
    with pytest.raises(TooManyBadMediaError, match="2 of 5 rows"):
        trainer(0.2).train()
