"""Short trainings of every design, for tests of what a training leaves: records, recipes, answers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_videollama2_checkpoint import write_videollama2

from hf_videollm.training.sft import Recipe

# Design -> its checkpoint (a fixture, or the name of a bundled one), and the part that is trained beside a LoRA.
DESIGNS = {
    "pllava": ("tiny_checkpoint", "connector"),
    "videollama2": ("tiny_videollama2", "connector"),
    "videollama2_av": ("tiny_av_checkpoint", "audio_projector"),
    "ftfv": ("tiny_ftfv_checkpoint", "connector"),
    "iva": ("tiny_iva_checkpoint", "adapter"),
    "linvt": ("tiny_linvt_checkpoint", "linvt"),
}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="session")
def tiny_videollama2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_videollama2(tmp_path_factory.mktemp("videollama2") / "videollama2"))


def write_records(folder: Path, clips: Sequence[str]) -> str:
    """A file with a record for each clip."""
    file = folder / "records.jsonl"
    with file.open("w") as records:
        for number, clip in enumerate(clips):
            content = [{"type": "video", "path": clip}, {"type": "text", "text": "What is it?"}]
            answer = {"role": "assistant", "content": ["a red square", "a dog", "grey", "two"][number % 4]}
            records.write(json.dumps({"id": str(number), "messages": [{"role": "user", "content": content}, answer]}))
            records.write("\n")
    return str(file)


def make_recipe(model: str | None, records: str, output: Path, **fields: Any) -> Recipe:
    """A recipe of four steps that change the model so much that its answers change; each step is logged."""
    arguments = {
        "output_dir": str(output),
        "max_steps": 4,
        "per_device_train_batch_size": 1,
        "learning_rate": 0.02,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **fields.pop("arguments", {}),
    }
    return replace(Recipe(model=model, records=records, arguments=arguments), **fields)


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def inner(model: Any) -> Any:
    """The model of a design, out of PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def answer(model: Any, processor: Any, clip: str, num_tokens: int = 8) -> tuple[list[int], torch.Tensor]:
    """The tokens that a model writes about a clip, and the logits of the first of them."""
    chat = [{"role": "user", "content": [{"type": "video", "path": clip}, {"type": "text", "text": "What is it?"}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model = model.eval()
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].float()
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=num_tokens)
    return tokens[0, inputs["input_ids"].shape[1] :].tolist(), logits
