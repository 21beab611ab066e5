"""Each example runs in a process of its own, as a user starts it, and its answers are right."""

import os
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ready_python

import hf_videollm
from hf_videollm.designs import DESIGNS
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
# bitsandbytes, which is here for the tests of quantized loading alone, says so when PEFT imports it on a CPU.
OF_BITSANDBYTES = re.compile(r"^Failed to load CPU gemm_4bit_forward from kernels-community: .*\n", re.MULTILINE)
# What the examples ask, and the generator's answers.
ASKED = questions_for(make_scene(2_000_000, kind="motion"))
RIGHT = [item.answer for item in ASKED]


def run(name: str, *arguments: str, folder: Path) -> str:
    """What an example prints in an empty folder, without a network; nothing may stand on stderr."""
    result = ready_python.run(EXAMPLES / name, *arguments, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0, result.stderr[-3000:]
    assert OF_BITSANDBYTES.sub("", result.stderr) == ""
    return result.stdout


def test_ask(tmp_path: Path) -> None:
    printed = re.findall(r"\? (\w+) \(right: (\w+)\)", run("ask.py", folder=tmp_path))
    assert printed == [(answer, answer) for answer in RIGHT]
    assert not list(tmp_path.iterdir())


def test_ask_takes_a_video_of_ones_own(tmp_path: Path) -> None:
    """Of another clip the answer is another: the control of the test above."""
    from hf_videollm.synthetic.clips import write_scene_mp4

    scenes = (make_scene(seed, kind="motion") for seed in range(2_000_001, 2_000_100))
    scene = next(scene for scene in scenes if scene.direction != RIGHT[-1])
    write_scene_mp4(scene, tmp_path / "mine.mp4")
    assert run("ask.py", "mine.mp4", ASKED[-1].question, folder=tmp_path).strip() == scene.direction


def test_many_questions_read_the_video_once(tmp_path: Path) -> None:
    """All ways give the right answers; a shared video is read once, a kept cache spares the language model as well."""
    printed = re.findall(
        r"^(\w+): (.*); (\d+) frames .*, (\d+) tokens", run("many_questions.py", folder=tmp_path), re.M
    )
    assert [answers.split() for _, answers, _, _ in printed] == [RIGHT] * 3
    work = {way: (int(frames), int(tokens)) for way, _, frames, tokens in printed}
    alone, encoded, cached = work["nothing_shared"], work["encoded_once"], work["kept_cache"]
    assert alone[0] == len(RIGHT) * encoded[0]
    assert encoded[0] == cached[0] == 8
    assert alone[1] == encoded[1]
    # What stays is one video of 128 tokens and the words.
    assert alone[1] - cached[1] >= (len(RIGHT) - 1) * 128


@pytest.mark.parametrize(("rate", "learns"), [("3e-3", True), ("0", False)])
def test_finetune_with_trl(rate: str, learns: bool, tmp_path: Path) -> None:
    """The loss falls by a third and more; with a learning rate of 0 it does not, which is the control."""
    printed = run("finetune_with_trl.py", "--learning-rate", rate, folder=tmp_path)
    trained, total = re.search(r"trained: ([\d,]+) of ([\d,]+) parameters", printed).groups()  # type: ignore[union-attr]
    assert int(trained.replace(",", "")) < int(total.replace(",", "")) / 10
    first, last = map(float, re.search(r"loss: ([\d.]+) .*, ([\d.]+) in", printed).groups())  # type: ignore[union-attr]
    assert (last < first * 2 / 3) == learns
    assert printed.endswith("saved and loaded: PllavaForConditionalGeneration\n")


def test_linvt_on_your_image_llm(tmp_path: Path) -> None:
    """LinVT leaves images alone; only the one that was trained knows the direction, so the answer comes from it."""
    printed = run("linvt_on_your_image_llm.py", folder=tmp_path)
    assert "logits on an image are those of the image-LLM: True" in printed
    answers = dict(re.findall(r"^([\w-]+): .*\? (.*) \(right: \w+\)", printed, re.MULTILINE))
    assert answers["trained-linvt"] == RIGHT[-1]
    assert answers["new-linvt"] != RIGHT[-1]


def test_remote_code(tmp_path: Path) -> None:
    """The same answer with the classes of the package and with those of the folder."""
    printed = run("remote_code.py", folder=tmp_path)
    assert re.findall(r"^(with\w*) the package: (\w+) \((\w+)\)", printed, re.MULTILINE) == [
        ("with", RIGHT[-1], "hf_videollm"),
        ("without", RIGHT[-1], "transformers_modules"),
    ]


def test_compare_designs(tmp_path: Path) -> None:
    """Every model is right, each from its own number of tokens; the sizes are those of `hf-videollm flops`."""
    printed = run("compare_designs.py", folder=tmp_path)
    rows = re.findall(r"^(\w+-[\w-]+) +([\d,]+) +([\d,]+)  (\w+)$", printed, re.MULTILINE)
    assert [answer for *_, answer in rows] == [RIGHT[-1]] * 4
    assert len({tokens for _, _, tokens, _ in rows}) == 4
    sizes = dict(re.findall(r"^([\w.]+) +\d+ +([\d,]+) +[\d.]+ +[\d,.]+$", printed, re.MULTILINE))
    assert (sizes["pllava"], sizes["ftfv"]) == ("2,304", "1,024")


def rows_of_designs(page: Path) -> list[str]:
    """The designs that the tables of a page name, row by row."""
    return re.findall(r"^\| ([A-Z][\w.-]+) \| [\d.]+%? \| ", page.read_text(), re.MULTILINE)


# LinVT's image-LLM is no design of its own.
TRAINED_ALIKE = sorted(row.title for name, row in DESIGNS.items() if name != "xgen_mm")


def test_the_page_of_the_comparison_has_all_designs() -> None:
    """In each of its four tables."""
    page = EXAMPLES.parent / "docs" / "measured" / "designs.md"
    assert sorted(rows_of_designs(page)) == sorted(TRAINED_ALIKE * 4)


@pytest.mark.slow
def test_designs_are_trained_alike(tmp_path: Path) -> None:
    """A row for each design in each of four tables; a second run trains nothing again."""
    options = ("--train", "--steps", "2", "--clips", "4", "--per-kind", "1", "--work", "work", "--out", "page.md")
    for _ in range(2):
        result = ready_python.run(EXAMPLES / "compare_designs.py", *options, cwd=tmp_path, env=dict(os.environ))
        assert result.returncode == 0, result.stderr[-3000:]
        assert sorted(rows_of_designs(tmp_path / "page.md")) == sorted(TRAINED_ALIKE * 4)
        for file in (tmp_path / "work" / "stages").rglob("*.safetensors"):
            file.unlink()


def test_vlmevalkit_wrapper(tmp_path: Path) -> None:
    printed = re.findall(r"\? (\w+) \(right: (\w+)\)", run("vlmevalkit_wrapper.py", folder=tmp_path))
    assert printed == [(answer, answer) for answer in RIGHT]


def test_vlmevalkit_wrapper_does_what_vlmevalkit_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stub of its base class: the number of frames is the data set's, parts keep their order, and none is lost."""

    class BaseModel:
        def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
            assert all(part["type"] in self.allowed_types for part in message)  # type: ignore[attr-defined]
            return self.generate_inner(message, dataset)  # type: ignore[attr-defined]

    for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vlmeval.vlm.base"].BaseModel = BaseModel  # type: ignore[attr-defined]
    example = runpy.run_path(str(EXAMPLES / "vlmevalkit_wrapper.py"))
    model = example["HfVideoLlm"](hf_videollm.default_checkpoint(), device="cpu", max_new_tokens=6)
    assert isinstance(model, BaseModel)
    write_scene_mp4(make_scene(2_000_000, kind="motion"), tmp_path / "clip.mp4")
    question = {"type": "text", "value": ASKED[-1].question}
    message = [{"type": "video", "value": str(tmp_path / "clip.mp4")}, question]
    assert model.generate(message, dataset="MMBench-Video") == RIGHT[-1]
    seen: list[dict[str, Any]] = []
    pipe = model.pipe
    model.pipe = lambda chat, **options: seen.append({"chat": chat, **options}) or pipe(chat, **options)
    model.nframe = 4
    model.generate(message)
    model.nframe, model.fps = None, 2.0
    model.generate([question, *message])
    assert [(call.get("num_frames"), call.get("fps")) for call in seen] == [(4, None), (None, 2.0)]
    assert [block["type"] for block in seen[1]["chat"][0]["content"]] == ["text", "video", "text"]
    with pytest.raises(ValueError, match="A part of type 'audio'"):
        model.generate_inner([{"type": "audio", "value": "a.wav"}])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo.py"])
def test_an_example_says_how_to_use_ones_own(name: str) -> None:
    """Its text names the command with files of the user, and is what `--help` shows."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    module_docstring = text.split('"""')[1]
    commands = re.findall(rf"^    python examples/{name}(.*)$", module_docstring, re.MULTILINE)
    assert len(commands) >= 2
    assert "description=__doc__" in text


def test_every_example_has_a_test() -> None:
    ours = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'"{name}"' not in ours] == []
