"""The judge behind an endpoint, against a real server that fails in every way that servers fail."""

import copy
import pickle
import threading
from typing import Any

import pytest
from judge_server import Answer, JudgeServer, judge_server

from hf_videollm.evaluation.judges.backends.budget import Budget
from hf_videollm.evaluation.judges.backends.openai import OpenAIJudge
from hf_videollm.evaluation.judges.backends.pace import RateLimiter, Retries
from hf_videollm.evaluation.judges.errors import BudgetError, JudgeError, JudgeStopError, NoReplyError

KEY = "sk-secret-0123456789"
MESSAGES: Any = [{"role": "user", "content": "Right?"}]
GOOD = "{'pred': 'yes', 'score': 4}"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Sleeps(list[float]):
    """Waits that take no time and are remembered."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def make(server: JudgeServer, **options: Any) -> tuple[OpenAIJudge, Sleeps]:
    sleeps = Sleeps()
    settings = {"api_key": KEY, "timeout": 5.0, "sleep": sleeps, "random_part": lambda: 0.0, **options}
    return OpenAIJudge("judge-1", base_url=server.url, **settings), sleeps


def test_a_request_says_what_was_asked_for_and_nothing_else() -> None:
    with judge_server() as server:
        judge, _ = make(server)
        assert judge.complete(MESSAGES) == GOOD
        assert judge.complete(MESSAGES, temperature=0.0, top_p=0.5, max_tokens=64, attempt=2) == GOOD
    assert server.bodies[0] == {"model": "judge-1", "messages": MESSAGES}
    assert server.bodies[1] == {**server.bodies[0], "temperature": 0.0, "top_p": 0.5, "max_tokens": 64}
    assert [headers["Authorization"] for headers in server.headers] == [f"Bearer {KEY}"] * 2


PASSING = {
    "too many requests": Answer(status=429),
    "server error": Answer(status=500),
    "overloaded": Answer(status=529, body=b"<html>"),
    "cut connection": Answer(cut=True),
    "no JSON": Answer(body=b"<html>hello</html>"),
    "cut JSON": Answer(body=b'{"choices": [{"mess'),
    "not UTF-8": Answer(body=b"\xff\xfe\xfd"),
    "deep JSON": Answer(body=b"[" * 100_000),
    "other JSON": Answer(body=b'{"error": "overloaded"}'),
    "no choices": Answer(body=b'{"choices": []}'),
    "a list": Answer(body=b"[1]"),
    "content that is no text": Answer(body=b'{"choices": [{"message": {"content": 3}}]}'),
    "nothing at all": Answer(body=b""),
}


@pytest.mark.parametrize("failure", PASSING)
def test_what_may_pass_is_tried_again(failure: str) -> None:
    with judge_server([PASSING[failure]] * 2) as server:
        judge, sleeps = make(server)
        assert judge.complete(MESSAGES) == GOOD
    assert server.calls == 3
    assert sleeps == [1.0, 2.0]


@pytest.mark.parametrize("failure", PASSING)
def test_what_does_not_pass_is_one_failed_item(failure: str) -> None:
    with judge_server([PASSING[failure]] * 9) as server:
        judge, sleeps = make(server, retries=Retries(attempts=4))
        with pytest.raises(NoReplyError, match="no reply to 4 requests; the last one: ") as error:
            judge.complete(MESSAGES)
    assert "\n" not in str(error.value)
    assert (server.calls, sleeps) == (4, [1.0, 2.0, 4.0])


def test_a_silent_server_is_left_after_the_timeout() -> None:
    with judge_server([Answer(silent=True)]) as server:
        judge, sleeps = make(server, timeout=0.2)
        assert judge.complete(MESSAGES) == GOOD
    assert (server.calls, sleeps) == (2, [1.0])


def test_a_server_that_is_not_there() -> None:
    with judge_server() as server:
        pass
    judge, _ = make(server, retries=Retries(attempts=2))
    with pytest.raises(NoReplyError, match="the connection failed"):
        judge.complete(MESSAGES)


def test_retry_after_is_honoured() -> None:
    with judge_server([Answer(status=429, headers={"Retry-After": "7"})]) as server:
        judge, sleeps = make(server)
        assert judge.complete(MESSAGES) == GOOD
    assert sleeps == [7.0]


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with judge_server([Answer(status=429, headers={"Retry-After": "3600"})] * 2) as server:
        judge, sleeps = make(server)
        with pytest.raises(NoReplyError, match="asks to come back in 3600 seconds"):
            judge.complete(MESSAGES)
    assert (server.calls, sleeps) == (1, [])


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_reply_is_a_reply(content: str | None) -> None:
    """Whether to ask again is the policy's decision."""
    with judge_server([Answer(content=content)]) as server:
        assert make(server)[0].complete(MESSAGES) == ""
    assert server.calls == 1


STOPPING = {
    "a refused key": (Answer(status=401, error={"message": f"Incorrect key {KEY}"}), "refuses the key .401.: check"),
    "a forbidden key": (Answer(status=403), "environment variable OPENAI_API_KEY"),
    "an empty account": (Answer(status=429, error={"code": "insufficient_quota"}), "no credit left"),
    "a bill": (Answer(status=402), "no credit left"),
    "an unknown model": (Answer(status=404, error={"message": "no such model"}), "'judge-1'.*no such model: check"),
    "a redirect": (Answer(status=307, headers={"Location": "https://other/v1"}), "redirects to https://other/v1"),
}


@pytest.mark.parametrize("failure", STOPPING)
def test_what_would_fail_for_every_item_stops_at_once(failure: str) -> None:
    answer, message = STOPPING[failure]
    with judge_server([answer]) as server:
        judge, sleeps = make(server)
        with pytest.raises(JudgeStopError, match=message) as error:
            judge.complete(MESSAGES)
    assert (server.calls, sleeps) == (1, [])
    assert "\n" not in str(error.value)


def test_a_request_that_is_refused_for_itself_is_one_failed_item() -> None:
    refusal = Answer(status=400, error={"message": f"too long,\nand {KEY} is {'x' * 999}"})
    told = r"refuses the request \(400\): too long, and \*\*\* is x+$"
    with judge_server([refusal]) as server, pytest.raises(NoReplyError, match=told) as error:
        make(server)[0].complete(MESSAGES)
    assert (server.calls, len(str(error.value)) < 300) == (1, True)


# The key


def test_without_a_key_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JudgeError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        OpenAIJudge("m")
    with pytest.raises(JudgeError, match=r"https://x\.org/v1 needs a key: set the environment variable OTHER"):
        OpenAIJudge("m", base_url="https://x.org/v1", key_variable="OTHER")
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(JudgeError, match="needs a key"):
        OpenAIJudge("m")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAIJudge("m")


def test_a_key_that_cannot_be_sent_is_told_without_showing_it() -> None:
    for key in ("sk-\nX-Evil: 1", "schlüssel", "two words"):
        with pytest.raises(JudgeError, match="The key in OPENAI_API_KEY holds blanks or characters") as error:
            OpenAIJudge("m", api_key=key)
        assert key not in str(error.value)


def test_key_and_address_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("MY_KEY", KEY)
        assert OpenAIJudge("m", key_variable="MY_KEY").complete(MESSAGES) == GOOD
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_an_endpoint_of_the_own_machine_needs_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """And nothing else is sent in its place, such as the password of a ~/.netrc file."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with judge_server() as server:
        assert OpenAIJudge("m", base_url=server.url).complete(MESSAGES) == GOOD
    assert "Authorization" not in server.headers[0]


def test_the_key_is_in_no_representation_and_no_pickle() -> None:
    with judge_server() as server:
        judge, _ = make(server)
    assert KEY not in repr(judge) + str(judge)
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="holds a key"):
            attempt(judge)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x/v1", "is none: give one such as"),
        ("localhost:8000", "is none: give one such as"),
        ("https://", "is none: give one such as"),
        (f"https://me:{KEY}@x.org/v1", "must not hold a name or password"),
        ("https://x.org/v1?key=1", "must end before"),
    ],
)
def test_an_address_that_is_none(url: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message) as error:
        OpenAIJudge("m", base_url=url, api_key=KEY)
    assert KEY not in str(error.value)


def test_the_whole_route_is_an_address_too() -> None:
    with judge_server() as server:
        assert OpenAIJudge("m", base_url=f"{server.url}/chat/completions").complete(MESSAGES) == GOOD


# Budget and pace


def test_calls_are_counted_when_they_are_sent() -> None:
    with judge_server([Answer(status=500)]) as server:
        judge, _ = make(server, budget=Budget(calls=3))
        assert [judge.complete(MESSAGES), judge.complete(MESSAGES)] == [GOOD] * 2
        with pytest.raises(BudgetError, match="budget of 3 calls is used up"):
            judge.complete(MESSAGES)
    assert server.calls == 3


def test_the_budget_of_calls_holds_over_threads() -> None:
    with judge_server() as server:
        judge, _ = make(server, budget=Budget(calls=5))
        refused: list[Exception] = []

        def ask() -> None:
            try:
                judge.complete(MESSAGES)
            except BudgetError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (server.calls, len(refused)) == (5, 7)


def test_tokens_are_counted_when_they_are_told() -> None:
    with judge_server(reply=lambda _: Answer(usage=40)) as server:
        judge, _ = make(server, budget=Budget(tokens=100))
        for _ in range(3):
            judge.complete(MESSAGES)
        with pytest.raises(BudgetError, match=r"budget of 100 tokens is used up \(120 were used"):
            judge.complete(MESSAGES)
    assert server.calls == 3


def test_tokens_that_are_not_told_cannot_be_limited() -> None:
    with judge_server(reply=lambda _: Answer(usage=None)) as server:
        unlimited, _ = make(server)
        assert [unlimited.complete(MESSAGES) for _ in range(2)] == [GOOD] * 2
        judge, _ = make(server, budget=Budget(tokens=100))
        assert judge.complete(MESSAGES) == GOOD  # was paid for
        with pytest.raises(BudgetError, match=r"does not tell how many tokens.*limit the calls"):
            judge.complete(MESSAGES)


def test_requests_are_spaced_by_the_limit() -> None:
    now = [100.0]
    sleeps = Sleeps()
    limiter = RateLimiter(30, lambda: now[0])
    for _ in range(3):
        limiter.acquire(sleeps)  # the clock stands still, as when three threads ask at once
    now[0] += 60
    limiter.acquire(sleeps)
    assert sleeps == [2.0, 4.0]


def test_waits_double_up_to_the_longest_and_vary() -> None:
    retries = Retries(first_wait=1.0, longest_wait=5.0, jitter=0.5)
    assert [retries.wait(failures, None, lambda: 0.0) for failures in (1, 2, 3, 4, 5000)] == [1, 2, 4, 5, 5]
    assert retries.wait(1, None, lambda: 1.0) == 1.5
    assert retries.wait(1, 4.0, lambda: 0.0) == 4.0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="0 requests for each minute must be"):
        OpenAIJudge("m", api_key=KEY, requests_per_minute=0)
    with pytest.raises(ValueError, match="budget of -1 calls is negative"):
        Budget(calls=-1)
    with pytest.raises(JudgeError, match="timeout of nan seconds"):
        OpenAIJudge("m", api_key=KEY, timeout=float("nan"))
    with pytest.raises(JudgeError, match="no name of a model"):
        OpenAIJudge(" ", api_key=KEY)


def test_the_timeout_bounds_the_whole_reply() -> None:
    """A byte now and then, each long before the timeout."""
    with judge_server([Answer(byte_seconds=0.05)]) as server:
        judge, sleeps = make(server, timeout=0.5, retries=Retries(attempts=2))
        assert judge.complete(MESSAGES) == GOOD
    assert (server.calls, sleeps) == (2, [1.0]), "the slow reply was not waited for"
    with judge_server([Answer(byte_seconds=0.001)]) as server:
        judge, sleeps = make(server, timeout=30.0)
        assert judge.complete(MESSAGES) == GOOD
    assert (server.calls, sleeps) == (1, []), "the control: a reply in time is read to its end"
