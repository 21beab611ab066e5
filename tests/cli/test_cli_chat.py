"""`hf-videollm chat`, and `ask` with several questions: the answers of single calls, and a line for each mistake."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

import hf_videollm

QUESTIONS = ["What colour is the shape?", "In which direction does it move?"]
SHORT = ("--max-new-tokens", "4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

    path = tmp_path_factory.mktemp("chat") / "clip.mp4"
    write_scene_mp4(make_scene(2_000_000, kind="motion"), path)
    return str(path)


class Terminal(io.StringIO):
    """Input that a user writes into a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    def say(*lines: str, terminal: bool = False) -> None:
        monkeypatch.setattr("sys.stdin", (Terminal if terminal else io.StringIO)("\n".join([*lines, ""])))

    return say


def test_ask_takes_several_questions(cli: Any, clip: str) -> None:
    single = [json.loads(cli("ask", clip, question, *SHORT, "--json")[1])["answer"] for question in QUESTIONS]
    flags = [word for question in QUESTIONS for word in ("-q", question)]
    code, out, _ = cli("ask", clip, *flags, *SHORT, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["answers"] == [
        {"question": question, "answer": answer} for question, answer in zip(QUESTIONS, single, strict=True)
    ]
    assert set(found) == {"video", "answers", "model", "num_frames", "seconds"}
    code, out, _ = cli("ask", clip, QUESTIONS[0], "-q", QUESTIONS[1], *SHORT)
    assert code == 0
    assert out == f"{QUESTIONS[0]}\n{single[0]}\n\n{QUESTIONS[1]}\n{single[1]}\n"
    code, _, err = cli("ask", clip)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "No question is given" in err
    code, _, err = cli("ask", clip, "-q", "Who?", "-q", " ")
    assert (code, err) == (2, "error: The question is empty: say what you want to know.\n")


def test_a_conversation(cli: Any, clip: str, say: Any) -> None:
    pipe = hf_videollm.load_pipeline("pllava-tiny")
    with pipe.open(clip, max_new_tokens=4, do_sample=False) as session:
        expected = [session.ask(question, follow_up=True) for question in (*QUESTIONS, QUESTIONS[0])]
        again = session.ask(QUESTIONS[1])
    cli("--version")  # takes what loading has printed
    say(*QUESTIONS, "", QUESTIONS[0], "/new", QUESTIONS[1])
    code, out, err = cli("chat", clip, *SHORT)
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines()] == [*expected, again]


def test_commands_and_mistakes_do_not_end_a_conversation(cli: Any, clip: str, say: Any, tmp_path: Path) -> None:
    say("/halp", "why " * 2000, "/save", "/help", f"/save {tmp_path / 'a.session'}", QUESTIONS[0], "/quit", "never")
    code, out, err = cli("chat", clip, *SHORT)
    assert code == 0
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "did you mean /help" in errors[0]
    assert "left behind the media" in errors[1]
    assert "/save needs the name of a file" in errors[2]
    assert "/new " in out
    assert len(out.splitlines()) == 6
    assert (tmp_path / "a.session").is_file()


def test_a_terminal_has_a_prompt(cli: Any, clip: str, say: Any) -> None:
    say(QUESTIONS[0], terminal=True)
    code, out, err = cli("chat", clip, *SHORT)
    assert code == 0
    assert "> " in out
    assert out.endswith("\n")
    assert "Ctrl-D ends" in err


def test_a_session_in_a_file(cli: Any, clip: str, say: Any, tmp_path: Path, clips: list[str]) -> None:
    file = tmp_path / "clip.session"
    found = []
    for _ in range(2):
        say(*QUESTIONS)
        code, out, err = cli("chat", clip, "--session", str(file), *SHORT)
        assert (code, err) == (0, "")
        found.append(out)
        assert file.is_file()
    assert found[0] == found[1]
    say(QUESTIONS[0])
    code, _, err = cli("chat", clips[0], "--session", str(file), *SHORT)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "was made from other media" in err
    code, _, err = cli("chat", clip, "--session", str(file), "--model", "iva-tiny", *SHORT)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "and this one is a iva" in err


@pytest.mark.parametrize("kind", ["sound", "video"])
def test_a_file_is_opened_for_what_it_was_made_from(
    kind: str, cli: Any, say: Any, tmp_path: Path, tone: str, clip: str
) -> None:
    """A chat with `--session` can be had twice, about sounds as about videos."""
    media = tone if kind == "sound" else clip
    found = []
    for _ in range(2):
        say("What sound is it?")
        found.append(cli("chat", media, "--model", "videollama2-av-tiny", "--session", str(tmp_path / "s"), *SHORT))
    assert found[0] == found[1]
    assert (found[0][0], found[0][2]) == (0, "")
    say("What sound is it?")
    assert cli("chat", media, "--model", "videollama2-av-tiny", *SHORT)[1] == found[0][1]


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> str:
    import math
    import wave

    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        values = [int(9000 * math.sin(2 * math.pi * 440 * number / 16000)) for number in range(16000)]
        file.writeframes(b"".join(value.to_bytes(2, "little", signed=True) for value in values))
    return str(path)


def test_options_of_frames_and_a_file(cli: Any, clip: str, say: Any, tmp_path: Path) -> None:
    """Other options than those of the file are refused, the same are not, and those of the file are told."""
    file = ("--session", str(tmp_path / "s"), *SHORT)
    runs = []
    for options in (["--frames", "3"], ["--frames", "3"], ["--frames", "4"], ["--frames", "3", "--start", "1"], []):
        say(QUESTIONS[0])
        runs.append(cli("chat", clip, *options, *file))
    first, same, other, more, none = runs
    assert first[0] == 0
    assert same == first
    for code, out, err in (other, more):
        assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "with --frames 3, and not with --frames 4" in other[2]
    assert "without start, and not with --start 1" in more[2]
    assert none[:2] == first[:2]
    assert "was made with num_frames=3" in none[2]


def test_a_session_that_could_not_be_opened_again(cli: Any, clip: str, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    code, _, err = cli("chat", clip, "--session", str(tmp_path / "pipe"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no regular file" in err
    code, _, err = cli("chat", "https://host/clip.mp4", "--session", str(tmp_path / "s"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is an address" in err


def test_mistakes_before_the_model_is_loaded(cli: Any, clip: str) -> None:
    code, _, err = cli("chat", "absent.mp4")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "absent.mp4" in err
    code, _, err = cli("chat", clip, "--frames", "4", "--fps", "1")
    assert (code, len(err.splitlines())) == (2, 1)
