"""Fine-tune a video-language model on your own videos, with TRL's SFTTrainer.

    python examples/finetune_with_trl.py                       # made-up clips; the bundled model with a new connector
    python examples/finetune_with_trl.py my.jsonl --model ./pllava-7b --output run --steps 500

Each line of `my.jsonl` is a conversation (docs/how_to/train.md); paths of videos are relative to the file. Only the
connector is trained. `hf-videollm train` can do more, with recipes: training stages, LoRA, resuming a run.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed
from transformers.utils import logging
from trl import SFTTrainer

import hf_videollm
from hf_videollm.data.records import read_jsonl
from hf_videollm.synthetic.clips import generate_dataset


def main() -> None:
    """Train for some steps, print the loss, save the result, and load it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", help="records; those of made-up clips if omitted")
    parser.add_argument("--model", default=hf_videollm.default_checkpoint(), help="folder or Hub id")
    parser.add_argument("--output", help="folder of the result; a temporary one if omitted")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    set_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model)
    processor = AutoProcessor.from_pretrained(arguments.model)
    model.requires_grad_(False)
    model.model.connector.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        records = arguments.records
        if records is None:
            records = generate_dataset(f"{folder}/clips", num_videos=4, with_audio=False, progress=False)
            for weight in model.model.connector.parameters():
                nn.init.normal_(weight, std=0.02)  # new weights, because the bundled model already knows such clips
        trainer = make_trainer(model, processor, records, arguments.learning_rate, arguments.steps, f"{folder}/run")
        trainer.train()
        output = arguments.output or f"{folder}/result"
        hf_videollm.save_checkpoint(model, processor, output)
        again = AutoModelForImageTextToText.from_pretrained(output)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"trained: {model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters")
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
    print(f"saved and loaded: {type(again).__name__}")


def make_trainer(model: Any, processor: Any, records: str | Path, rate: float, steps: int, folder: str) -> SFTTrainer:
    """Make a trainer for the answers in the records."""
    rows = [{"id": record.id, "messages": record.messages} for record in read_jsonl(records)]
    config = hf_videollm.sft_config(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=rate,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,  # leave this out on a GPU
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return hf_videollm.make_trainer(model, Dataset.from_list(rows), processor=processor, args=config)


if __name__ == "__main__":
    main()
