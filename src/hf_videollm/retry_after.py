"""Reads how long a server asks to wait before the next request."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for; `None` if there is no header that says so.

    Args:
        header: a number of seconds, or a date.
        now: the time to count from; the present one by default.

    Example:
        >>> retry_after_seconds("1.5")
        1.5
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return max(seconds, 0.0) if seconds < float("inf") else None


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: those of Retry-After, or those after which the Hub counts anew.

    Args:
        headers: headers of the answer.

    Example:
        >>> asked_wait({"RateLimit": '"api";r=0;t=55'})
        55.0
    """
    from huggingface_hub.utils import parse_ratelimit_headers

    if (seconds := retry_after_seconds(headers.get("Retry-After"))) is not None:
        return seconds
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


__all__ = ["asked_wait", "retry_after_seconds"]
