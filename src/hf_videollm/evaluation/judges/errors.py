"""What can go wrong with a judge: no reply to one item, or no more replies at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .items import Judgement

__all__ = ["BudgetError", "JudgeError", "JudgeStopError", "NoReplyError"]


class JudgeError(ValueError):
    """A judge cannot be used as it was asked for; the message says what to change."""


class NoReplyError(JudgeError):
    """There is no reply to one item, also after the retries. The item fails; others go on."""


class JudgeStopError(JudgeError):
    """No further item can be judged: the key is refused, the account is empty, or nobody answers.

    Attributes:
        judgements: what was judged before, in the order of the items; `None` for items that were not.
    """

    judgements: Sequence[Judgement | None] = ()


class BudgetError(JudgeStopError):
    """The calls or tokens that the user allowed are used up."""
