"""The benchmarks of quantized variants run, at their smallest; the one for a GPU on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import quantized_page
import ready_python

pytest.importorskip("bitsandbytes", reason="the presets are those of bitsandbytes")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> dict[str, Any]:
    result = ready_python.run(BENCHMARKS / script, *arguments, timeout=600)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.slow
def test_the_script_for_a_gpu_runs(tmp_path: Path) -> None:
    arguments = ("--device", "cpu", "--size", "small", "--checkpoints", "iva-tiny", "--per-kind", "1")
    out = tmp_path / "results.json"
    content = run("quantized_gpu.py", *arguments, "--presets", "consumer-nf4,a100-int4", "--out", str(out))
    assert json.loads(out.read_text()) == content
    variant = content["results"]["checkpoints"]["iva-tiny"]["consumer-nf4"]
    assert 0 < variant["kl"] < 1
    assert variant["top1_agreement"] > 0.5
    assert content["results"]["size"]["small"]["consumer-nf4"]["answer_tokens_per_second"] > 0
    # What this machine cannot run is told.
    assert set(content["not_measured"]) == {"size/small/a100-int4", "checkpoints/iva-tiny/a100-int4"}
    late = run("quantized_gpu.py", *arguments, "--presets", "consumer-nf4", "--seconds", "0")
    assert set(late["not_measured"].values()) == {"no time left"}


@pytest.mark.slow
def test_the_benchmark_of_variants_runs() -> None:
    content = run("bench_quantized.py", "--checkpoints", "iva-tiny", "--presets", "consumer-int8", "--per-kind", "1")
    found = content["results"]["checkpoints"]["iva-tiny"]
    assert found["consumer-int8"]["mb_on_disk"] < found["original"]["mb_on_disk"] / 2
    assert 0 <= found["consumer-int8"]["kl"] < 0.1


def test_the_tables_of_the_page_are_the_measured_ones() -> None:
    assert quantized_page.PAGE.read_text(encoding="utf-8") == quantized_page.page(), (
        "run tests/support/quantized_page.py"
    )
