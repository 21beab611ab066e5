"""What a trainer writes beside the weights that it saves: the base model of an adapter, and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..origin import carry_origin
from ..training_outputs import ADAPTER_CONFIG, BaseModel, write_base
from .result import WEIGHTS
from .run_card import write_run_card

__all__ = ["SavingMixin"]


class SavingMixin:
    """For a trainer of TRL. In a list of base classes, it must come before the trainer.

    Attributes:
        base_model: the model that the training began with, if it was loaded from a folder or the Hub.
    """

    base_model: BaseModel | None = None
    args: Any
    model: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers. An adapter is saved with the record of its base model, and with a card that names it."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call and self.args.should_save:
            _make_unfinished(folder)
        super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        if not self.args.should_save:
            return
        if (folder / ADAPTER_CONFIG).is_file():
            # PEFT has written a card with the path of the base model on this machine.
            (folder / "README.md").unlink(missing_ok=True)
            if self.base_model is not None:
                write_base(folder, self.base_model)
        if self.base_model is None:
            # The model was passed in memory: what it says about its origin holds for the result, too.
            carry_origin(self.model, folder)
        write_run_card(folder, Path(self.args.output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL would write a card that says "fine-tuned version of None". `save_model` writes the card."""


def _make_unfinished(folder: Path) -> None:
    """Mark a checkpoint that is about to be written over as unfinished, and remove its old weights.

    Otherwise, a kill could leave new weights beside the optimizer of an earlier run, and all files would look whole.
    """
    if not folder.is_dir():
        return
    # This file is written last, so a checkpoint without it is not used.
    (folder / "trainer_state.json").unlink(missing_ok=True)
    for path in list(folder.iterdir()):
        if WEIGHTS.fullmatch(path.name) or path.name in ("config.json", ADAPTER_CONFIG):
            path.unlink()
