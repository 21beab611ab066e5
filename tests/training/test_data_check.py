"""A look at a mix: what it counts, what it decodes, and what it shows."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from hf_videollm import default_checkpoint
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.training.data_check import MixReport, Spread, check_mix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mix")
    generate_dataset(place / "clips", 6, kind="motion", progress=False)
    turns = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]
    rows = [{"conversations": turns}, {"conversations": turns[::-1]}]
    (place / "texts.json").write_text(json.dumps(rows))
    sources = [{"annotation": "clips/records.jsonl", "source": "clips"}, {"annotation": "texts.json"}]
    (place / "mix.yaml").write_text(yaml.safe_dump({"sources": sources, "max_bad": 0.9}))
    return place


def drawn(report: MixReport, **options: bool) -> str:
    console = Console(file=StringIO(), width=120, **options)
    console.print(report.render())
    text = console.file.getvalue()
    assert isinstance(text, str)
    return text


def test_what_is_counted(folder: Path) -> None:
    report = check_mix(folder / "mix.yaml", sample=100)
    rows = len((folder / "clips" / "records.jsonl").read_text().splitlines())
    assert (report.rows, report.sampled) == (rows + 1, rows + 1)
    assert report.modalities == {"video": rows, "text": 1}
    assert report.dropped == {"texts": {"begins with gpt": 1}}
    assert [counts.videos for counts in report.sources] == [6, 1]
    assert (report.broken, report.tokens) == ([], None)
    assert report.seconds is not None
    assert report.seconds.number == rows
    assert 0.5 < report.seconds.smallest <= report.seconds.middle <= report.seconds.largest < 10
    json.dumps(report.to_dict())


def test_what_is_learned_is_green_or_in_brackets(folder: Path) -> None:
    for model in (None, str(default_checkpoint())):
        report = check_mix(folder / "mix.yaml", sample=3, model=model)
        learned = [text for text, is_learned in report.example if is_learned]
        assert learned
        assert all(f"[{text}]" in drawn(report) for text in learned)
        assert f"\x1b[1;32m[{learned[0]}]" in drawn(report, force_terminal=True)
    assert report.tokens is not None
    assert report.learned is not None
    assert 0 < report.learned.largest < report.tokens.smallest
    assert any("*" in text for text, is_learned in report.example if not is_learned)


def test_broken_and_missing_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    first, second, *_ = sorted((tmp_path / "copy").rglob("*.mp4"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:500])
    report = check_mix(tmp_path / "copy" / "mix.yaml", sample=100)
    assert {Path(each.path) for each in report.missing} == {first}
    assert report.broken
    assert all(str(second) in each.reason for each in report.broken)
    text = drawn(report)
    assert "missing:" in text
    assert "broken:" in text


def test_a_spread_of_nothing_is_none() -> None:
    assert Spread.of([]) is None
    assert str(Spread.of([1, 2, 1000])) == "1 to 1,000, median 2"
