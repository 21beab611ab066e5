"""Recipes that train on a mix: order, ratios, parts of videos, and media that are missing or broken."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from hf_videollm.data.bad_media import TooManyBadMediaError
from hf_videollm.data.loading import load_data
from hf_videollm.data.mix import MixError
from hf_videollm.data.record import check_record
from hf_videollm.models.errors import MediaWarning
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.synthetic.tiny.videollama2_av import build_tiny_videollama2_av as build_tiny_av
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.mixed import BAD_MEDIA
from hf_videollm.training.plain_sft import make_trainer as make_plain_trainer
from hf_videollm.training.plain_sft import sft_config
from hf_videollm.training.sft import Recipe, RecipeError, make_trainer, run_sft, show_sample

SMALL = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 24 clips, with questions in this package's records and in Video-ChatGPT's form."""
    folder = tmp_path_factory.mktemp("pool") / "clips"
    generate_dataset(folder, 24, kind="motion", progress=False)
    rows = []
    for line in (folder / "records.jsonl").read_text().splitlines():
        question, answer = json.loads(line)["messages"]
        video, text = question["content"]
        rows.append({"q": text["text"], "a": answer["content"][0]["text"], "video_id": video["path"]})
    (folder / "chatgpt.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def make(clips: Path, tmp_path: Path) -> Make:
    def recipe(arguments: dict[str, Any] | None = None, fields: dict[str, Any] | None = None, **mix: Any) -> Recipe:
        given = {"sources": [{"annotation": str(clips / "chatgpt.json")}], **mix}
        (tmp_path / "mix.yaml").write_text(yaml.safe_dump(given))
        options = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return Recipe(mix=str(tmp_path / "mix.yaml"), arguments={**options, **(arguments or {})}, **(fields or {}))

    return recipe


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_workers_do_not_change_what_is_learned(make: Make) -> None:
    found = []
    for workers in (0, 2):
        torch.manual_seed(0)
        trainer = run_sft(make({"dataloader_num_workers": workers}, seed=3), *build_tiny_pllava(**SMALL))
        found.append(losses(trainer))
    assert found[0] == found[1]
    assert len(found[0]) == 2
    described = json.loads((Path(trainer.args.output_dir) / "data.json").read_text())
    assert (described["seed"], trainer.args.data_seed) == (3, 3)
    assert described["sources"][0]["counts"]["chosen"] == described["rows"]


def test_the_order_of_a_mix_that_is_not_shuffled_is_that_of_training(make: Make) -> None:
    trainer = make_trainer(make(shuffle=False), *build_tiny_pllava(**SMALL))
    assert trainer.args.train_sampling_strategy == "sequential"
    rows = trainer.train_dataset["id"][:]
    assert rows == [f"chatgpt/train/{number}" for number in range(len(rows))]


def broken_copy(clips: Path, folder: Path, name: str) -> None:
    """The clips, of which one is cut in the middle."""
    shutil.copytree(clips, folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:600])


@pytest.mark.parametrize("with_cache", [False, True])
def test_a_broken_file_is_left_out_counted_and_reported(
    with_cache: bool, make: Make, clips: Path, tmp_path: Path
) -> None:
    rows = json.loads((clips / "chatgpt.json").read_text())
    bad = rows[0]["video_id"]
    broken_copy(clips, tmp_path / "copy", bad)
    count = sum(row["video_id"] == bad for row in rows)
    source = {"annotation": str(tmp_path / "copy" / "chatgpt.json")}
    fields = {"frame_cache": str(tmp_path / "cache")} if with_cache else {}
    recipe = make({"max_steps": -1, "num_train_epochs": 1}, fields, sources=[source], max_bad=0.5)
    with pytest.warns(MediaWarning, match=rf"{count} of {len(rows)} rows .*: 0 with missing, {count} with broken"):
        trainer = run_sft(recipe, *build_tiny_pllava(**SMALL))
    assert trainer.state.log_history[-2]["rows_left_out"] == count
    if not with_cache:
        listed = [json.loads(line) for line in (tmp_path / "out" / BAD_MEDIA).read_text().splitlines()]
        assert {Path(entry["path"]).name for entry in listed} == {Path(bad).name}
        assert len(listed) == count
    # A share that is too small stops the training.
    strict = make({"max_steps": -1, "num_train_epochs": 1}, fields, sources=[source], max_bad=0.001)
    with pytest.raises(TooManyBadMediaError, match="more than max_bad"):
        run_sft(strict, *build_tiny_pllava(**SMALL))


def test_a_missing_file_is_found_before_a_model_is_loaded(make: Make, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "copy")
    next((tmp_path / "copy").rglob("*.mp4")).unlink()
    source = {"annotation": str(tmp_path / "copy" / "chatgpt.json")}
    recipe = replace(make(sources=[source]), model="no-such-model")
    for run in (run_sft, show_sample):
        with pytest.raises(TooManyBadMediaError, match="missing"):
            run(recipe)


@pytest.mark.parametrize(
    ("arguments", "fields", "mix", "message"),
    [
        ({"per_device_train_batch_size": 3}, {}, {"batches": {"video": 2}}, "give a multiple of 2"),
        ({"train_sampling_strategy": "random"}, {}, {"shuffle": False}, "must be sequential"),
        ({}, {"merge_turns": True}, {"batches": {"video": 2}}, "merge_turns changes the number"),
        ({}, {"records": "x.jsonl"}, {}, "names records and a mix"),
        ({}, {"kinds": ["smell"]}, {}, "kinds .'smell'."),
    ],
)
def test_what_does_not_go_with_a_mix_is_told_before_a_model_is_loaded(
    arguments: dict[str, Any], fields: dict[str, Any], mix: dict[str, Any], message: str, make: Make
) -> None:
    recipe = replace(make(arguments, fields, **mix), model="no-such-model")
    with pytest.raises(RecipeError, match=message):
        make_trainer(recipe)


def test_sound_is_not_asked_of_a_model_that_cannot_hear(make: Make, clips: Path) -> None:
    source = {"annotation": str(clips / "chatgpt.json"), "use_audio": True}
    with pytest.raises(RecipeError, match="use_audio: true, but PllavaProcessor cannot hear"):
        make_trainer(make(sources=[source]), *build_tiny_pllava(**SMALL))


def test_a_mix_without_its_file(make: Make) -> None:
    with pytest.raises(MixError, match="no_such"):
        make_trainer(replace(make(), mix="no_such.yaml"))


def test_questions_about_one_clip_are_joined_and_split(make: Make) -> None:
    plain = make_trainer(make(), *build_tiny_pllava(**SMALL)).train_dataset
    # Rows that are trained on as they are stay in the file that `datasets` keeps.
    assert plain.cache_files
    joined = make_trainer(make(fields={"merge_turns": True}), *build_tiny_pllava(**SMALL)).train_dataset
    split = make_trainer(make(fields={"split_rounds": True}), *build_tiny_pllava(**SMALL)).train_dataset
    assert len(joined) == 24
    assert len(split) > 24


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_is_trained_on_with_one_call(streaming: bool, clips: Path, tmp_path: Path) -> None:
    dataset = load_data(clips / "chatgpt.json", streaming=streaming, cache_dir=str(tmp_path / "cache"))
    args = sft_config(output_dir=str(tmp_path / "run"), max_steps=1, use_cpu=True, disable_tqdm=True)
    model, processor = build_tiny_pllava(**SMALL)
    trainer = make_plain_trainer(model, dataset, processor=processor, args=args)
    trainer.train()
    assert trainer.state.global_step == 1


# Batches of canonical records.


def record(**block: Any) -> dict[str, Any]:
    return check_record(
        {
            "id": "1",
            "messages": [
                {"role": "user", "content": [{"type": "video", **block}, {"type": "text", "text": "What moves?"}]},
                {"role": "assistant", "content": "red"},
            ],
        }
    )


def frames_of(collator: VideoDataCollator, **block: Any) -> torch.Tensor:
    return collator([record(**block)])["pixel_values_videos"]


def test_parts_of_videos_and_of_folders_of_frames(clips: Path, tmp_path: Path) -> None:
    collator = VideoDataCollator(build_tiny_pllava(**SMALL)[1])
    clip = str(next(clips.rglob("*.mp4")))
    whole, part = frames_of(collator, path=clip), frames_of(collator, path=clip, start=0.5, end=1.0)
    plain = [{"role": "user", "content": [{"type": "video", "path": clip, "start": 0.5, "end": 1.0}, *words()]}]
    expected = collator([{"messages": [*plain, {"role": "assistant", "content": "red"}]}])["pixel_values_videos"]
    assert torch.equal(part, expected)
    assert not torch.equal(part, whole)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 31):
        Image.new("RGB", (32, 32), (8 * number, 0, 0)).save(folder / f"{number:05d}.png")
    # Frames 6 to 12 of PLLaVA's rule, at 3 frames per second.
    shown = frames_of(collator, path=str(folder), kind="frames", fps=3, first=1, start=2, end=4)
    by_hand = [{"type": "video", "video": [str(folder / f"{n:05d}.png") for n in range(6, 13)]}, *words()]
    turns = [{"role": "user", "content": by_hand}, {"role": "assistant", "content": "red"}]
    assert torch.equal(shown, collator([{"messages": turns}])["pixel_values_videos"])
    assert not torch.equal(shown, frames_of(collator, path=str(folder), kind="frames", fps=3, first=1))


def test_the_sound_of_a_silent_video_is_not_heard(tmp_path: Path) -> None:
    generate_dataset(tmp_path / "clips", 1, progress=False)
    clip = str(next((tmp_path / "clips").rglob("*.mp4")))
    processor = build_tiny_av()[1]
    heard, silent = (record(path=clip, use_audio=flag) for flag in (True, False))
    collator = VideoDataCollator(processor)

    def sounds(*rows: dict[str, Any]) -> list[torch.Tensor]:
        batch = collator(rows)
        pairs = zip(batch["input_features"], batch["input_features_mask"], strict=True)
        return [features[mask.bool()] for features, mask in pairs]

    (sound,), (silence,) = sounds(heard), sounds(silent)
    # It is as a video without a sound track: silence, or no sound at all. In a batch, each video has its own sound.
    assert len(silence.unique()) == 1
    assert len(sound.unique()) > 1
    both = sounds(heard, silent)
    assert torch.equal(both[0], sound)
    assert torch.equal(both[1], silence)
    without = VideoDataCollator(processor, processor_kwargs={"missing_audio": "skip"})
    assert len(without([heard, silent])["input_features"]) == 1


def words() -> list[dict[str, str]]:
    return [{"type": "text", "text": "What moves?"}]
