"""What a judge replied is read by each origin's rule, as data, and nothing that is unreadable becomes a verdict."""

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hf_videollm.evaluation.judges as judges
from hf_videollm.evaluation.judges.parsing import MOST_CHARACTERS, ParseRule, Reading, UnreadableReplyError, read_reply
from hf_videollm.evaluation.judges.texts import TEXTS

RULES: tuple[ParseRule, ...] = ("literal", "exact", "strict", "braces", "robust")
NO = None  # unreadable
# reply -> what each of RULES makes of it: (verdict, score)
VERDICTS: dict[str, tuple[Any, ...]] = {
    "{'pred': 'yes', 'score': 4}": ((True, 4), (True, 4), (True, 4), (True, 4), (True, 4)),
    "{'pred': 'no', 'score': 0}\n": ((False, 0), (False, 0), (False, 0), (False, 0), (False, 0)),
    '{"pred":"no","score":"2"}': ((False, 2), (False, 2), NO, (False, 2), (False, 2)),
    "Sure! {'pred':'yes','score':5}": (NO, NO, NO, (True, 5), (True, 5)),
    "{'pred': 'yes', 'score': 4.8}": ((True, 4), (True, 4), (True, 4.8), (True, 4), (True, 4)),
    "{'pred': 'yes', 'score': '4.8'}": (NO, NO, NO, NO, (True, 4)),
    "{'pred': 'Yes', 'score': 4}": ((True, 4), (False, 4), NO, (False, 4), (True, 4)),
    "{'pred': 'yes, it is', 'score': 4}": ((True, 4), (False, 4), NO, (False, 4), NO),
    "{'pred': 'maybe', 'score': 3}": ((None, 3), (False, 3), NO, (False, 3), NO),
    "{'pred': true, 'score': 3}": (NO, NO, NO, NO, NO),  # neither JSON nor Python
    '{"pred": true, "score": 3}': (NO, NO, NO, NO, (True, 3)),
    "{'score': 3}": ((None, 3), (False, 3), NO, (False, 3), NO),
    "{'pred': 'yes'}": (NO, NO, NO, (True, 0), NO),
    "{''pred': 'yes', ''score': 4}": (NO, NO, NO, NO, (True, 4)),
    "{'pred': 'yes', 'score': None}": (NO, NO, NO, NO, NO),
    "{'pred': 'yes', 'score': 1e999}": (NO, NO, NO, NO, NO),
    '{"pred": "yes", "score": NaN}': (NO, NO, NO, NO, NO),
    "{'pred': 'yes', 'score': 7}": ((True, 7), (True, 7), (True, 7), (True, 7), NO),  # out of 0 to 5
    "{'pred': 'yes', 'score': True}": ((True, 1), (True, 1), NO, (True, 1), NO),
    '```json\n{"pred": "no", "score": 1}\n```': (NO, NO, NO, (False, 1), (False, 1)),
    "<think>{'pred': 'yes', 'score': 5}?</think>{'pred': 'no', 'score': 1}": (NO, NO, NO, NO, (False, 1)),
    "{'pred': 'yes', 'score': 5} or {'pred': 'no', 'score': 1}": (NO, NO, NO, NO, NO),
    "{'pred': 'no', 'score': 1}\nAs said: {'pred': 'no', 'score': 1}": (NO, NO, NO, NO, (False, 1)),
    "def f():\n    return {'pred': 'yes', 'score': 5}\ndef g():\n    return {'a': {": (NO, NO, NO, (True, 5), NO),
    '{"pred": "no", "score": 1, "why": {"red": "blue"}}': ((False, 1),) * 5,
    "": (NO, NO, NO, NO, NO),
    " \n": (NO, NO, NO, NO, NO),
    "yes": (NO, NO, NO, NO, NO),
    "['yes', 4]": (NO, NO, NO, NO, NO),
    "{pred} and {'pred': 'yes', 'score': 4}": (NO, NO, NO, NO, NO),
    "}{": (NO, NO, NO, NO, NO),
    "{": (NO, NO, NO, NO, NO),
    "{}": (NO, NO, NO, (False, 0), NO),
    "\0": (NO, NO, NO, NO, NO),
    "{'pred': __import__('os').getcwd(), 'score': 4}": (NO, NO, NO, NO, NO),
    "[" * 5000: (NO, NO, NO, NO, NO),
    "{'pred': 'yes', 'score': 4}" + " " * MOST_CHARACTERS: (NO, NO, NO, NO, NO),
}


def read(reply: str, name: str, rule: ParseRule) -> Reading | None:
    try:
        return read_reply(reply, TEXTS[name], rule)
    except UnreadableReplyError:
        return None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reply", VERDICTS, ids=lambda reply: repr(reply[:60]))
def test_a_verdict(reply: str, rule: ParseRule) -> None:
    expected = VERDICTS[reply][RULES.index(rule)]
    reading = read(reply, "qa", rule)
    assert (reading and (reading.pred, reading.score)) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("{'score': 4}", (4, 4, 4, 4, 4)),
        ("{''score': 4}", (NO, NO, NO, NO, 4)),
        ("{''score'': 4}", (NO, NO, NO, NO, 4)),
        ("{'score': 4.8}", (4, 4, 4.8, 4, 4)),
        ('{"score": "3"}', (3, 3, NO, 3, 3)),
        ("The score is {'score': 2}.", (NO, NO, NO, 2, 2)),
        ("{'Score': 4}", (NO, NO, NO, 0, NO)),
        ("4", (NO, NO, NO, NO, NO)),
    ],
)
def test_a_score_of_vcg(reply: str, expected: tuple[Any, ...]) -> None:
    for rule, score in zip(RULES, expected, strict=True):
        reading = read(reply, "vcg_original_temporal", rule)
        assert (reading and reading.score) == score, rule
        assert reading is None or reading.pred is None


def test_the_key_of_the_verdict_belongs_to_the_text() -> None:
    reply = "{'binary_pred': 'yes', 'score': 4}"
    assert read(reply, "avqa_code", "exact") == Reading(True, 4)
    assert read(reply, "avqa_code", "robust") == Reading(True, 4)
    assert read(reply, "qa", "robust") is None
    # A judge that writes the usual key is understood by the robust rule alone.
    usual = "{'pred': 'yes', 'score': 4}"
    assert read(usual, "avqa_code", "robust") == Reading(True, 4)
    assert read(usual, "avqa_code", "exact") == Reading(False, 4)


@pytest.mark.parametrize("reply", ["{'score': 4}", "{'correctness': 4}", "{'rating': 4, 'score': 1}"])
def test_msvc_takes_the_first_value_whatever_its_key(reply: str) -> None:
    assert read(reply, "msvc_correctness", "literal") == Reading(score=4)
    assert read("{}", "msvc_correctness", "literal") is None


@pytest.mark.parametrize(
    ("reply", "literal", "robust"),
    [
        ("3", 3, 3),
        (" 0\n", 0, 0),
        ("**2**", NO, 2),
        ("Score: 2.", NO, 2),
        ("2/3", NO, NO),
        ("4", NO, NO),
        ("-1", NO, NO),
        ("two", NO, NO),
        ("", NO, NO),
    ],
)
def test_a_number_of_mmbench_video(reply: str, literal: int | None, robust: int | None) -> None:
    for rule, expected in (("literal", literal), ("robust", robust)):
        reading = read(reply, "mmbench_video", rule)  # type: ignore[arg-type]
        assert (reading and reading.score) == expected, rule


@pytest.mark.parametrize(
    ("reply", "literal", "robust"),
    [
        ('{"maximum probability":"B"}', "B", "B"),
        ("{'maximum probability':'B'}", NO, "B"),
        ('{"maximum probability": "b."}', NO, "B"),
        ('It is {"maximum probability": "(F) a dog"}', NO, "F"),
        ('{"maximum probability":"G"}', NO, NO),
        ('{"maximum probability":"Because"}', NO, NO),
        ('{"maximum probability":"AB"}', NO, NO),
        ('{"maximum probability":["A"]}', NO, "A"),
        ('{"probability":"A"}', NO, NO),
        ("[1]", NO, NO),
        ("B", NO, NO),
    ],
)
def test_a_letter_of_video_bench(reply: str, literal: str | None, robust: str | None) -> None:
    for rule, expected in (("literal", literal), ("robust", robust)):
        reading = read(reply, "video_bench", rule)  # type: ignore[arg-type]
        assert (reading and reading.choice) == expected, rule


@given(st.text(max_size=200), st.sampled_from(sorted(TEXTS)), st.sampled_from(RULES))
def test_whatever_a_judge_writes_is_read_or_unreadable(reply: str, name: str, rule: ParseRule) -> None:
    reading = read(reply, name, rule)
    assert reading is None or isinstance(reading, Reading)


@given(st.booleans(), st.integers(0, 5), st.text("abc .,:\n", max_size=30))
def test_the_robust_rule_finds_a_verdict_between_other_words(verdict: bool, score: int, words: str) -> None:
    reply = f"{words}{{'pred': {'yes' if verdict else 'no'!r}, 'score': {score}}}{words}"
    assert read(reply, "qa", "robust") == Reading(verdict, score)


def test_no_reply_is_ever_run() -> None:
    """Neither `eval` nor `exec`, nor anything else that runs text, is called by a judge's files."""
    for file in Path(judges.__file__).parent.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = {getattr(function, "id", None) for function in calls}
        assert not names & {"eval", "exec", "compile", "__import__"}, file
