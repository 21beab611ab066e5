"""The page in examples/space: a browser uploads a clip, asks twice and reads the answers, on screen and phone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_videollm
from hf_videollm.synthetic.clips import SPLIT_SEEDS, make_scene, questions_for, write_scene_mp4

REPOSITORY = Path(__file__).resolve().parents[1]
SPACE = REPOSITORY / "examples" / "space"
BROWSER = REPOSITORY / "tests" / "support" / "space_browser.py"
# gradio and selenium are no dependencies of the package: the test runs where this Python has them.
PYTHON = os.environ.get("SPACE_PYTHON", sys.executable)


def needed() -> str | None:
    """What is missing for the browser test."""
    has = subprocess.run([PYTHON, "-c", "import gradio, selenium"], capture_output=True, check=False)
    if has.returncode:
        return "needs gradio and selenium; SPACE_PYTHON may name a Python that has them"
    if not shutil.which("chromedriver") or not (shutil.which("chromium") or shutil.which("google-chrome")):
        return "needs chromium and chromedriver"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("design", ["LinVT (tiny)", "PLLaVA (tiny)"])
def test_a_visitor_asks_twice(design: str, tmp_path: Path) -> None:
    """The answers are right; LinVT shows where it looked, PLLaVA has nothing of the kind, which is the control."""
    if (missing := needed()) is not None:
        pytest.skip(missing)
    scene = make_scene(SPLIT_SEEDS["test"][0], kind="motion")
    clip = tmp_path / "clip.mp4"
    write_scene_mp4(scene, clip)
    asked = {item.kind: item for item in questions_for(scene)}
    items = [asked["colour"], asked["shape"]]
    shots = Path(os.environ.get("SPACE_SCREENSHOTS", tmp_path))
    command = [PYTHON, str(BROWSER), str(SPACE / "app.py"), str(clip), str(shots), design]
    result = subprocess.run(
        [*command, *(item.question for item in items)], capture_output=True, text=True, timeout=1200, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    for name, page in seen.items():
        assert [text.rstrip(".").lower() for text in page["answers"]] == [item.answer.lower() for item in items]
        assert page["frames"] == 8, name
        assert page["look"] == (1 if design.startswith("LinVT") else 0), name
        assert page["too_wide"] <= 0, name
        assert "no video yet" in page["without_video"]
        assert "question is empty" in page["without_question"]
        assert (shots / f"{name}.png").stat().st_size > 20_000


def test_the_card_of_the_space_is_complete() -> None:
    card = (SPACE / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---", card, re.DOTALL)[1])  # type: ignore[index]
    assert head["sdk"] == "gradio"
    assert (SPACE / head["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", head["sdk_version"])
    assert len(head["short_description"]) <= 60
    assert "hf-videollm" in (SPACE / "requirements.txt").read_text(encoding="utf-8")
    variables = set(re.findall(r"`(SPACE_\w+)`", card))
    code = "".join(file.read_text(encoding="utf-8") for file in SPACE.glob("*.py"))
    assert variables <= set(re.findall(r"SPACE_\w+", code))


def test_the_page_says_in_words_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    import watching

    scene = make_scene(SPLIT_SEEDS["test"][0], kind="motion")
    clip = tmp_path / "clip.mp4"
    write_scene_mp4(scene, clip)
    assert watching.check(str(clip), " What moves? ") == "What moves?"
    with pytest.raises(ValueError, match="no video yet"):
        watching.check(None, "What?")
    with pytest.raises(ValueError, match="empty"):
        watching.check(str(clip), " ")
    with pytest.raises(ValueError, match="501 characters"):
        watching.check(str(clip), "a" * 501)
    monkeypatch.setattr(watching, "LIMITS", hf_videollm.MediaLimits(max_duration=0.5))
    with pytest.raises(hf_videollm.MediaTooLarge):
        watching.check(str(clip), "What?")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(hf_videollm.MediaError):
        watching.check(str(tmp_path / "text.mp4"), "What?")


@pytest.mark.parametrize("in_files", [False, True])
def test_a_conversation_goes_on(in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the encoded video is kept in a file between the questions, as on ZeroGPU."""
    monkeypatch.syspath_prepend(str(SPACE))
    import watching

    monkeypatch.setattr(watching, "KEEPS_FILES", in_files)
    monkeypatch.setattr(watching.tempfile, "gettempdir", lambda: str(tmp_path))
    scene = make_scene(SPLIT_SEEDS["test"][0], kind="motion")
    clip = tmp_path / "clip.mp4"
    write_scene_mp4(scene, clip)
    source = watching.models()["PLLaVA (tiny)"]
    watched = watching.watch(str(clip), source)
    assert (watched.session is None) == in_files
    items = questions_for(scene)[:2]
    for item in items:
        *_, text = watching.answer(watched, item.question)
        assert text == item.answer
    assert watched.history == [text for item in items for text in (item.question, item.answer)]
    frames = watching.pictures(watched)
    assert len(frames) == len(watched.frames) == 8
    assert frames[0][1].endswith(" s")
    assert not watching.can_look(source)
    watched.close()
    assert not list(tmp_path.glob("session-*"))


def test_models_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    import watching

    assert set(watching.models()) >= {"PLLaVA (tiny)", "VideoLLaMA2-AV (tiny)", "LinVT (tiny)"}
    monkeypatch.setenv("SPACE_MODELS", "Mine=me/model, me/other")
    assert watching.models() == {"Mine": "me/model", "me/other": "me/other"}
