"""The script that everybody writes: with TRL alone it learns answers or stops; with `make_trainer` it works at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from packaging.version import Version
from transformers import AutoModelForImageTextToText, AutoProcessor, EvalPrediction, TrainerCallback
from trl import SFTConfig, SFTTrainer

import hf_videollm
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.transformers_compat import rename_checkpointing
from hf_videollm.training.collator import IGNORE_INDEX

ASK = "What colour is the shape?"
DESIGNS = [*bundled_checkpoints(), "videollama2"]
every_design = pytest.mark.parametrize("name", DESIGNS)


def rows(clips: list[str]) -> list[dict[str, Any]]:
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ASK}]}
    answers = ("red", "blue", "green")
    return [
        {"messages": [user, {"role": "assistant", "content": [{"type": "text", "text": answer}]}], "videos": [clip]}
        for clip, answer in zip(clips, answers, strict=True)
    ]


def config(folder: Path, **options: Any) -> SFTConfig:
    quick = {"output_dir": str(folder), "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return hf_videollm.sft_config(**{**quick, "logging_steps": 1, **options})


def num_learned(trainer: SFTTrainer, dataset: Dataset) -> list[int]:
    labels = trainer.data_collator(list(dataset))["labels"]
    return (labels != IGNORE_INDEX).sum(-1).tolist()


@every_design
def test_one_call_trains_every_design(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path, name: str
) -> None:
    data = Dataset.from_list(rows(clips))
    trainer = hf_videollm.make_trainer(
        checkpoint(name),
        data,
        args=config(tmp_path, per_device_train_batch_size=3, learning_rate=1e-2),
        processor_kwargs={"num_frames": 2} if name != "iva-tiny" else None,
    )
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    seen: list[dict[str, Any]] = []
    hook = trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True
    )
    trainer.train()
    hook.remove()
    (batch,) = seen
    assert batch["pixel_values_videos"].shape[0] in (3, 6)  # LinVT joins the frames of all videos
    learned = batch["labels"] != IGNORE_INDEX
    assert learned.sum(-1).tolist() == [2, 2, 2]
    assert any(not torch.equal(value, dict(trainer.model.named_parameters())[key]) for key, value in before.items())


@every_design
def test_labels_of_placeholders_are_refused_wherever_they_come_from(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path, name: str
) -> None:
    """TRL's own collator learns every token of a row that has an `images` column, placeholders too."""
    source = checkpoint(name)
    model = AutoModelForImageTextToText.from_pretrained(source)
    processor = AutoProcessor.from_pretrained(source)
    named = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "video", "path": row["videos"][0]}, {"type": "text", "text": ASK}],
                },
                row["messages"][1],
            ],
            "images": [],
        }
        for row in rows(clips)[:2]
    ]

    def trainer(**options: Any) -> SFTTrainer:
        arguments = {"output_dir": str(tmp_path), "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "bf16": False}
        checkpointing = rename_checkpointing({"gradient_checkpointing": False})
        arguments |= {"report_to": "none", "save_strategy": "no", **checkpointing, **options}
        return SFTTrainer(
            model, SFTConfig(**arguments), train_dataset=Dataset.from_list(named), processing_class=processor
        )

    # TRL 1.10 drops an empty column of images, so the processor gets placeholders and no videos.
    refused = r"labels hold placeholders of media.*make_trainer|0 videos.*make_trainer"
    with pytest.raises(ValueError, match=refused):
        trainer().train()
    if Version(trl.__version__) < Version("1.16"):
        return
    # The control: with the setting that the message names, TRL's collator learns answers.
    trainer(assistant_only_loss=True).train()


def test_evaluation_has_a_loss_answers_and_metrics(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path
) -> None:
    given: list[EvalPrediction] = []
    told: list[dict[str, float]] = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            told.append(metrics)

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        given.append(prediction)
        return {"mean_length": sum(map(len, prediction.predictions)) / len(prediction.predictions)}

    data = Dataset.from_list(rows(clips))
    pipe = hf_videollm.load_pipeline(checkpoint("pllava-tiny"))
    expected = [
        pipe(clip, text=ASK, return_full_text=False, generate_kwargs={"max_new_tokens": 4})[0]["generated_text"].strip()
        for clip in clips
    ]
    right = Dataset.from_list(
        [
            {
                **row,
                "messages": [row["messages"][0], {"role": "assistant", "content": [{"type": "text", "text": text}]}],
            }
            for row, text in zip(rows(clips), expected, strict=True)
        ]
    )
    trainer = hf_videollm.make_trainer(
        checkpoint("pllava-tiny"),
        data,
        args=config(tmp_path, per_device_eval_batch_size=2),
        eval_dataset={"right": right, "wrong": data.to_iterable_dataset()},
        generate={"max_new_tokens": 4},
        compute_metrics=measure,
        callbacks=[Listener()],
    )
    metrics = trainer.evaluate()
    assert metrics["eval_right_exact_match"] == 1
    assert metrics["eval_right_loss"] < metrics["eval_wrong_loss"]
    assert given[0].predictions == given[0].label_ids == expected
    assert metrics["eval_right_mean_length"] == sum(map(len, expected)) / 3
    assert [set(entry) & {"eval_right_exact_match", "eval_wrong_exact_match"} for entry in told] == [
        {"eval_right_exact_match"},
        {"eval_wrong_exact_match"},
    ]


def test_streams_noise_and_loras_train(checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path) -> None:
    from peft import LoraConfig

    model = AutoModelForImageTextToText.from_pretrained(checkpoint("pllava-tiny"))
    trainer = hf_videollm.make_trainer(
        model,
        Dataset.from_list(rows(clips)).to_iterable_dataset(),
        args=config(tmp_path, neftune_noise_alpha=5.0, assistant_only_loss=True),
        peft_config=LoraConfig(target_modules=["q_proj"], r=2),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0
    trained = [key for key, value in trainer.model.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora" in key for key in trained)


WRONG_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "packing": ({"packing": True}, ValueError, "rows are not packed"),
    "padding_free": ({"padding_free": True}, ValueError, "rows with media are padded"),
    "cutting": ({"max_length": 512}, ValueError, "rows are never cut"),
    "everything": ({"assistant_only_loss": False}, ValueError, "only answers are learned"),
    "columns": ({"remove_unused_columns": True}, ValueError, "the columns hold the media"),
    "misspelt": ({"learning_rat": 1e-3}, TypeError, "learning_rate"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_what_media_do_not_allow_is_refused(name: str) -> None:
    options, kind, message = WRONG_ARGUMENTS[name]
    with pytest.raises(kind, match=message):
        hf_videollm.sft_config(**options)


def test_arguments_of_the_trainer_are_checked(
    checkpoint: Callable[[str], str], clips: list[str], tmp_path: Path
) -> None:
    data, source = Dataset.from_list(rows(clips)), checkpoint("pllava-tiny")
    plain = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    plain |= rename_checkpointing({"gradient_checkpointing": False})
    with pytest.raises(ValueError, match=r"drop or cut media: make them by hf_videollm\.sft_config"):
        hf_videollm.make_trainer(source, data, args=SFTConfig(**plain))
    with pytest.raises(TypeError, match="makes the data_collator itself"):
        hf_videollm.make_trainer(source, data, args=config(tmp_path), data_collator=lambda rows: rows)
    with pytest.raises(ValueError, match="pass generate=True"):
        hf_videollm.make_trainer(source, data, args=config(tmp_path), compute_metrics=lambda prediction: {})
    with pytest.raises(ValueError, match="pass eval_dataset"):
        hf_videollm.make_trainer(source, data, args=config(tmp_path), generate=True)
    model = AutoModelForImageTextToText.from_pretrained(source)
    model.config.name_or_path = ""
    with pytest.raises(TypeError, match="pass processor"):
        hf_videollm.make_trainer(model, data, args=config(tmp_path))
