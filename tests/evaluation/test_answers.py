"""Answers cut out of generated text as the official evaluation of PLLaVA does."""

import json

import pytest

from hf_videollm.evaluation.answers import (
    continued_answer,
    cut_at_keywords,
    extract_answer,
    last_answer,
    mvbench_match,
)
from hf_videollm.evaluation.prompts import render
from hf_videollm.evaluation.prompts_pllava import SETTINGS, STYLES, mvbench_answer, mvbench_query, prompt_style

PLAIN, CHATML = STYLES["plain"], STYLES["eval_vcg_llavanext"]


def test_official_option_matching(goldens):
    table = json.loads((goldens / "pllava" / "prompts" / "prompts.json").read_text(encoding="utf-8"))
    assert table["mvbench_check_ans"]
    for row, expected in table["mvbench_check_ans"].items():
        prediction, answer = row.split(" || ")
        assert mvbench_match(prediction, answer) is expected, row


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("(A) Sat", True),
        ("(a).", True),
        ("A.", True),
        ("(A)Sat down", True),
        ("( A) Sat", False),  # its first word has no letter
        ("Both", False),
        ("", False),
    ],
)
def test_option_matching(prediction, expected):
    assert mvbench_match(prediction, "(A) Sat down") is expected


def test_option_without_text_can_be_matched():
    """The original fails on an answer that is only a letter."""
    assert mvbench_match("(A)", "(A)")


@pytest.mark.parametrize(
    ("style", "decoded", "expected"),
    [
        (PLAIN, "USER:<image> Why? ASSISTANT: Because.</s>", "Because."),
        (PLAIN, "USER:<image> Why? ASSISTANT:Because. ", "Because."),
        # After the last role, when there are several turns or the model invents one.
        (PLAIN, "USER: a ASSISTANT: b</s>USER: c ASSISTANT: d</s>", "d"),
        (PLAIN, "no role at all ", "no role at all"),
        (CHATML, "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n", "Because."),
        # A tokenizer's blank after the special token, and generation that stopped at the end mark.
        (CHATML, "<|im_start|> assistant\nBecause.<|im_end|>", "Because."),
        (CHATML, "<|im_start|>assistant\na<|im_end|>\n<|im_start|> assistant\nb<|im_end|>\n", "b"),
        (CHATML, "<|im_start|> assistant\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n", "b"),
    ],
)
def test_last_answer(style, decoded, expected):
    assert last_answer(decoded, style) == expected


@pytest.mark.parametrize("size", ["7b", "34b"])
@pytest.mark.parametrize(
    ("benchmark", "generated", "expected"),
    [
        ("mvbench", "A) Sat down", "(A) Sat down"),
        ("mvbench", " A) Sat down", "( A) Sat down"),
        ("mvbench", "", "("),
        ("videoqabench", " a man is dancing.", "a man is dancing."),
        ("videoqabench", "\nx Answer: In the video, y", "x  y"),
        ("vcgbench", " A dog runs. ", "A dog runs."),
        ("recaption", "A dog.\nIt runs.", "A dog.\nIt runs."),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_extracted_answer(size, benchmark, generated, expected, ended):
    style = prompt_style(benchmark, size)
    return_prefix = SETTINGS[benchmark].return_prefix
    generated += style.assistant_end if ended else ""
    prompt = render(style, mvbench_query("Who?", ["A man", "A dog"]))
    # The end mark hides trailing white space from the original, so it strips both.
    assert extract_answer(prompt + generated, style, return_prefix) == expected
    assert continued_answer(generated, style, return_prefix) == expected


def test_answer_without_its_prefix_is_empty():
    """As in the original; a model that starts another turn has not answered."""
    style = prompt_style("mvbench")
    decoded = render(style, "Q") + "A) x</s>USER: more ASSISTANT: whatever"
    assert extract_answer(decoded, style, "(") == "("
    assert extract_answer("ASSISTANT: a man", prompt_style("videoqabench")) == ""


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ("A dog. USER: and?", "A dog."),
        ("A dog. ### more USER", "A dog."),
        ("USER", ""),
        (" A dog. ", "A dog."),
    ],
)
def test_stop_keywords(generated, expected):
    assert cut_at_keywords(generated, SETTINGS["vcgbench"].stop_keywords) == expected


def test_no_stop_keywords():
    assert cut_at_keywords(" USER ", ()) == "USER"


def test_right_answer_of_mvbench_matches_itself():
    options = ["Sat down", "Stood up", "Left"]
    answers = [mvbench_answer(options, index) for index in range(3)]
    assert [[mvbench_match(mine, right) for right in answers] for mine in answers] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
