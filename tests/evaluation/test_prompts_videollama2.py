"""Instructions of the official evaluation, against the original's texts."""

import json
from pathlib import Path

import pytest

from hf_videollm.evaluation.prompts_videollama2 import GENERATION, INSTRUCTIONS, instruction

OPTIONS = ["a man", "{a dog}", "the end", "no one", "all"]


@pytest.fixture(scope="module")
def official(goldens: Path) -> dict[str, str]:
    return json.loads((goldens / "videollama2" / "prompts" / "eval_instructions.json").read_text())


@pytest.mark.parametrize("name", ["egoschema", "perception_test"])
def test_listed_options(official: dict[str, str], name: str) -> None:
    letters = [f"a{number}" for number in range(5)] if name == "egoschema" else ["a", "b", "c"]
    options = OPTIONS[: len(letters)]
    expected = official[name].format(question="Who?", **dict(zip(letters, options, strict=True)))
    assert instruction(name, "Who?", options) == expected


def test_mvbench_lists_as_many_options_as_there_are(official: dict[str, str]) -> None:
    """The reference writes `...` for any further options, each on a line of its own."""
    head, tail = official["mvbench"].split("...")
    for count in (2, 3, 5):
        more = "".join(f"({letter}) {option}\n" for letter, option in list(zip("ABCDE", OPTIONS, strict=True))[2:count])
        expected = head.format(question="Who?", a=OPTIONS[0], b=OPTIONS[1]) + more + tail
        assert instruction("mvbench", "Who?", OPTIONS[:count]) == expected


def test_videomme_with_and_without_subtitles(official: dict[str, str]) -> None:
    options = ["A. a man", "B. a dog", "C. the end", "D. no one"]
    template = official["videomme"].replace("{choice lines}", "{choices}")
    expected = template.format(question="Who?", choices="\n".join(options))
    assert instruction("videomme", "Who?", options) == expected
    prefix = official["videomme_subtitles_prefix"].format(subtitle="Hello.\nYes {sir}.")
    assert instruction("videomme", "Who?", options, "Hello.\nYes {sir}.") == prefix + expected


def test_audio_sets_and_bare_questions(official: dict[str, str]) -> None:
    expected = official["clotho_aqa(AV branch)"].format(question="Who?")
    assert instruction("clotho_aqa", "Who?") == expected
    assert f'"{instruction("avssd")}"' in official["activitynet/msvd/vcgpt/AVQA/AVSD"]
    assert instruction("msvd_qa", "Who {is} it?") == "Who {is} it?"


def test_every_set_of_the_reference_is_there(official: dict[str, str]) -> None:
    named = {name.split("(")[0] for name in official} - {"source", "videomme_subtitles_prefix"}
    # The sets of sounds with options are not in the reference; their tasks' tests have the texts.
    missing = {"avssd", "tut2017", "vocalsound"}
    assert named - {"activitynet/msvd/vcgpt/AVQA/AVSD"} == set(INSTRUCTIONS) - missing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mvbench", "Who?"), "mvbench is asked with options"),
        (("clotho_aqa", "Who?", ["a"]), "clotho_aqa is asked without options"),
        (("msvd_qa", "Who?", ["a"]), "msvd_qa is asked without options"),
        (("mvbench", "Who?", ["a"], "Hello."), "mvbench is asked without subtitles"),
    ],
)
def test_what_a_set_does_not_ask_with_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        instruction(*arguments)


def test_generation_as_in_the_original(goldens: Path) -> None:
    """The reference ran with fewer tokens; all that greedy decoding heeds is the same."""
    answers = json.loads((goldens / "videollama2" / "prompts" / "prompts_main.json").read_text())["mm_infer"]
    for model in answers.values():
        for case in model["cases"]:
            assert case["generate_kwargs"]["do_sample"] == GENERATION["do_sample"]
            assert "num_beams" not in case["generate_kwargs"]
