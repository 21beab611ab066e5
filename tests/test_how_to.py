"""What the README and the how-to pages print runs as it is printed, page by page, in an empty folder.

Python blocks share one namespace, as in one session. Commands run in this process, which has loaded the libraries.
"""

import ast
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ftfv_sources
import pllava_sources
import pytest
import ready_python
import torch
import videollama2_sources
from hub_server import against, hub_server
from pages import REPOSITORY, Block, blocks
from transformers import CLIPVisionConfig, CLIPVisionModel

from hf_videollm.known_models import KNOWN_TOWERS

HOW_TO = REPOSITORY / "docs" / "how_to"
Cli = Callable[..., tuple[int, str, str]]


class Session:
    """Runs the blocks of a page in a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cli: Cli) -> None:
        self.monkeypatch, self.capsys, self.cli = monkeypatch, capsys, cli
        self.names: dict[str, Any] = {"__name__": "how_to"}

    def run(self, block: Block) -> str:
        """What the block prints.

        Raises:
            AssertionError: a command fails, or the block is of a kind that cannot be run.
        """
        if block.file is not None:
            Path(block.file).write_text(block.code)
            return ""
        if block.language == "python":
            exec(compile(block.code, "how_to", "exec"), self.names)  # our own pages
            return self.capsys.readouterr().out
        if block.language == "bash":
            return "".join(self.command(line) for line in block.code.splitlines() if line.strip())
        assert block.language in ("json", "text", "math"), f"a block of {block.language!r} is not run: {block.code}"
        return ""

    def command(self, line: str) -> str:
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":  # what the targets do is too long for a test
            subprocess.run(["make", "--dry-run", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
            return ""
        if program == "hf-videollm":
            code, out, err = self.cli(*arguments)
            assert code == 0, (line, err)
            return out
        assert (program, arguments[0]) == ("python", "-m"), line
        self.monkeypatch.setattr(sys, "argv", arguments[1:])
        # As in a fresh process. runpy warns where the module that it runs was imported already.
        for name in (arguments[1], f"{arguments[1]}.__main__"):
            self.monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(SystemExit) as stop:  # typer ends so
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        printed = self.capsys.readouterr()
        assert not stop.value.code, (line, printed.err)
        return printed.out


# Pages that talk to the Hub; theirs is on this machine.
WITH_HUB = ("publish.md",)


@pytest.fixture
def session(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cli: Cli,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        if any(page in request.node.name for page in WITH_HUB):
            stack.enter_context(against(stack.enter_context(hub_server()), tmp_path_factory.mktemp("hub")))
        yield Session(monkeypatch, capsys, cli)


def write_official_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up checkpoints in the official layouts, at tiny sizes, under the names of `convert.md`."""
    raw, released = pllava_sources.raw_config(), pllava_sources.released_tensors()
    pllava_sources.write_tokenizer(pllava_sources.write_source(Path("pllava-7b-official"), released, raw))
    pllava_sources.write_source(Path("my-lora"), pllava_sources.partial_tensors(), raw)
    base = pllava_sources.write_source(Path("llava-v1.6-vicuna-7b-hf"), pllava_sources.base_tensors(), raw)
    pllava_sources.write_tokenizer(base)

    name = "clip-vit-large-patch14-336"
    tiny = {"model_type": "clip_vision_model", **videollama2_sources.VISION_CONFIG}
    monkeypatch.setitem(KNOWN_TOWERS, name, tiny)
    config = videollama2_sources.raw_config(mm_projector_type="mlp2x_gelu", mm_vision_tower=f"openai/{name}")
    whole = videollama2_sources.official_tensors(config)
    videollama2_sources.write_source(Path("VideoLLaMA2-7B-16F-official"), config, whole)
    source = videollama2_sources.write_config(Path("VideoLLaMA2-7B-Base-official"), config)
    torch.save({key: whole[key] for key in whole if "mm_projector" in key}, source / "mm_projector.bin")
    language = {key: whole[key] for key in videollama2_sources.language_shapes(config)}
    videollama2_sources.write_source(Path("Mistral-7B-Instruct-v0.2"), {"model_type": "mistral"}, language)
    CLIPVisionModel(CLIPVisionConfig(**videollama2_sources.VISION_CONFIG)).save_pretrained(name)
    deep = {"num_hidden_layers": 8}
    language = videollama2_sources.random_tensors(
        videollama2_sources.language_shapes(ftfv_sources.LLAMA_CONFIG | deep), 5
    )
    ftfv_sources.write_llama(Path("vicuna-7b-v1.5"), language, **deep)
    queries = {"n_queries": 256}
    visual = videollama2_sources.random_tensors(ftfv_sources.visual_shapes(ftfv_sources.VISUAL | queries))
    ftfv_sources.write_qwen_vl(Path("Qwen-VL"), ftfv_sources.qwen_vl_tensors() | visual, **queries)


# Their blocks are one script, run in a process of its own: it adds to the table of designs.
SCRIPTS = ("add_a_design.md",)
PREPARE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "convert.md": write_official_folders,
    "README.md": write_official_folders,
}
PAGES = [REPOSITORY / "README.md", *sorted(page for page in HOW_TO.glob("*.md") if page.name not in SCRIPTS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_as_printed(page: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a `text` block follows, it is what the block before it prints."""
    PREPARE.get(page.name, lambda monkeypatch: None)(monkeypatch)
    printed = ""
    found = blocks(page.read_text(encoding="utf-8"))
    assert any(block.language in ("python", "bash") for block in found)
    for block in found:
        if block.language == "text" and block.file is None:
            assert printed.strip() == block.code.strip()
        else:
            printed = session.run(block)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_page_runs_as_one_script(name: str, tmp_path: Path) -> None:
    """The `text` blocks of the page are what it prints."""
    found = blocks((HOW_TO / name).read_text(encoding="utf-8"))
    script = tmp_path / "page.py"
    script.write_text("".join(block.code for block in found if block.language == "python"))
    result = ready_python.run(script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout == "".join(block.code for block in found if block.language == "text")


def classes_without_docstrings(source: str) -> dict[str, str]:
    """Name -> what a class is, whatever its docstrings say."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def test_the_design_of_the_page_is_the_one_that_is_tested() -> None:
    """`add_a_design.md` shows the classes that test_toy_design.py takes through everything."""
    found = blocks((HOW_TO / "add_a_design.md").read_text(encoding="utf-8"))
    shown = classes_without_docstrings("\n".join(block.code for block in found if block.language == "python"))
    tested: dict[str, str] = {}
    for file in (REPOSITORY / "tests" / "support" / "toy_design").glob("*_mean.py"):
        tested |= classes_without_docstrings(file.read_text(encoding="utf-8"))
    assert shown == tested
    assert len(shown) == 6


def test_another_class_would_be_seen() -> None:
    """A control: docstrings do not count, code does."""
    plain = classes_without_docstrings("class A:\n    x = 1\n")
    assert plain == classes_without_docstrings('class A:\n    """Words."""\n\n    x = 1\n')
    assert plain != classes_without_docstrings("class A:\n    x = 2\n")


def test_a_page_that_does_not_run_would_be_seen(session: Session) -> None:
    """A control."""
    with pytest.raises(AssertionError):
        session.run(Block("bash", "hf-videollm ask gone.mp4 'What?'\n", None))
    with pytest.raises(AssertionError):
        session.run(Block("bash", "pip install something\n", None))
    with pytest.raises(subprocess.CalledProcessError):
        session.run(Block("bash", "make no-such-target\n", None))
    with pytest.raises(NameError):
        session.run(Block("python", "no_such_name\n", None))


def test_the_record_on_the_page_is_valid(tmp_path: Path) -> None:
    from hf_videollm.data.records import read_jsonl

    (line,) = [block.code for block in blocks((HOW_TO / "train.md").read_text()) if block.language == "json"]
    (tmp_path / "records.jsonl").write_text(line)
    (record,) = read_jsonl(tmp_path / "records.jsonl")
    assert record.answer == "a dog"
