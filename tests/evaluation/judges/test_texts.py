"""Judge texts are the originals, byte for byte: by digests everywhere, and by the protocol page where it is at hand."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.judges.judge_text import JudgeText
from hf_videollm.evaluation.judges.texts import TEXTS, get_text

REPOSITORY = Path(__file__).resolve().parents[3]
# Values with what could go wrong on the way: braces, names of fields, quotes, line breaks, other scripts.
VALUES: dict[str, Any] = {
    "question": "What is {answer}?\nSay 'it'.",
    "question1": "Who {pred2}?",
    "question2": 'Whom "quote"?',
    "answer": "a {pred} \\ thing",
    "pred": "It's {question!r} {'score': 5}",
    "pred1": "你好 {question1}",
    "pred2": "",
    "refs": ["a man's dog", 'two "dogs"'],
}
DIGESTS = {
    "qa": "27e4eeef8c3ce7e5ce00a308bbf2e366f125790e73e29a068115be719d25f087",
    "avqa_table9": "c6a1b261a7d5123c7452e14b5088b764b6c3de0c6b0f7586e0f353f0311578e2",
    "avqa_code": "1d834b9b4452b4b1951b720d0968e54120aa28b02a17c3693c4b52340bbce0ae",
    "vcg_original_correctness": "7c5a53373e67830b18902b1a0f61debdb420be6191575664cb57be25e70dca9b",
    "vcg_original_detail": "773bcd6fb3836fd2f67a584fcbea53f9b231da91c7504ede93144d11ac45f445",
    "vcg_original_context": "cc02ea1e55e8a1b2f7333595123bd7351255f34d548406167f902943f7dffbc9",
    "vcg_original_temporal": "5c9ce69510f690ddb7d103c6b41791aa448df201c41aca3b4b8f092c83afc2a6",
    "vcg_original_consistency": "2ccb92658d76d55926714f51f1f743dba4200795461248f6100be1400506d003",
    "vcg_pllava_correctness": "2ffada389ca73a1a1817202600bfce3a48ad07ac275244bea2b0b8ac88720415",
    "vcg_pllava_detail": "c8c9411925d899bbbe51a093aa4b5bf915311701ec1e5c47eeda13db321a815d",
    "vcg_pllava_context": "258b5472d8041f085cdbe6346ca54292311b0723cf3850e43d7a70da11621b51",
    "vcg_pllava_temporal": "8215c5896c671540300d8625d5deb688b67774f1dd8006f2c8280ca2414d5750",
    "vcg_pllava_consistency": "0692bad4bf1c3520489fc63544f2d5556c5ae5c7ed2e22e30c1c11c7c0b8e9c0",
    "msvc_correctness": "c85a4120f6ab0b7310e53fc92fbbf84ed00dac8a8696b93ee448e2e48b171d3b",
    "msvc_detailedness": "f67aa9d125b6dc801b7599d52cfd4da92c1395ad53d75bf2311cd539ebd9a5f8",
    "mmbench_video": "973462214a3abcd2ef6ad424f9080a464cf91f5aded11bc9486ba17874ad0836",
    "video_bench": "43de1741fe0c7ce39dddee894feaf4e2027f00c302f8fa2bcd17614e7f0bb99c",
}


def values_of(text: JudgeText) -> dict[str, Any]:
    return {name: VALUES[name] for name in text.fields}


def digest(text: JudgeText) -> str:
    messages = text.render(**values_of(text))
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode("utf-8")).hexdigest()


@pytest.mark.parametrize("name", TEXTS)
def test_no_byte_of_a_rendered_text_changes(name: str) -> None:
    assert digest(TEXTS[name]) == DIGESTS[name]


def test_a_changed_byte_would_be_seen() -> None:
    """A control: one blank less, in the place where the original has two."""
    text = TEXTS["qa"]
    messages = tuple((role, template.replace("is  a string", "is a string")) for role, template in text.messages)
    assert digest(JudgeText("qa", messages, text.fields, text.reply)) != DIGESTS["qa"]
    assert set(DIGESTS) == set(TEXTS)


# The protocol page


@pytest.fixture(scope="module")
def page() -> str:
    """The page with the texts of the original evaluations."""
    folder = Path(os.environ.get("HF_VIDEOLLM_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    file = folder / "benchmarks.md"
    if not file.is_file():
        pytest.skip(f"no protocol page at {file}; set HF_VIDEOLLM_REFERENCE to its folder")
    return file.read_text(encoding="utf-8")


def section(page: str, number: str) -> str:
    return page.split(f"\n### {number} ")[1].split("\n### ")[0]


def boxes(part: str) -> list[str]:
    return re.findall(r"```text\n(.*?)\n```", part, re.DOTALL)


def filled(template: str, **values: str) -> str:
    """The template with the values, in another way than the package does it: cut at the places, then joined."""
    pieces = re.split(r"(\{\w+\})", template)
    return "".join(values.get(piece[1:-1], piece) if piece.startswith("{") else piece for piece in pieces)


def rendered(name: str) -> list[tuple[str, str]]:
    text = TEXTS[name]
    return [(message["role"], message["content"]) for message in text.render(**values_of(text))]


def test_the_judge_of_open_questions(page: str) -> None:
    system, user = boxes(section(page, "1.1"))
    assert rendered("qa") == [("system", system), ("user", filled(user, **values_of(TEXTS["qa"])))]


def test_the_judge_of_table_9(page: str) -> None:
    """The page has the fields in capitals; whether there are empty lines cannot be known from the paper."""
    system = boxes(section(page, "1.1"))[0]
    (user,) = boxes(section(page, "1.2"))
    values = values_of(TEXTS["avqa_table9"])
    named = {"QUESTION": values["question"], "ANSWER": values["answer"], "PREDICTION": values["pred"]}
    assert rendered("avqa_table9") == [("system", system), ("user", filled(user, **named))]


def test_the_judge_of_the_audio_visual_code(page: str) -> None:
    """Text 1.1 with another key, and with an example that the page quotes."""
    system, user = boxes(section(page, "1.1"))
    middle, end = re.search(
        r"`\.\.\. (with keys 'binary_pred'.*?) \.\.\. : (\{.*?\}\.)`", section(page, "1.2")
    ).groups()
    head, old = user.split("with keys 'pred'")
    old_middle, rest = old.split("DO NOT")
    assert middle.removesuffix("DO NOT").replace("binary_pred", "pred") == "with keys 'pred'" + old_middle
    user = head + middle.removesuffix("DO NOT") + "DO NOT" + rest.split("{'pred'")[0] + end
    assert rendered("avqa_code") == [("system", system), ("user", filled(user, **values_of(TEXTS["avqa_code"])))]


ROWS = {"correctness": 1, "detail": 2, "context": 3, "temporal": 4, "consistency": 5}


def vcg_parts(page: str, aspect: str) -> tuple[str, str]:
    """System and user text of an aspect as the page puts them together."""
    part = section(page, "1.3")
    frame, pair, *systems = boxes(part)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in part.splitlines() if row.startswith("| ")]
    _, label, level, value = rows[ROWS[aspect]]
    value = value.split(" *(")[0]
    if aspect == "consistency":
        single = "Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {pred}"
        assert single in frame
        frame = frame.replace(single, pair)
    return systems[ROWS[aspect] - 1], filled(frame, LABEL=label, LEVEL=level, VALUE=value)


@pytest.mark.parametrize("variant", ["vcg_original", "vcg_pllava"])
@pytest.mark.parametrize("aspect", ROWS)
def test_the_five_judges_of_vcg(page: str, variant: str, aspect: str) -> None:
    system, user = vcg_parts(page, aspect)
    if variant == "vcg_pllava":
        assert user.count("{''score': 4.8}") == 1
        user = user.replace("{''score': 4.8}", "{'score': 4.8}")
    name = f"{variant}_{aspect}"
    assert rendered(name) == [("system", system), ("user", filled(user, **values_of(TEXTS[name])))]


@pytest.mark.parametrize(("name", "aspect"), [("msvc_correctness", "correctness"), ("msvc_detailedness", "detail")])
def test_the_judges_of_msvc(page: str, name: str, aspect: str) -> None:
    system, user = vcg_parts(page, aspect)
    sentence = "compare the predicted answer with the correct answer and determine"
    assert system.count(sentence) == 1
    system = system.replace(sentence, sentence.replace("the correct answer", "these correct answers"))
    user = user.replace("Correct Answer: {answer}", "Correct Answers: {refs}")
    values = {**values_of(TEXTS[name]), "refs": str(VALUES["refs"])}
    assert rendered(name) == [("system", system), ("user", filled(user, **values))]


def test_the_judge_of_mmbench_video(page: str) -> None:
    part = section(page, "1.5")
    (system,) = boxes(part)
    template = re.search(r"User: `(.*?)`", part)[1].replace("\\n", "\n")
    values = values_of(TEXTS["mmbench_video"])
    user = template.format(values["question"], values["answer"], values["pred"])
    assert rendered("mmbench_video") == [("system", f"\n{system}\n"), ("user", user)]


def test_the_matcher_of_video_bench(page: str) -> None:
    part = section(page, "1.7")
    system, assistant, user = (
        re.search(rf"^{role} `(.*?)`", part, re.MULTILINE)[1] for role in ("system", "assistant", "user")
    )
    key = re.search(r"`\{'(\w+ \w+)': output, 'question': question\}`", part)[1]
    given = str({key: VALUES["pred"], "question": VALUES["question"]})
    assistant = assistant.replace("\\n", "\n") + given
    assert rendered("video_bench") == [("system", system), ("assistant", assistant), ("user", user)]


# Rendering


def test_values_are_put_in_once_and_stay_as_they_are() -> None:
    text = JudgeText("x", (("user", "{question} {answer} {other} {question!r}"),), ("question", "answer"), "score")
    (message,) = text.render(question="{answer}", answer="{question!r}")
    assert message["content"] == "{answer} {question!r} {other} '{answer}'"


def test_a_field_that_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="judge text qa needs the field 'pred'"):
        get_text("qa").render(question="q", answer="a")
    with pytest.raises(ValueError, match="has no field 'preds': did you mean pred"):
        get_text("qa").render(question="q", answer="a", preds="p")
    with pytest.raises(TypeError, match="'answer' of judge text qa must be a text, not list"):
        get_text("qa").render(question="q", answer=["a"], pred="p")
    with pytest.raises(TypeError, match="'refs' of judge text msvc_correctness must be a text or a list of texts"):
        get_text("msvc_correctness").render(question="q", refs=[1], pred="p")


def test_an_unknown_text_is_named_with_the_most_similar() -> None:
    with pytest.raises(ValueError, match="no judge text 'vcg_pllava_contxt': did you mean vcg_pllava_context"):
        get_text("vcg_pllava_contxt")


def test_only_vcg_gives_an_empty_prediction_zero_without_a_call() -> None:
    assert {name for name, text in TEXTS.items() if text.zero_when_empty} == {n for n in TEXTS if n.startswith("vcg_")}
