"""Failures that a test asks for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """One way to fail, for requests of one kind.

    Attributes:
        where: regular expression that is searched in `METHOD path`, such as `"POST .*/commit/"`.
        status: HTTP status of the answer; 0 answers as usual.
        times: how many requests fail; the ones after them are answered as usual.
        skip: how many requests of this kind are answered as usual before the first failure.
        headers: further headers of the answer.
        message: the `error` of the body.
        cut: close the connection after half of the request's body was read, without an answer.
        cut_after: do what was asked, and close the connection instead of answering.
        then: called before the failure, for example to kill the client.
    """

    where: str
    status: int = 0
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "it failed"
    cut: bool = False
    cut_after: bool = False
    then: Callable[[], object] | None = None

    def strikes(self, request: str) -> bool:
        """Whether this request fails; counts it."""
        if self.times <= 0 or not re.search(self.where, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


__all__ = ["Fault"]
