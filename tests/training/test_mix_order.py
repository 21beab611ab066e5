"""The order of a mix: the same with two processes as with one, and when a training resumes amid an epoch."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.epoch_order import EpochOrder
from hf_videollm.training.mixed import open_mix
from hf_videollm.training.run_callbacks import EpochTeller
from hf_videollm.training.sft import Recipe, make_trainer, run_sft

SMALL = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with a caption each, and the picture of one."""
    folder = tmp_path_factory.mktemp("ordered") / "clips"
    generate_dataset(folder, 6, kind="motion", progress=False)
    videos = sorted(path.name for path in (folder / "videos").iterdir())
    (folder / "captions.csv").write_text("video,caption\n" + "".join(f"{name},a shape\n" for name in videos))
    texts = [
        {"id": n, "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": f"Hello {n}"}]}
        for n in range(4)
    ]
    (folder / "texts.json").write_text(json.dumps(texts))
    return folder


@pytest.fixture
def make(clips: Path, tmp_path: Path) -> Make:
    def recipe(output: str, batches: bool, **arguments: Any) -> Recipe:
        sources = [
            {
                "annotation": str(clips / "captions.csv"),
                "root": str(clips / "videos"),
                "format": "K",
                "source": "films",
            },
            {"annotation": str(clips / "texts.json"), "format": "L", "source": "texts"},
        ]
        mix: dict[str, Any] = {"seed": 5, "sources": sources}
        if batches:
            mix["batches"] = {"video": 1, "text": 1}
        (tmp_path / "mix.yaml").write_text(yaml.safe_dump(mix))
        options = {
            "output_dir": str(tmp_path / output),
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **arguments,
        }
        return Recipe(mix=str(tmp_path / "mix.yaml"), arguments=options)

    return recipe


def names_of(rows: Any) -> dict[str, Any]:
    return {"ids": [row["id"] for row in rows]}


def order_of(recipe: Recipe, processes: int, epochs: int = 2) -> list[list[str]]:
    """The batches of all processes, in the order in which they are trained on."""
    trainer = make_trainer(recipe, *build_tiny_pllava(**SMALL))
    base = trainer.get_train_dataloader()
    found: list[list[list[str]]] = []
    for rank in range(processes):
        plain: Any = DataLoader(base.dataset, batch_sampler=base.batch_sampler, collate_fn=names_of)
        loader = prepare_data_loader(plain, num_processes=processes, process_index=rank, put_on_device=False)
        found.append([])
        for epoch in range(epochs):
            for sampler in (base.batch_sampler, base.batch_sampler.sampler):
                if callable(getattr(sampler, "set_epoch", None)):
                    sampler.set_epoch(epoch)
            found[-1] += [batch["ids"] for batch in loader]
    return [batch for step in zip(*found, strict=True) for batch in step]


@pytest.mark.parametrize("batches", [False, True])
def test_two_processes_share_the_order_of_one(make: Make, batches: bool) -> None:
    recipe = make("run", batches)
    alone, shared = order_of(recipe, 1, epochs=1), order_of(recipe, 2, epochs=1)
    # If their number is odd, the process without a last batch gets the first rows once more.
    assert shared[: len(alone)] == alone
    assert len(shared) - len(alone) <= 1
    if batches:
        assert all({name.partition("/")[0] for name in batch} == {"films", "texts"} for batch in shared)
    else:
        assert sorted(name for batch in alone for name in batch) != [name for batch in alone for name in batch]


@pytest.mark.parametrize("batches", [False, True])
def test_a_resumed_training_goes_on_in_the_same_order(
    make: Make, batches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    own = VideoDataCollator.__call__

    def noting(collator: Any, rows: Any) -> Any:
        seen.append([row["id"] for row in rows])
        return own(collator, rows)

    monkeypatch.setattr(VideoDataCollator, "__call__", noting)

    def run(recipe: Recipe) -> tuple[list[list[str]], list[float]]:
        seen.clear()
        torch.manual_seed(0)
        trainer = run_sft(recipe, *build_tiny_pllava(**SMALL))
        return list(seen), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    whole, losses = run(make("whole", batches, max_steps=7))
    run(make("halves", batches, max_steps=3, save_strategy="steps", save_steps=3))
    rest, continued = run(make("halves", batches, max_steps=7, save_strategy="steps", save_steps=3))
    assert rest == whole[3:]
    assert continued == losses
    assert whole[:2] != rest[:2]  # the control


@pytest.mark.parametrize("still", [False, True])
def test_every_epoch_has_another_order(make: Make, tmp_path: Path, still: bool) -> None:
    """The ratio of each batch stays, and so do the rows of the first modality; all rows of the others come in turn."""
    recipe = make("run", True)
    if still:
        # The rows of this recipe are in memory.
        recipe = replace(recipe, still_frames=True, frame_cache=str(tmp_path / "cache"))
    trainer = make_trainer(recipe, *build_tiny_pllava(**SMALL))
    (teller,) = (call for call in trainer.callback_handler.callbacks if isinstance(call, EpochTeller))
    (order,) = (told for told in teller.told if isinstance(told, EpochOrder))
    epochs = []
    for epoch in range(3):
        order.epoch = epoch
        epochs.append([row["id"] for row in trainer.train_dataset])
        assert [name.partition("/")[0] for name in epochs[-1]] == ["texts", "films"] * 4
        assert len(set(epochs[-1][::2])) == 4
    assert len({tuple(ids) for ids in epochs}) == 3
    # An epoch has four of the six films.
    assert len({name for ids in epochs for name in ids[1::2]}) == 6
    order.epoch = 0
    assert [row["id"] for row in trainer.train_dataset] == epochs[0]


def test_each_epoch_of_a_training_is_that_of_the_mix(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    own = VideoDataCollator.__call__

    def noting(collator: Any, rows: Any) -> Any:
        seen.extend(row["id"] for row in rows)
        return own(collator, rows)

    monkeypatch.setattr(VideoDataCollator, "__call__", noting)
    recipe = make("run", True, num_train_epochs=2)
    run_sft(recipe, *build_tiny_pllava(**SMALL))
    mix = open_mix(recipe)
    assert mix is not None
    first, second = (mix.rows(epoch)["id"][:] for epoch in (0, 1))
    assert seen == [*first, *second]
    assert first != second  # the control
