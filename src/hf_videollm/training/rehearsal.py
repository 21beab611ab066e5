"""Tries the arguments of a training before its model is loaded: TRL's trainer is made with them on a stand-in model.

Whatever transformers, TRL, torch and accelerate refuse when they make the trainer, the optimizer, the schedule and the
data loader, they refuse here. The stand-in is a language model with a few hundred numbers, so this takes less than a
second.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..models.errors import one_line
from .recipe_errors import RecipeError

__all__ = ["FAULTS", "named_fault", "rehearse"]

# What libraries raise when they are given an impossible value.
FAULTS = (
    ValueError,
    TypeError,
    ImportError,
    KeyError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
)
# With these, the trainer needs other processes to be made.
_SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


def rehearse(args: Any) -> None:
    """Make the trainer, optimizer, schedule and data loader of these arguments for a stand-in model.

    Nothing is trained or written, and the random state does not change.

    Args:
        args: `trl.SFTConfig`.

    Raises:
        Exception: whatever a library raises about an argument.
    """
    if args.fsdp or args.deepspeed or any(os.environ.get(name, "false").lower() in ("1", "true") for name in _SHARDED):
        return
    from trl import SFTTrainer

    with tempfile.TemporaryDirectory(prefix="hf_videollm_") as folder, _kept_random_state():
        args = copy.copy(args)
        args.output_dir, args.push_to_hub = folder, False
        trainer: Any = SFTTrainer(
            model=_stand_in(),
            args=args,
            train_dataset=_rows(),
            data_collator=dict,
            processing_class=_tokenizer(),
        )
        # With these, the optimizer looks for modules by their names, which the stand-in does not have.
        if args.optim_target_modules is None:
            trainer.create_optimizer()
            trainer.create_scheduler(num_training_steps=10, optimizer=trainer.optimizer)
        trainer.get_train_dataloader()


def named_fault(
    error: BaseException, options: Mapping[str, Any], given: Iterable[str], attempt: Callable[[Mapping[str, Any]], Any]
) -> RecipeError:
    """The error about the argument without which an attempt succeeds.

    Libraries often say what is wrong without the name of the argument.

    Args:
        error: that of the attempt with all arguments.
        options: the arguments.
        given: names of those that the recipe gives.
        attempt: fails with one of `FAULTS` if an argument is wrong.
    """
    reason = one_line(error, 200)
    for name in given:
        try:
            attempt({other: value for other, value in options.items() if other != name})
        except FAULTS:
            continue
        if name in options:
            return RecipeError(
                f"arguments: {name}={options[name]!r} is impossible ({reason}): correct it or leave it out."
            )
    return RecipeError(f"arguments: {reason}")


def _stand_in() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 4, "hidden_size": 4, "intermediate_size": 4, "max_position_embeddings": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=1, pad_token_id=2))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="</s>", pad_token="<pad>")


def _rows() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"id": "1", "messages": [{"role": "user", "content": "?"}]}])


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """The trainer sets the seed of everything."""
    own, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(own)
        np.random.set_state(of_numpy)
