"""A server says how long to wait in seconds, as a date, or as the Hub does; whatever else it says is no wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from hf_videollm.retry_after import asked_wait, retry_after_seconds


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_seconds("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30.0
    assert retry_after_seconds("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert retry_after_seconds("-3", now) == 0.0
    assert [retry_after_seconds(header, now) for header in ("soon", "", None, "inf", "nan")] == [None] * 5


def test_retry_after_goes_before_the_rate_limit_of_the_hub() -> None:
    limit = {"RateLimit": '"api";r=0;t=55'}
    assert asked_wait(limit) == 55.0
    assert asked_wait({**limit, "Retry-After": "7"}) == 7.0
    assert asked_wait({"Retry-After": "soon"}) is None
    assert asked_wait({"RateLimit": '"api";r=3;t=55'}) is None, "three requests are left"
    assert asked_wait({}) is None


@pytest.mark.parametrize("seconds", [20, 90])
def test_a_date_is_counted_from_now(seconds: int) -> None:
    then = datetime.now(UTC) + timedelta(seconds=seconds)
    found = asked_wait({"Retry-After": format_datetime(then, usegmt=True)})
    assert found is not None
    assert seconds - 5 < found <= seconds
