"""Train-time sampling and augmentation: drawn by seed, epoch and video, alike for all frames, off in evaluations."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_videollm
from hf_videollm.data.records import make_record, write_jsonl
from hf_videollm.models.media_reading import reading_through
from hf_videollm.models.media_video import load_video
from hf_videollm.training.augmenting import Augmenter, augmented_picture, draw_key, random_in_segments
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.recipe import Recipe, RecipeError, load_recipe
from hf_videollm.training.recipe_augment import Augment, read_augment
from hf_videollm.training.sft import make_trainer

EVERYTHING = {"frames": "random", "num_frames": [3, 5], "crop": 0.5, "flip": 0.5}


@pytest.mark.parametrize(("total", "number"), [(30, 4), (100, 16), (9, 3), (10, 10), (7, 5)])
def test_each_segment_gives_each_of_its_frames(total: int, number: int) -> None:
    edges = np.linspace(0, total, number + 1)
    chosen = np.floor((edges[:-1] + edges[1:]) / 2).astype(int).tolist()
    rng = random.Random(0)
    drawn = np.array([random_in_segments(chosen, total, rng) for _ in range(600)])
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert set(drawn.flatten().tolist()) == set(range(total))
    assert (np.abs(drawn - np.array(chosen)) <= total / number).all()


def test_a_part_of_a_video_stays_that_part() -> None:
    rng = random.Random(0)
    drawn = [random_in_segments([40, 50, 60], 1000, rng) for _ in range(300)]
    assert min(map(min, drawn)) >= 34
    assert max(map(max, drawn)) <= 66
    assert random_in_segments([7], 100, rng) == [7]
    assert random_in_segments([0, 0, 1], 2, rng) == [0, 0, 1]  # a video with fewer frames than asked for


def read(clip: str, augmenter: Augmenter | None, number: int = 4) -> tuple[np.ndarray, list[int]]:
    processor = hf_videollm.default_checkpoint()
    video_processor = _video_processor(processor)
    with reading_through(augmenter):
        frames, metadata = video_processor.decode(clip, num_frames=number)
    return frames.numpy(), list(metadata.frames_indices)


_PROCESSORS: dict[str, Any] = {}


def _video_processor(source: str) -> Any:
    from transformers import AutoProcessor

    if source not in _PROCESSORS:
        _PROCESSORS[source] = AutoProcessor.from_pretrained(source).video_processor
    return _PROCESSORS[source]


def test_draws_depend_on_seed_epoch_and_video_alone(clips: list[str]) -> None:
    settings = Augment("random", (3, 5), 0.5, 0.5)

    def drawn(seed: int, epoch: int, order: list[str]) -> dict[str, tuple[bytes, tuple[int, ...]]]:
        augmenter = Augmenter(settings, seed)
        augmenter.epoch = epoch
        found = {clip: read(clip, augmenter) for clip in order}
        return {clip: (frames.tobytes(), tuple(numbers)) for clip, (frames, numbers) in found.items()}

    first = drawn(0, 0, clips)
    assert drawn(0, 0, clips[::-1]) == first
    # Controls: another epoch and another seed draw something else.
    assert drawn(0, 1, clips) != first
    assert drawn(1, 0, clips) != first


def test_videos_are_told_apart_by_name_or_content(clips: list[str], tmp_path: Path) -> None:
    """The folder does not count; videos without a file, such as those of a Hub dataset, are not all drawn alike."""
    moved = shutil.copy(clips[0], tmp_path)
    assert draw_key(moved) == draw_key(clips[0]) != draw_key(clips[1])
    assert draw_key(Path(moved).as_uri()) == draw_key(moved)
    stored = [{"bytes": Path(clip).read_bytes(), "path": None} for clip in clips]
    frames = [np.full((2, 4, 4, 3), number, np.uint8) for number in range(2)]
    urls = ["data:video/mp4;base64,AAAA", "data:video/mp4;base64,BBBB"]
    names = [[f"{clip}/{number}.png" for number in range(2)] for clip in clips]
    for sources in (stored, frames, urls, names):
        keys = [draw_key(source) for source in sources]
        assert len({*keys}) == len(keys)
        assert keys == [draw_key(source) for source in sources]


def test_all_frames_of_a_video_change_alike(clips: list[str]) -> None:
    augmenter = Augmenter(Augment(crop=0.4, flip=1.0), 0)
    plain = load_video(clips[0], num_frames=4)[0]
    options: dict[str, Any] = {"num_frames": 4, "frame_fn": None}
    # What is drawn depends on the path of the clip. Of many epochs, one crops by a pixel or more.
    for epoch in range(50):
        augmenter.epoch = epoch
        changed, _ = augmenter.video(clips[0], dict, options)
        height, width = changed.shape[1:3]
        if height < plain.shape[1]:
            break
    assert height < plain.shape[1]
    places = set()
    for frame, own in zip(changed, plain, strict=True):
        mirrored = frame[:, ::-1]
        places.add(
            next(
                (top, left)
                for top in range(own.shape[0] - height + 1)
                for left in range(own.shape[1] - width + 1)
                if np.array_equal(own[top : top + height, left : left + width], mirrored)
            )
        )
    assert len(places) >= 1
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(augmented_picture(picture, 1.0, (0.3, 0.9), False), picture)
    assert np.array_equal(augmented_picture(picture, 1.0, (0.3, 0.9), True), picture[:, ::-1])


def test_numbers_of_frames_are_drawn(clips: list[str]) -> None:
    augmenter = Augmenter(Augment(num_frames=(2, 6)), 0)
    counts = set()
    for epoch in range(100):  # the chance that one of five numbers is missing is below 1e-8
        augmenter.epoch = epoch
        counts.add(len(read(clips[0], augmenter)[1]))
    assert counts == {2, 3, 4, 5, 6}
    with augmenter.off():
        assert read(clips[0], augmenter)[1] == read(clips[0], None)[1]


@pytest.fixture
def recipe(clips: list[str], tmp_path: Path) -> Recipe:
    records = [make_record(str(n), clips[n % len(clips)], [("What?", "red")]) for n in range(4)]
    write_jsonl(records, tmp_path / "records.jsonl")
    arguments = {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Recipe(
        model=hf_videollm.default_checkpoint(),
        records=str(tmp_path / "records.jsonl"),
        trainable=["connector"],
        augment=EVERYTHING,
        arguments=arguments,
    )


def losses(recipe: Recipe, **arguments: Any) -> list[float]:
    trainer = make_trainer(replace(recipe, arguments={**recipe.arguments, **arguments}))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_workers_do_not_change_what_is_drawn(recipe: Recipe) -> None:
    alone = losses(recipe)
    assert losses(recipe, dataloader_num_workers=2, dataloader_persistent_workers=True) == alone
    assert losses(replace(recipe, augment=None)) != alone  # the control


def test_evaluations_do_not_see_it(recipe: Recipe) -> None:
    trainer = make_trainer(recipe)
    plain = make_trainer(replace(recipe, augment=None))
    rows = trainer.train_dataset
    assert trainer.evaluate(rows)["eval_loss"] == plain.evaluate(rows)["eval_loss"]
    batch, other = (each.data_collator([rows[0], rows[1]]) for each in (trainer, plain))
    assert not _same(batch, other)  # the control: a batch to train on differs
    asked, unchanged = (each.data_collator.prompts([rows[0]])[0] for each in (trainer, plain))
    assert _same(asked, unchanged)


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))


def test_the_collator_alone_changes_nothing(recipe: Recipe) -> None:
    trainer = make_trainer(recipe)
    row = trainer.train_dataset[0]
    plain = VideoDataCollator(trainer.processing_class)([row])
    with trainer.data_collator.augmenter.off():
        assert _same(plain, trainer.data_collator([row]))


def test_settings_are_read_and_checked() -> None:
    assert read_augment(load_recipe("linvt/align").augment) == Augment("random", (40, 60))
    assert read_augment(load_recipe("pllava/instruct").augment) == Augment("random")
    assert read_augment({"crop": 1, "flip": 0}) is None
    check: Callable[[str], Recipe] = lambda setting: load_recipe("linvt/align", [setting])  # noqa: E731
    for setting, message in (
        ("augment.frame=random", "did you mean frames"),
        ("augment.frames=randm", "did you mean random"),
        ("augment.num_frames=[60, 40]", "smallest and the largest"),
        ("augment.num_frames=50", "smallest and the largest"),
        ("augment.crop=0", "above 0 to 1"),
        ("augment.flip=2", "from 0 to 1"),
        ("frame_cache=cache", "leave one of them out"),
    ):
        with pytest.raises(RecipeError, match=message):
            check(setting)
