"""The benchmarks of quantized variants run, at their smallest; the one for a GPU on a CPU."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import quantized_page
import ready_python

from hf_videollm.hub.presets import PRESETS
from hf_videollm.known_models import bundled_checkpoints

pytest.importorskip("bitsandbytes", reason="the presets are those of bitsandbytes")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RECORDED = json.loads((quantized_page.RESULTS / "quantized_cpu.json").read_text(encoding="utf-8"))


def run(script: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """What a benchmark prints, as JSON, and its messages."""
    result = ready_python.run(BENCHMARKS / script, *arguments, timeout=1500)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout or "{}"), result.stderr


@pytest.mark.slow
def test_the_script_for_a_gpu_runs(tmp_path: Path) -> None:
    arguments = ("--dry-run", "--checkpoints", "iva-tiny")
    out = tmp_path / "results.json"
    # A busy machine gets more time than a borrowed GPU.
    time = ("--last-start", "1200", "--deadline", "1400")
    content, _ = run("quantized_gpu.py", *arguments, *time, "--presets", "consumer-nf4,a100-int4", "--out", str(out))
    assert json.loads(out.read_text()) == content
    found = {kind: next(iter(content["results"][kind].values()))["consumer-nf4"] for kind in content["results"]}
    assert found["size"]["answer_tokens_per_second"] > 0
    assert found["size"]["mb_predicted"] > found["size"]["mb_weights"] > 0
    assert found["language_model"]["perplexity"] > 1
    for part in (found["language_model"], found["checkpoints"]):
        assert 0 < part["kl"] < 1
        assert part["top1_agreement"] > 0.5
        assert abs(part["error_to_tensors"]) < 0.1
    assert 0 <= found["checkpoints"]["accuracy"] <= 1
    # What this machine cannot run is told.
    subjects = ("size/small", "language_model/smollm2", "checkpoints/iva-tiny")
    assert set(content["not_measured"]) == {f"{subject}/a100-int4" for subject in subjects}
    assert all("needs a CUDA GPU" in reason for reason in content["not_measured"].values())


@pytest.mark.slow
def test_the_script_for_a_gpu_ends_in_time(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    arguments = ("--dry-run", "--checkpoints", "iva-tiny", "--presets", "a100-bf16", "--out", str(out))
    late, _ = run("quantized_gpu.py", *arguments, "--last-start", "0")
    assert set(late["not_measured"].values()) == {"no time left"}
    assert len(late["not_measured"]) == 3
    _, messages = run("quantized_gpu.py", *arguments, "--deadline", "0.01")
    assert "Ended after 0.01 s" in messages
    assert len(json.loads(out.read_text())["not_measured"]) == 3, "the file is written although a step is running"


@pytest.mark.slow
def test_the_benchmark_of_variants_runs_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    arguments = ("--checkpoints", "iva-tiny", "--per-kind", "1", "--out", str(out))
    content, messages = run("bench_quantized.py", *arguments, "--presets", "consumer-int8")
    found = content["results"]["checkpoints"]["iva-tiny"]
    assert found["consumer-int8"]["mb_on_disk"] < found["original"]["mb_on_disk"] / 2
    assert 0 <= found["consumer-int8"]["kl"] < 0.1
    assert set(found["original"]["accuracy_by_kind"]) == {"backdrop_order", "detail_colour", "detail_shape"}
    assert "iva-tiny original" in messages
    again, messages = run("bench_quantized.py", *arguments, "--presets", "consumer-int8,a100-bf16")
    assert again["results"]["checkpoints"]["iva-tiny"]["consumer-int8"] == found["consumer-int8"]
    assert "a100-bf16" in again["results"]["checkpoints"]["iva-tiny"]
    assert "iva-tiny original" not in messages, "what was measured is kept"


def test_only_trained_kinds_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    questions = import_module("quantized_questions")
    kinds = {name: set(questions.trained_kinds(name)) for name in bundled_checkpoints()}
    assert "beeps" in kinds.pop("videollama2-av-tiny")
    assert all("beeps" not in asked for asked in kinds.values())
    for name in ("pllava-tiny", "iva-tiny"):
        clips = questions.make_questions(tmp_path, name, 1)
        assert {clip.question.kind for clip in clips} == kinds[name]
        assert all(clip.path.is_file() for clip in clips)


def test_every_row_is_complete() -> None:
    """Rows that are not there are named on the page."""
    assert set(quantized_page.PRESETS) == {"original", *(name for name, own in PRESETS.items() if not own.needs_gpu)}
    columns = [key for key, _ in quantized_page.MEMORY.values()]
    for name, found in quantized_page.rows(RECORDED["results"], real=True):
        answers = quantized_page.TEXT if name.startswith(quantized_page.REAL) else quantized_page.ANSWERS
        compared = [key for key, _ in answers.values() if "original" not in name or key not in ("kl", "top1_agreement")]
        assert [key for key in (*columns, *compared) if found.get(key) is None] == [], name


def test_the_tables_of_the_page_are_the_measured_ones() -> None:
    assert quantized_page.PAGE.read_text(encoding="utf-8") == quantized_page.page(), (
        "run tests/support/quantized_page.py"
    )
