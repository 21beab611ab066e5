"""How much a judge may be used: requests and tokens, counted over all threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ..errors import BudgetError

__all__ = ["Budget"]


@dataclass
class Budget:
    """Counts what was used, and refuses what goes beyond.

    A request is counted when it is sent, with or without success, so that the limit of calls is never passed. Tokens
    are known when a reply has come: requests that are under way together may pass their limit by their own tokens.

    Attributes:
        calls: most requests; `None` is no limit.
        tokens: most tokens of prompts and replies; `None` is no limit.
        used_calls: requests so far.
        used_tokens: tokens so far, as far as the endpoint told them.
    """

    calls: int | None = None
    tokens: int | None = None
    used_calls: int = field(default=0, init=False)
    used_tokens: int = field(default=0, init=False)
    _uncounted: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("calls", "tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 0:
                raise ValueError(f"The judge's budget of {limit} {name} is negative: give a number of at least 0.")

    def take_call(self) -> None:
        """Count one request.

        Raises:
            BudgetError: it would be one too many, or the tokens are used up.
        """
        with self._lock:
            if self.calls is not None and self.used_calls >= self.calls:
                raise BudgetError(f"The judge's budget of {self.calls} calls is used up.")
            if self.tokens is not None and self.used_tokens >= self.tokens:
                raise BudgetError(
                    f"The judge's budget of {self.tokens} tokens is used up ({self.used_tokens} were used)."
                )
            if self.tokens is not None and self._uncounted:
                raise BudgetError("The endpoint does not tell how many tokens a reply took: limit the calls instead.")
            self.used_calls += 1

    def add_tokens(self, tokens: int | None) -> None:
        """Count the tokens of a reply; `None` if the endpoint did not tell them."""
        with self._lock:
            if tokens is None:
                self._uncounted = True
            else:
                self.used_tokens += tokens
