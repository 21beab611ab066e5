"""Many items are judged in their order, in parallel, with failures counted and nothing asked for twice."""

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import Answer, JudgeServer, Messages, judge_server

from hf_videollm.evaluation.judges.backends.budget import Budget
from hf_videollm.evaluation.judges.backends.openai import OpenAIJudge
from hf_videollm.evaluation.judges.backends.pace import Retries
from hf_videollm.evaluation.judges.backends.protocol import Judge, describe_judge
from hf_videollm.evaluation.judges.backends.rule import RuleJudge
from hf_videollm.evaluation.judges.cache import ReplyCache
from hf_videollm.evaluation.judges.errors import BudgetError, JudgeStopError
from hf_videollm.evaluation.judges.items import JudgeItem, Judgement, count_judgements
from hf_videollm.evaluation.judges.policies import POLICIES, get_policy
from hf_videollm.evaluation.judges.run import MOST_SILENT_ITEMS, judge_items
from hf_videollm.evaluation.judges.texts import TEXTS, get_text

ROBUST = get_policy("robust")


def make_items(number: int, text: str = "qa") -> list[JudgeItem]:
    values = [{"question": f"What is {i}?", "answer": f"thing {i}", "pred": f"guess {i}"} for i in range(number)]
    return [JudgeItem(f"q{i}", get_text(text), row) for i, row in enumerate(values)]


def by_number(messages: Messages) -> Answer:
    """A judge whose reply depends on the item: every fifth is unreadable, every third of the others is no."""
    number = int(messages[-1]["content"].split("What is ")[1].split("?")[0])
    time.sleep(0.001 * (number % 3))  # so that replies do not come in order
    if number % 5 == 4:
        return Answer("I cannot say.")
    return Answer(str({"pred": "no" if number % 3 == 0 else "yes", "score": number % 6}))


def make(server: JudgeServer, **options: Any) -> OpenAIJudge:
    settings = {"api_key": "key", "timeout": 5.0, "sleep": lambda _: None, **options}
    return OpenAIJudge("judge-1", base_url=server.url, **settings)


def test_judgements_are_the_same_whatever_the_number_of_threads(tmp_path: Path) -> None:
    items = make_items(20)
    results = []
    for threads in (1, 4, 20):
        with judge_server(reply=by_number) as server, ReplyCache(tmp_path / f"{threads}.jsonl") as cache:
            results.append(judge_items(items, ROBUST, make(server), cache, threads))
            # Four unreadable items, five attempts each.
            assert server.calls == 16 + 4 * 5
    assert all(result == results[0] for result in results)
    assert [row.pred for row in results[0][:6]] == [False, True, True, False, None, True]
    assert [row.score for row in results[0][:6]] == [0, 1, 2, 3, None, 5]
    failed = results[0][4]
    assert (failed.failed, failed.attempts, failed.reply) == (True, 5, "I cannot say.")
    assert failed.error == "the reply holds no dictionary: I cannot say."
    assert count_judgements(results[0]) == {
        "items": 20,
        "judged": 16,
        "judge_errors": 4,
        "without_a_call": 0,
        "attempts": 36,
    }


@pytest.mark.parametrize("policy", ["robust", "videollama2", "pllava", "lmms_eval"])
def test_a_second_run_asks_nothing(tmp_path: Path, policy: str) -> None:
    """Also for the items that failed: all their attempts are kept."""
    items, path = make_items(12), tmp_path / "replies.jsonl"
    with judge_server(reply=by_number) as server:
        with ReplyCache(path) as cache:
            first = judge_items(items, get_policy(policy), make(server), cache, 4)
        calls = server.calls
        with ReplyCache(path) as cache:
            assert judge_items(items, get_policy(policy), make(server), cache, 3) == first
        assert server.calls == calls > 0
        # The control: another policy, model or text is another question.
        judge_items(items[:1], replace(get_policy(policy), name="mine"), make(server), ReplyCache(path))
        assert server.calls == calls + 1


def test_the_cache_holds_the_replies_and_no_key(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with judge_server(reply=by_number) as server, ReplyCache(path) as cache:
        judge = make(server, api_key="sk-secret")
        judge_items(make_items(3), ROBUST, judge, cache)
    assert "sk-secret" not in path.read_text() + str(describe_judge(judge, ROBUST))
    assert path.read_text().count("\n") == 3


def test_what_is_asked_follows_the_policy() -> None:
    with judge_server() as server:
        for policy in POLICIES.values():
            judge_items(make_items(1), policy, make(server))
    for policy, body in zip(POLICIES.values(), server.bodies, strict=True):
        given = {name: value for name, value in policy.sampling().items() if value is not None}
        assert body == {"model": "judge-1", "messages": body["messages"], **given}
        assert body["messages"] == make_items(1)[0].text.render(**make_items(1)[0].values)


def test_videollama2_shortens_the_prediction_in_every_second_attempt() -> None:
    item = JudgeItem("1", get_text("qa"), {"question": "q", "answer": "a", "pred": "ß" * 70})
    script = [Answer("?"), Answer("?"), Answer("?")]
    with judge_server(script) as server:
        (judgement,) = judge_items([item], get_policy("videollama2"), make(server))
    sent = [body["messages"][-1]["content"].count("ß") for body in server.bodies]
    assert sent == [70, 50, 70, 50]
    assert (judgement.pred, judgement.attempts) == (True, 4)
    # Scores of aspects come from another script of the original, which does not.
    item = JudgeItem("1", get_text("vcg_original_detail"), item.values)
    with judge_server([Answer("?")] * 2, lambda _: Answer("{'score': 1}")) as server:
        judge_items([item], get_policy("videollama2"), make(server))
    assert [body["messages"][-1]["content"].count("ß") for body in server.bodies] == [70, 70, 70]


def test_pllava_asks_once_and_lmms_eval_asks_again_for_empty_replies_alone() -> None:
    for policy, replies, attempts in (
        ("pllava", ["?", "?"], 1),
        ("pllava", ["", ""], 1),
        ("lmms_eval", ["?", "?"], 1),
        ("lmms_eval", ["", " \n", "?"], 3),
        ("lmms_eval", [""] * 9, 5),
        ("robust", ["", "?", ""], 4),
    ):
        with judge_server([Answer(reply) for reply in replies]) as server:
            (judgement,) = judge_items(make_items(1), get_policy(policy), make(server))
        assert judgement.attempts == server.calls == attempts, (policy, replies)
        assert judgement.failed is (policy != "robust")


def test_equal_questions_are_asked_once() -> None:
    items = make_items(2)
    items = [replace(items[i % 2], id=f"copy {i}") for i in range(10)]
    with judge_server(reply=by_number) as server:
        results = judge_items(items, ROBUST, make(server))
    assert server.calls == 2
    assert results == results[:2] * 5


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("vcg_")])
def test_an_empty_prediction_of_vcg_is_zero_without_a_call(name: str) -> None:
    text = TEXTS[name]
    values = dict.fromkeys(text.fields, "words")
    items = [JudgeItem(f"{prediction}-empty", text, {**values, prediction: " \n"}) for prediction in text.predictions]
    with judge_server(reply=lambda _: Answer("{'score': 3}")) as server:
        results = judge_items([*items, JudgeItem("full", text, values)], ROBUST, make(server))
    assert results[:-1] == [Judgement(None, 0.0)] * len(items)
    assert (results[-1].score, server.calls) == (3, 1)
    assert count_judgements(results)["without_a_call"] == len(items)


def test_an_empty_prediction_of_a_question_is_judged() -> None:
    item = JudgeItem("1", get_text("qa"), {"question": "q", "answer": "a", "pred": ""})
    with judge_server() as server:
        judge_items([item], ROBUST, make(server))
    assert server.calls == 1


def test_progress_counts_every_item() -> None:
    seen: list[tuple[int, int, int]] = []
    items = [*make_items(5), replace(make_items(1)[0], id="again")]
    with judge_server(reply=by_number) as server:
        judge_items(items, ROBUST, make(server), concurrency=1, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (6, 6, 1)
    assert len(seen) == 5
    assert seen == sorted(seen)


# What stops a run


def test_a_budget_that_ends_keeps_what_was_done(tmp_path: Path) -> None:
    items, path = make_items(20), tmp_path / "replies.jsonl"
    with judge_server(reply=by_number) as server:
        with ReplyCache(path) as cache:
            judge = make(server, budget=Budget(calls=9))
            with pytest.raises(BudgetError) as error:
                judge_items(items, replace(ROBUST, attempts=1), judge, cache, 3)
        assert server.calls == 9
        done = [row for row in error.value.judgements if row is not None]
        assert len(error.value.judgements) == 20
        assert len(done) == 9
        assert f"budget of 9 calls is used up. 9 of 20 items are judged; {path} keeps" in str(error.value)
        with ReplyCache(path) as cache:
            results = judge_items(items, replace(ROBUST, attempts=1), make(server), cache, 3)
        assert server.calls == 20
    assert [new for new, old in zip(results, error.value.judgements, strict=True) if old is not None] == done


def test_without_a_cache_the_error_says_how_replies_can_be_kept() -> None:
    with (
        judge_server() as server,
        pytest.raises(BudgetError, match=r"0 of 1 items are judged; pass a cache \(`judge_cache`\)"),
    ):
        judge_items(make_items(1), ROBUST, make(server, budget=Budget(calls=0)))


def test_a_refused_key_stops_the_run_after_the_requests_that_were_under_way() -> None:
    refusal = Answer(status=401)
    with judge_server([refusal] * 99) as server:
        with pytest.raises(JudgeStopError, match=r"environment variable OPENAI_API_KEY.*0 of 50 items") as error:
            judge_items(make_items(50), ROBUST, make(server), concurrency=4)
        assert server.calls <= 8
    assert "\n" not in str(error.value)
    assert list(error.value.judgements) == [None] * 50


def test_one_item_without_a_reply_is_counted_and_the_others_go_on() -> None:
    def fails_for_two(messages: Messages) -> Answer:
        return Answer(status=400) if "What is 2?" in messages[-1]["content"] else by_number(messages)

    with judge_server(reply=fails_for_two) as server:
        results = judge_items(make_items(4), ROBUST, make(server))
    assert [row.failed for row in results] == [False, False, True, False]
    assert results[2].reply is None
    assert "refuses the request (400)" in str(results[2].error)


def test_a_judge_that_answers_nobody_is_left_after_some_items() -> None:
    with judge_server(reply=lambda _: Answer(status=503)) as server:
        with pytest.raises(JudgeStopError, match=rf"no reply to {MOST_SILENT_ITEMS} items in a row.*status 503"):
            judge_items(make_items(200), ROBUST, make(server, retries=Retries(attempts=2)), concurrency=2)
        assert server.calls <= 2 * (MOST_SILENT_ITEMS + 10)


def test_items_without_a_reply_are_asked_again_by_the_next_run(tmp_path: Path) -> None:
    items, path = make_items(3), tmp_path / "replies.jsonl"
    with judge_server([Answer(status=500)] * 6) as server:
        with ReplyCache(path) as cache:
            first = judge_items(items, ROBUST, make(server, retries=Retries(attempts=2)), cache)
        assert all(row.failed for row in first)
        with ReplyCache(path) as cache:
            assert not any(row.failed for row in judge_items(items, ROBUST, make(server), cache))


def test_an_error_of_our_own_is_not_a_failed_item() -> None:
    class Broken(RuleJudge):
        def complete(self, *_: Any, **__: Any) -> str:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        judge_items(make_items(3), ROBUST, Broken())


# What is wrong before anything runs


def test_wrong_items_are_told_before_the_first_call() -> None:
    items = make_items(2)
    bad = JudgeItem("bad", get_text("qa"), {"question": "q", "answer": "a", "prediction": "p"})
    with judge_server() as server:
        judge = make(server)
        with pytest.raises(ValueError, match="Two items to judge have the id 'q0'"):
            judge_items([*items, items[0]], ROBUST, judge)
        with pytest.raises(ValueError, match="item 'bad': judge text qa has no field 'prediction'"):
            judge_items([*items, bad], ROBUST, judge)
        with pytest.raises(ValueError, match="concurrency=0 must be"):
            judge_items(items, ROBUST, judge, concurrency=0)
    assert server.calls == 0
    assert judge_items([], ROBUST, RuleJudge()) == []


def test_a_judge_of_ones_own_needs_little() -> None:
    class Yes(Judge):
        kind, model = "mine", "yes-man"

        def complete(self, *_: Any, **__: Any) -> str:
            return "{'pred': 'yes', 'score': 5}"

    assert judge_items(make_items(1), ROBUST, Yes())[0].pred is True

    class Tired(Yes):
        def complete(self, *_: Any, **__: Any) -> str:
            raise JudgeStopError("tired")

    with pytest.raises(JudgeStopError, match="tired"):
        judge_items(make_items(1), ROBUST, Tired())


def test_the_rule_is_reported_as_a_rule() -> None:
    facts = describe_judge(RuleJudge(), ROBUST)
    assert (facts["judge"], facts["judge_model"], facts["policy"]["name"]) == ("rule", "word overlap", "robust")


@pytest.mark.parametrize("reason", ["a refused key", "Ctrl-C"])
def test_a_run_that_is_stopped_does_not_wait_for_retries(reason: str) -> None:
    """One thread waits for an hour when another one has to stop; later calls of the same judge are not disturbed."""
    waiting = threading.Event()

    def replies(messages: Messages) -> Answer:
        if "What is 0?" in messages[-1]["content"]:
            waiting.set()
            return Answer(status=429, headers={"Retry-After": "3600"})
        waiting.wait(10)
        time.sleep(0.05)
        return Answer(status=401) if reason == "a refused key" else Answer()

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with judge_server(reply=replies) as server:
        judge = make(server, sleep=None, retries=Retries(longest_wait=5000))
        expected = JudgeStopError if reason == "a refused key" else KeyboardInterrupt
        began = time.monotonic()
        with pytest.raises(expected):
            judge_items(make_items(2), ROBUST, judge, concurrency=2, progress=interrupt)
        assert time.monotonic() - began < 10
        server.reply = lambda _: Answer()
        server.script = [Answer(status=500)]
        quick = make(server, sleep=None, retries=Retries(first_wait=0.01))
        quick.interrupt()
        assert quick.complete([{"role": "user", "content": "?"}])


def test_no_thread_outlives_a_run() -> None:
    with judge_server() as server, pytest.raises(BudgetError):
        judge_items(make_items(9), ROBUST, make(server, budget=Budget(calls=2)), concurrency=3)
    names = Counter(thread.name.rpartition("_")[0] for thread in threading.enumerate())
    assert names["judge"] == 0
