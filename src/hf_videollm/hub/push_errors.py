"""Errors of a push, each in one line, and the patience with what passes by itself."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..models.errors import one_line
from ..retry_after import asked_wait

T = TypeVar("T")
# Seconds between tries, unless the Hub says how long to wait.
WAITS = (1.0, 2.0, 4.0, 8.0)
# The longest time that the Hub may ask to wait before this is an error.
LONGEST_WAIT = 120.0
PASSING = (408, 429, 500, 502, 503, 504)


class PushError(ValueError):
    """A checkpoint could not be pushed; the message says why, and what is published already."""


def patiently(call: Callable[[], T]) -> T:
    """Call, and again after a while if the Hub is busy, fails, or the connection is lost.

    huggingface_hub does this itself for uploads, but not for commits and smaller requests. `call` must give the same
    result if it is called twice.
    """
    for wait in WAITS:
        try:
            return call()
        # The client's HTTP library changes with its release, so its errors are recognised by their names.
        except Exception as error:
            if not will_pass(error):
                raise
            asked = _asked_wait(error)
            if asked is not None and asked > LONGEST_WAIT:
                raise
            time.sleep(wait if asked is None else asked)
    return call()


def will_pass(error: BaseException | None) -> bool:
    """Whether a failure may be over when the user tries again later: a busy or failing Hub, or a lost connection."""
    return error is not None and (_is_lost_connection(error) or _status(error) in PASSING)


def explain(error: BaseException, repo_id: str, endpoint: str) -> str | None:
    """What an error of the client means for the user; `None` if it is no error of the conversation with the Hub.

    Args:
        error: the error.
        repo_id: the repository that was pushed to.
        endpoint: address of the Hub.
    """
    names = {kind.__name__ for found in _causes(error) for kind in type(found).__mro__}
    owner = repo_id.split("/")[0]
    if "LocalTokenNotFoundError" in names:
        return "you are not logged in to the Hub: run hf auth login, or set HF_TOKEN to a token with write access"
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set, which allows no request to the Hub: unset it to push"
    status = _status(error)
    if status is not None:
        return _of_status(status, error, repo_id, owner)
    if _is_lost_connection(error):
        return f"the connection to {endpoint} failed or was lost ({_reason(error)}): check the network and push again"
    if "JSONDecodeError" in names:
        return f"{endpoint} answered with something else than JSON: is this a Hub, and no page of a proxy?"
    if "RuntimeError" in names and "Xet" in str(error):
        return f"the upload failed ({_reason(error)}): push again"
    return None


def _of_status(status: int, error: BaseException, repo_id: str, owner: str) -> str:
    said = _said(error)
    if status == 401:
        return "the Hub does not accept your token: run hf auth login, or set HF_TOKEN to a token that is valid"
    if status == 403:
        return (
            f"your token may not write to {repo_id}{said}: use a token with write access to {owner}, or a name under "
            "which you may write"
        )
    if status == 404:
        return f"the Hub has no {repo_id}, no such branch, or does not show it to you{said}: check the name"
    if status in (409, 412):
        return f"{repo_id} was changed by someone else at the same time{said}: look at it, then push again"
    if status == 429:
        asked = _asked_wait(error)
        when = f"in {asked:.0f} seconds" if asked else "later"
        return f"the Hub gets too many requests from you{said}: push again {when}"
    if status >= 500:
        return f"the Hub failed with status {status}{said}: push again later"
    return f"the Hub refused a request with status {status}{said}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _response(error: BaseException) -> Any:
    responses = (getattr(found, "response", None) for found in _causes(error))
    return next((found for found in responses if found is not None), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error or one of its causes is about."""
    return getattr(_response(error), "status_code", None)


def _is_lost_connection(error: BaseException) -> bool:
    names = ("TransportError", "ConnectionError")
    mine = [kind.__name__ for found in _causes(error) for kind in type(found).__mro__]
    return _status(error) is None and "OfflineModeIsEnabled" not in mine and any(name in mine for name in names)


def _asked_wait(error: BaseException) -> float | None:
    """The seconds that the Hub asks to wait."""
    return asked_wait(getattr(_response(error), "headers", None) or {})


def _said(error: BaseException) -> str:
    """What the Hub itself said, in brackets; empty if it said nothing."""
    response = _response(error)
    text = (getattr(response, "headers", None) or {}).get("X-Error-Message", "")
    if not text:
        try:
            content = response.json()
        # The body may be a page of a proxy.
        except Exception:
            return ""
        text = content.get("error", "") if isinstance(content, dict) else ""
    return f" ({one_line(text, 200)})" if text else ""


def _reason(error: BaseException) -> str:
    innermost = [*_causes(error)][-1]
    return one_line(innermost, 160)


__all__ = ["PushError", "explain", "patiently", "will_pass"]
