"""A judge behind any endpoint that speaks OpenAI's chat API: `POST /chat/completions` with a key in the header.

Requests that get no reply for a passing reason are repeated: too many requests (429), an error of the server (5xx), a
connection that breaks or says nothing, a body that is no chat reply. What would go wrong again for every item stops the
run at once: a key that is refused, an empty account, an unknown model.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import JudgeError, JudgeStopError, NoReplyError
from ..items import JudgeItem
from ..judge_text import ChatMessage
from .budget import Budget
from .deadline import within
from .openai_replies import PassingError, read_response
from .pace import RateLimiter, Retries
from .protocol import Judge

if TYPE_CHECKING:
    import requests

__all__ = ["DEFAULT_URL", "KEY_VARIABLE", "URL_VARIABLE", "OpenAIJudge"]

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
CONNECT_SECONDS = 10.0
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


class OpenAIJudge(Judge):
    """Asks `POST {base_url}/chat/completions`.

    The key is sent to the endpoint and nowhere else: it is in no message, no representation and no file.

    Args:
        model: name of the model at the endpoint.
        base_url: address of the endpoint up to `/v1`; from `OPENAI_BASE_URL`, or OpenAI's own, by default.
        api_key: key of the endpoint; from the environment by default.
        key_variable: environment variable that holds the key.
        timeout: seconds after which a request without its whole reply has failed.
        retries: how often and after which waits a request without a reply is repeated.
        requests_per_minute: most requests for each minute, over all threads.
        budget: most calls and tokens.
        sleep: waits, instead of a wait that `interrupt` ends; tests pass a function that does not wait.
        random_part: gives the random part of waits, a number from 0 to 1.

    Raises:
        JudgeError: there is no key, or the address is none. The endpoints of the own machine need no key.
    """

    kind = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        key_variable: str = KEY_VARIABLE,
        timeout: float = 120.0,
        retries: Retries | None = None,
        requests_per_minute: float | None = None,
        budget: Budget | None = None,
        sleep: Callable[[float], None] | None = None,
        random_part: Callable[[], float] = random.random,
    ) -> None:
        if not model.strip():
            raise JudgeError("The judge has no name of a model: give one of the endpoint's.")
        self.model = model
        self.base_url = _checked_url(base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
        self.budget = budget or Budget()
        self._key_variable = key_variable
        self._key = (api_key or os.environ.get(key_variable) or "").strip()
        self._check_key()
        if not 0 < timeout < float("inf"):
            raise JudgeError(f"The judge's timeout of {timeout} seconds must be a number above 0.")
        self._timeout = (min(CONNECT_SECONDS, timeout), timeout)
        self._retries = retries or Retries()
        self._limiter = RateLimiter(requests_per_minute)
        self._own_sleep, self._random_part = sleep, random_part
        self._interrupted = threading.Event()
        self._sessions = threading.local()

    def __repr__(self) -> str:
        return f"OpenAIJudge({self.model!r}, base_url={self.base_url!r})"

    def __getstate__(self) -> Any:
        raise TypeError("A judge holds a key and is not pickled: make it anew in each process.")

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
        """The reply to the messages; see `Judge.complete`.

        Raises:
            NoReplyError: the endpoint refuses these messages, or gave no reply to any of the requests.
            JudgeStopError: the key is refused, the account is empty, or the model or the address does not exist.
            BudgetError: the budget is used up.
        """
        given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        body |= {name: value for name, value in given.items() if value is not None}
        # That of this call: an interruption ends the calls that have begun, and none that comes later.
        sleep = _interruptible(self._interrupted) if self._own_sleep is None else self._own_sleep
        for failures in range(1, self._retries.attempts + 1):
            self._limiter.acquire(sleep)
            self.budget.take_call()
            try:
                reply, tokens = self._ask(body)
            except PassingError as error:
                sleep(self._wait_before_next(failures, error))
            else:
                self.budget.add_tokens(tokens)
                return reply
        raise AssertionError  # the last failure gives up

    def interrupt(self) -> None:
        """End the waits of the calls that have begun; see `Judge.interrupt`."""
        interrupted, self._interrupted = self._interrupted, threading.Event()
        interrupted.set()

    def _wait_before_next(self, failures: int, error: PassingError) -> float:
        """Seconds until the next request.

        Raises:
            NoReplyError: there is no next one.
        """
        if failures >= self._retries.attempts:
            raise NoReplyError(f"{self.base_url}: no reply to {failures} requests; the last one: {error}") from error
        if error.retry_after is not None and error.retry_after > self._retries.longest_wait:
            raise NoReplyError(
                f"{self.base_url}: {error}; the server asks to come back in {error.retry_after:.0f} seconds"
            ) from error
        return self._retries.wait(failures, error.retry_after, self._random_part)

    def _ask(self, body: Mapping[str, Any]) -> tuple[str, int | None]:
        """One request: the reply, and its tokens if the endpoint tells them."""
        import requests

        session = self._session()
        try:
            response = within(
                self._timeout[1],
                lambda: session.post(
                    f"{self.base_url}/chat/completions",
                    json=body,
                    # As a function, so that a ~/.netrc file never takes the place of the key.
                    auth=self._authorize,
                    timeout=self._timeout,
                    # A redirect would turn the request into one without a body.
                    allow_redirects=False,
                ),
            )
        except (requests.exceptions.Timeout, TimeoutError):
            # The late request may still use its session.
            del self._sessions.session
            raise PassingError(f"no reply in {self._timeout[1]:g} seconds") from None
        except (requests.exceptions.RequestException, OSError) as error:
            # Messages of requests hold the address and the reason, and never a header.
            raise PassingError(f"the connection failed ({type(error).__name__})") from None
        return read_response(response, self.base_url, self.model, self._key, self._key_variable)

    def _session(self) -> requests.Session:
        """A session of this thread: sessions are not made for several."""
        import requests

        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        session: requests.Session = self._sessions.session
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _check_key(self) -> None:
        """Find out before anything runs that the key is missing, or cannot be sent."""
        if not self._key and urlsplit(self.base_url).hostname not in _OWN_MACHINE:
            raise JudgeError(
                f"The judge at {self.base_url} needs a key: set the environment variable {self._key_variable} (to any "
                "word if the endpoint asks for none)."
            )
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise JudgeError(
                f"The key in {self._key_variable} holds blanks or characters that no key has: set it again."
            )


def _interruptible(interrupted: threading.Event) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        if interrupted.wait(seconds):
            raise JudgeStopError("The judge was interrupted.")

    return sleep


def _checked_url(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JudgeError(f"The judge's address {url!r} is none: give one such as {DEFAULT_URL}.")
    if parts.username or parts.password:
        raise JudgeError(
            "The judge's address must not hold a name or password, which would stand in results: give the key in the "
            f"environment variable {KEY_VARIABLE}."
        )
    if parts.query or parts.fragment:
        raise JudgeError(f"The judge's address {url!r} must end before ? and #: give one such as {DEFAULT_URL}.")
    return url.strip().rstrip("/").removesuffix("/chat/completions")
