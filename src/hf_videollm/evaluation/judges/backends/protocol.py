"""What every judge can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..items import JudgeItem
from ..judge_text import ChatMessage
from ..policies import JudgePolicy

__all__ = ["Judge", "describe_judge"]


class Judge(Protocol):
    """Answers the messages of a judge text. `complete` may be called from several threads.

    A class that inherits from this one has to bring `kind`, `model` and `complete`.

    Attributes:
        kind: openai, local or rule.
        model: which model it is, as results name it.
    """

    kind: str
    model: str

    def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        item: JudgeItem | None = None,
        attempt: int = 1,
    ) -> str:
        """The reply to the messages.

        Args:
            messages: what a judge text rendered.
            temperature: sampling temperature; 0 is greedy, `None` leaves it to the model.
            top_p: nucleus sampling; `None` leaves it to the model.
            max_tokens: longest reply; `None` leaves it to the model.
            item: what the messages were rendered from, for judges that read no messages.
            attempt: how often these messages have been sent, this time included. Judges that sample by themselves
                draw another reply each time.

        Raises:
            NoReplyError: there is no reply to these messages.
            JudgeStopError: there will be no reply to any others, either.
        """
        ...

    def repeats_itself(self, temperature: float | None) -> bool:
        """Whether the same messages get the same reply each time, so that asking again is in vain."""
        return False

    def interrupt(self) -> None:
        """End the waits between retries, because the run is stopped: those who wait raise `JudgeStopError`."""
        return


def describe_judge(judge: Judge, policy: JudgePolicy) -> dict[str, Any]:
    """Who judged, and by which policy, for the record of a run. It holds no key."""
    return {"judge": judge.kind, "judge_model": judge.model, "policy": policy.to_dict()}
