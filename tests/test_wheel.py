"""What pip installs: a wheel has every file, and an editable install is a path and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from hf_videollm.evaluation.metrics import METRICS
from hf_videollm.hub.card_files import cards_folder

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "hf_videollm"


def build(version: str, folder: Path, root: Path = REPOSITORY) -> Path:
    (wheel,) = WheelBuilder(str(root)).build(directory=str(folder), versions=[version])
    return Path(wheel)


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages, with the content of a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("standard", folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_has_every_file_of_the_package(site: Path) -> None:
    there = files(site / "hf_videollm")
    cards = {f"model_cards/{name}" for name in files(cards_folder())}
    assert there == files(PACKAGE) | cards
    # What is found by name at run time, and not by an import.
    assert {f"evaluation/metrics/{name}/{name}.py" for name in METRICS} <= there
    assert any(name.startswith("assets/") and name.endswith(".safetensors") for name in there)


def test_the_installed_package_finds_its_own_cards(site: Path) -> None:
    assert cards_folder() == REPOSITORY / "model_cards"
    code = "from hf_videollm.hub.card_files import cards_folder; print(cards_folder())"
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(site / "hf_videollm" / "model_cards")


def installed_by_an_editable_wheel(root: Path, folder: Path) -> set[str]:
    """Top-level names that an editable install puts into site-packages, without the description of the package."""
    with zipfile.ZipFile(build("editable", folder, root)) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    return {name for name in tops if not name.endswith(".dist-info")}


def test_an_editable_install_is_one_path(tmp_path: Path) -> None:
    # A folder `hf_videollm` beside the path would be importable where `src` is not: an empty package.
    assert installed_by_an_editable_wheel(REPOSITORY, tmp_path) == {"_hf_videollm.pth"}


def test_control_a_forced_folder_is_seen(tmp_path: Path) -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    forced = '[tool.hatch.build.targets.wheel.force-include]\n"model_cards" = "hf_videollm/model_cards"\n'
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    for name in ("model_cards", "README.md", "LICENSE"):
        (root / name).symlink_to(REPOSITORY / name)
    (root / "src" / "hf_videollm").symlink_to(PACKAGE)
    sources = "[tool.hatch.build.targets.wheel.sources]"
    assert sources in text
    (root / "pyproject.toml").write_text(text.replace(sources, forced + sources))
    assert "hf_videollm" in installed_by_an_editable_wheel(root, tmp_path)
