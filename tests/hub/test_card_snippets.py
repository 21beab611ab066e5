"""The code of a model card runs as it is printed: with the package, and without it on the code of the repository."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fresh_process import WITHOUT_PACKAGE, run_fresh
from pages import blocks

from hf_videollm.designs import DESIGNS
from hf_videollm.hub.card import CardOptions, make_card
from hf_videollm.hub.card_files import cards_folder, load_facts
from hf_videollm.hub.remote_code import missing_code
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.clips import make_scene, write_scene_mp4
from hf_videollm.synthetic.long import make_long_scene, write_long_mp4

EXAMPLES: dict[str, dict[str, str]] = json.loads((cards_folder() / "pictures" / "examples.json").read_text())
REVISION = "files-0123456789ab"
RUN_WITHOUT_PACKAGE = """
import contextlib, io, json
printed, names = io.StringIO(), {}
with contextlib.redirect_stdout(printed):
    for block in json.loads(sys.argv[1]):
        exec(block, names)
report = {"printed": printed.getvalue().splitlines()}
"""


def complete_folder(name: str, parent: Path) -> Path:
    """A bundled checkpoint with the code that a repository has."""
    folder = shutil.copytree(bundled_checkpoints()[name], parent / name)
    design = next(row for row in DESIGNS.values() if row.checkpoint == name)
    for path, file in missing_code(folder, design).items():
        shutil.copy(file, folder / path)
    return folder


def write_example(name: str, folder: Path) -> None:
    """The clip of a checkpoint's example, under the name that the snippets use."""
    example = load_facts(f"checkpoints/{name}")["example"]
    if example["kind"] == "long":
        write_long_mp4(make_long_scene(example["seed"]), folder / "clip.mp4")
    else:
        write_scene_mp4(make_scene(example["seed"], kind=example["kind"]), folder / "clip.mp4")


def snippets(name: str, folder: Path) -> list[str]:
    """The blocks of Python of a card, with the folder in place of the repository."""
    card = make_card(folder, CardOptions(repo_id=f"me/{name}", revision=REVISION)).text
    found = [block.code for block in blocks(card) if block.language == "python"]
    assert all(f'revision="{REVISION}"' in code for code in found if "from_pretrained" in code or "pipeline(" in code)
    return [code.replace(f'"me/{name}"', repr(str(folder))) for code in found]


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_first_snippet_gives_the_answer_of_the_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(snippets(name, bundled_checkpoints()[name])[0], names)
    assert printed.getvalue().strip() == EXAMPLES[name]["answer"]


@pytest.mark.parametrize(
    "name",
    [name if name == "iva-tiny" else pytest.param(name, marks=pytest.mark.slow) for name in bundled_checkpoints()],
)
def test_the_other_snippets_run_without_the_package(name: str, tmp_path: Path) -> None:
    write_example(name, tmp_path)
    code = snippets(name, complete_folder(name, tmp_path))
    assert len(code) >= 4
    report = run_fresh(WITHOUT_PACKAGE + RUN_WITHOUT_PACKAGE, json.dumps(code[1:]), cache=tmp_path)
    # The pipeline, the first row of the batch, and the model without a pipeline.
    answer = EXAMPLES[name]["answer"]
    assert report["printed"][0] == report["printed"][1] == report["printed"][-1] == answer, report
