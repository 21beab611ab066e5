"""What an endpoint's response means: a reply, a failure that may pass, or one that stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ....retry_after import retry_after_seconds
from ..errors import JudgeStopError, NoReplyError

if TYPE_CHECKING:
    import requests

__all__ = ["PassingError", "read_response"]

_LONGEST_QUOTE = 200
# 408 and 425: the server was not ready for the request; 409: something else was changing there.
_PASSING = (408, 409, 425, 429)


class PassingError(Exception):
    """A request without a reply that may get one when it is repeated.

    Attributes:
        retry_after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def read_response(
    response: requests.Response, base_url: str, model: str, key: str, key_variable: str
) -> tuple[str, int | None]:
    """The text of a chat reply, and its tokens if the endpoint tells them.

    Args:
        response: what came back.
        base_url: the endpoint, for messages.
        model: the model that was asked, for messages.
        key: never quoted, whatever the server repeats.
        key_variable: environment variable that holds the key, for messages.

    Raises:
        PassingError: the request may be repeated.
        NoReplyError: the endpoint refuses this request, and would refuse it again.
        JudgeStopError: the endpoint refuses all requests.
    """
    status = response.status_code
    if status == 200:
        return _read_body(response)
    said = _quoted(response, key)
    if status in (401, 403):
        raise JudgeStopError(
            f"{base_url} refuses the key ({status}): check the environment variable {key_variable}"
            f"{'' if key else ', which is not set'}."
        )
    if status == 402 or (status == 429 and _error_code(response) in ("insufficient_quota", "billing_not_active")):
        raise JudgeStopError(f"The account at {base_url} has no credit left ({status}){said}.")
    if status in _PASSING or status >= 500:
        raise PassingError(f"status {status}{said}", retry_after_seconds(response.headers.get("Retry-After")))
    if 300 <= status < 400:
        raise JudgeStopError(
            f"{base_url} redirects to {response.headers.get('Location', 'another address')}: give that address."
        )
    if status in (404, 405):
        raise JudgeStopError(f"{base_url} has no model {model!r} or no chat route ({status}){said}: check both.")
    raise NoReplyError(f"{base_url} refuses the request ({status}){said}")


def _read_body(response: requests.Response) -> tuple[str, int | None]:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        raise PassingError("the body is no JSON") from None
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise PassingError("the JSON is no chat reply: it has no choices[0].message.content") from None
    if content is not None and not isinstance(content, str):
        raise PassingError(f"the content of the reply is no text but {type(content).__name__}")
    usage = body.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    # No content is a reply, too, e.g. of a filter: an empty one.
    return content or "", tokens if isinstance(tokens, int) else None


def _error(response: requests.Response) -> Any:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return body.get("error", body) if isinstance(body, dict) else None


def _error_code(response: requests.Response) -> Any:
    error = _error(response)
    return (error.get("code") or error.get("type")) if isinstance(error, dict) else None


def _quoted(response: requests.Response, key: str) -> str:
    """The server's own words, shortened, as the end of a message; the key is cut out of them."""
    error = _error(response)
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message.strip():
        return ""
    text = " ".join(message.split())
    text = text.replace(key, "***") if key else text
    return f": {text[:_LONGEST_QUOTE].rstrip('. ')}"
