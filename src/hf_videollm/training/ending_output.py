"""The output of a training on its way to a checkpoint: it is found, loaded, written, loaded again and described."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForImageTextToText

from ..atomic import atomic_folder
from ..base_loading import TRUST
from ..hub.card import CardOptions, write_card
from ..hub.card_training import TRAINING_FILE
from ..hub.checkpoint import save_checkpoint
from ..hub.quantized_weights import fingerprints
from ..known_models import find_model
from ..models.errors import CheckpointError
from ..training_outputs import (
    ADAPTER_CONFIG,
    BaseModel,
    adapter_processor,
    attach_adapter,
    find_output,
    load_base,
    read_base,
)
from .quantized import dequantize
from .run_card import training_summary, write_base_origin, write_run_origin
from .run_log import PLOT_FILE, draw_losses, read_log
from .run_record import RUN_FILE

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FinishReport", "TrainingOutput"]


@dataclass(frozen=True)
class FinishReport:
    """What was written.

    Attributes:
        ending: what was done, in words.
        run: the folder that was given.
        source: the folder in which the model was found: the run itself, or one of its checkpoints.
        base_model: the model that an adapter was merged into; `None` if the run holds whole weights.
        destination: the folder that was written.
        weight_bytes: size of its weight files.
    """

    ending: str
    run: str
    source: str
    base_model: str | None
    destination: str
    weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> Table:
        """A table for a rich console."""
        from rich.table import Table
        from rich.text import Text

        rows = [("ending", self.ending), ("training output", self.source)]
        rows += [("base model", self.base_model)] if self.base_model is not None else []
        rows += [("written to", self.destination), ("weights", f"{self.weight_bytes:,} bytes")]
        rows.append(("checked", "loaded again"))
        table = Table(show_header=False, box=None)
        for name, value in rows:
            # `Text`, because rich would read brackets in a path as markup.
            table.add_row(name, Text(value))
        return table


@dataclass(frozen=True)
class TrainingOutput:
    """Where a training output is, and where its ending is written to."""

    run: str
    source: Path
    dst: Path
    base: BaseModel | None
    given_base: str | None
    overwrite: bool
    max_shard_size: int

    @classmethod
    def of(
        cls,
        run: str | os.PathLike[str],
        dst: str | os.PathLike[str],
        base: str | None,
        overwrite: bool,
        max_shard_size: int,
    ) -> TrainingOutput:
        """Find the output, and refuse a destination that cannot be written, before anything is loaded."""
        source = find_output(find_model(run))
        is_adapter = (source / ADAPTER_CONFIG).is_file() and not (source / "config.json").is_file()
        if base is not None and not is_adapter:
            raise CheckpointError(f"{run} holds whole weights, which need no base model: leave out base.")
        target = Path(dst)
        if target.resolve() in (source.resolve(), *source.resolve().parents):
            raise FileExistsError(f"{dst} is the training output itself, or holds it: choose another destination.")
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise FileExistsError(f"{dst} is not empty: choose another destination, or pass overwrite=True.")
        record = read_base(source) if is_adapter else None
        return cls(os.fspath(run), source, target, record, base, overwrite, max_shard_size)

    def needs_adapter(self) -> BaseModel:
        """The base model of the adapter.

        Raises:
            CheckpointError: there is no adapter.
        """
        if self.base is None:
            raise CheckpointError(
                f"{self.run} holds whole weights and no LoRA: use `hf-videollm finish checkpoint RUN DST`."
            )
        return self.base

    def load_tuned(self, into: str) -> tuple[Any, Any]:
        """The base model in PEFT's wrapper with its adapter, and the processor.

        Args:
            into: for a base model that was quantized: which plain weights it gets.
        """
        model, processor = load_base(self.source, self.given_base, quantized=into == "dequantized")
        if self.needs_adapter().quantization and into == "dequantized":
            model = dequantize(model)
        tuned = attach_adapter(model, self.source)
        return tuned.eval(), adapter_processor(self.source, model) or processor

    def write(
        self, ending: str, model: Any, processor: Any, *, is_compared: bool = True, adapter_only: bool = False
    ) -> FinishReport:
        """Save a model, load it again, compare all weights, and write the card.

        Args:
            ending: what was done, in words.
            model: the model.
            processor: its processor.
            is_compared: whether the weights have the same names when they are loaded again.
            adapter_only: save LinVT alone.
        """
        options: dict[str, Any] = {"adapter_only": True} if adapter_only else {"max_shard_size": self.max_shard_size}
        expected = fingerprints(model) if is_compared else {}
        load = type(model).from_adapter if adapter_only else AutoModelForImageTextToText.from_pretrained
        with atomic_folder(self.dst, overwrite=self.overwrite) as temporary:
            save_checkpoint(model, processor, temporary, **options)
            if is_compared:
                with _under_its_name(temporary, self.dst):
                    again = load(temporary, **TRUST)
                _compare(expected, again, adapter_only)
            self._describe(temporary, ending, with_card=not adapter_only)
            size = sum(file.stat().st_size for file in temporary.rglob("*.safetensors"))
        base = None if self.base is None else self.given_base or self.base.model
        return FinishReport(ending, self.run, str(self.source), base, str(self.dst), size)

    def _describe(self, folder: Path, ending: str, with_card: bool) -> None:
        """Write where the checkpoint comes from: `origin.json`, `training.json`, the plot, and the card."""
        run = next((place for place in (self.source, self.source.parent) if (place / RUN_FILE).is_file()), None)
        if run is not None:
            steps = int(self.source.name.rpartition("-")[2]) if self.source != run else None
            content = {**training_summary(run, steps), "ending": ending}
            (folder / TRAINING_FILE).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
            log = [entry for entry in read_log(run) if steps is None or entry.get("step", 0) <= steps]
            draw_losses(folder / PLOT_FILE, log)
            write_run_origin(folder, run, "hf-videollm finish", "finetune")
        elif self.base is not None:
            write_base_origin(folder, self.given_base or self.base.model, "hf-videollm finish")
        if with_card:
            name = os.path.basename(os.path.abspath(self.dst))
            write_card(folder, folder / "README.md", CardOptions(folder_name=name))


@contextmanager
def _under_its_name(temporary: Path, dst: Path) -> Iterator[None]:
    """Let errors name the destination, because the temporary folder is gone when they are read."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(temporary), str(dst))) from error


def _compare(expected: dict[str, bytes], again: Any, adapter_only: bool) -> None:
    """Compare the weights that were loaded again with those that were saved.

    Raises:
        CheckpointError: a weight differs.
    """
    found = fingerprints(again)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not wrong:
        return
    if adapter_only:
        raise CheckpointError(
            f"LinVT alone would lose what was trained in the image-LLM, such as {wrong[0]}, so nothing was written: "
            "use `hf-videollm finish checkpoint RUN DST`."
        )
    raise CheckpointError(
        f"The checkpoint would not load as it was saved, so nothing was written: {len(wrong)} of {len(expected)} "
        f"weights differ, the first is {wrong[0]}."
    )
