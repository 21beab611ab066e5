"""TRL's trainer alone never learns a question, and never trains without the media of its rows: it stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from packaging.version import Version
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

import hf_videollm
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.transformers_compat import rename_checkpointing

ASK, ANSWER = "What colour is the shape?", "red"
TURNS = [{"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}]
BLOCKS = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
# Rows whose media TRL does not pass on, or that have none.
BLIND: dict[str, dict[str, Any]] = {
    "texts beside a column": {"messages": TURNS, "videos": ["a.mp4"]},
    "prompt and completion": {"prompt": ASK, "completion": ANSWER, "videos": ["a.mp4"]},
    "chats of both": {"prompt": TURNS[:1], "completion": TURNS[1:], "video": "a.mp4"},
    "plain text": {"text": f"{ASK} {ANSWER}"},
    "text alone": {"messages": TURNS},
}


def quick(folder: Path, **options: Any) -> dict[str, Any]:
    arguments = {"output_dir": str(folder), "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "bf16": False}
    arguments |= {"report_to": "none", "save_strategy": "no", "per_device_train_batch_size": 2}
    return arguments | rename_checkpointing({"gradient_checkpointing": False}) | options


def plain(model: Any, processor: Any, row: dict[str, Any], folder: Path, **options: Any) -> SFTTrainer:
    return SFTTrainer(
        model,
        SFTConfig(**quick(folder, **{key: value for key, value in options.items() if key != "peft_config"})),
        train_dataset=Dataset.from_list([row] * 2),
        processing_class=processor,
        peft_config=options.get("peft_config"),
    )


@pytest.mark.parametrize("name", [*bundled_checkpoints(), "videollama2"])
def test_rows_whose_media_are_dropped_are_refused(checkpoint: Callable[[str], str], tmp_path: Path, name: str) -> None:
    source = checkpoint(name)
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    with pytest.raises(ValueError, match=r"trained blind: .*make_trainer"):
        plain(model, processor, BLIND["texts beside a column"], tmp_path, assistant_only_loss=True).train()
    # The control: the trainer that the message names trains on rows of text alone.
    model = AutoModelForImageTextToText.from_pretrained(source)
    text = Dataset.from_list([{"messages": BLOCKS}] * 2)
    args = hf_videollm.sft_config(**quick(tmp_path))
    hf_videollm.make_trainer(model, text, args=args, processor=processor).train()


@pytest.mark.parametrize("form", BLIND)
@pytest.mark.parametrize("with_lora", [False, True])
def test_no_form_of_rows_gets_past(
    checkpoint: Callable[[str], str], tmp_path: Path, form: str, with_lora: bool
) -> None:
    from peft import LoraConfig

    source = checkpoint("pllava-tiny")
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    lora = LoraConfig(target_modules=["q_proj"], r=2) if with_lora else None
    with pytest.raises(ValueError, match=r"trained blind: .*make_trainer"):
        plain(model, processor, BLIND[form], tmp_path, peft_config=lora).train()


@pytest.mark.skipif(
    Version(trl.__version__) < Version("1.16"), reason="TRL 1.10 drops an empty column of images, as any other"
)
def test_questions_are_not_learned_in_batches_of_the_collator_of_trl(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """Rows with a column of images are made by the processor; a batch of those without any is text alone."""
    source = checkpoint("pllava-tiny")
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    row = {"messages": BLOCKS, "images": []}
    with pytest.raises(ValueError, match=r"first token of a row.*assistant_only_loss=True"):
        plain(model, processor, row, tmp_path).train()
    plain(model, processor, row, tmp_path, assistant_only_loss=True).train()
