"""A callback that reports on a mix. It is imported where training begins, because transformers' callbacks load PEFT."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ..data.bad_media import BadMediaLog, summary
from ..models.errors import warn_caller
from .mixed import TrainingMix

__all__ = ["BadMediaReporter", "MixReporter"]


class BadMediaReporter(TrainerCallback):
    """Says how many rows were left out because of their media: in the log, and at the end of the training.

    Args:
        log: what all processes find.
    """

    def __init__(self, log: BadMediaLog) -> None:
        self.log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run that does not resume one counts from zero."""
        if state.is_world_process_zero and state.global_step == 0:
            self.log.path.unlink(missing_ok=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add `rows_left_out` to an entry of the log, once there are any."""
        number = len(self.log.all())
        if number and logs is not None:
            logs["rows_left_out"] = number
            if state.log_history:
                state.log_history[-1]["rows_left_out"] = number

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how many rows were left out, and where their list is."""
        bad = self.log.all()
        if bad and state.is_world_process_zero:
            warn_caller(f"{summary(bad, self.log.total)}; they are listed in {self.log.path}.")


class MixReporter(BadMediaReporter):
    """Also writes down which mix is trained on.

    Args:
        mix: that is trained on.
        log: what all processes find.
    """

    def __init__(self, mix: TrainingMix, log: BadMediaLog) -> None:
        super().__init__(log)
        self.mix = mix

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the description of the mix into the output folder."""
        if state.is_world_process_zero:
            self.mix.write_description(args.output_dir)
        super().on_train_begin(args, state, control, **kwargs)
