"""The benchmark for a GPU runs all its steps on a CPU with tiny models, and goes on after a stop."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_gpu.py"
STEPS = ["against_llava_next_video", "batches", "compiled", "nf4"]


def run(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(json.loads(out.read_text()))


@pytest.mark.slow
def test_all_steps_run_and_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "gpu.json"
    content = run(out)
    results = content["results"]
    assert content["not_measured"] == {}
    assert list(results) == STEPS
    both = results["against_llava_next_video"]["generate"]
    assert set(both) == {"ours", "llava_next_video"}
    assert all(found["prefill_tokens_per_second"] > 0 for found in both.values())
    assert list(results["batches"]) == [f"batch_of_{rows}" for rows in (1, 2, 4, 8)]
    assert {"dynamic_cache", "static_cache", "static_cache_compiled"} <= set(results["compiled"])
    # Embeddings, head and tower stay in 16 bits, so the whole does not become four times smaller.
    assert 0.5 < results["nf4"]["weights_of_bfloat16"] < 1
    # As a killed run leaves it: the steps that are missing are run, and the others are as they were.
    del content["results"]["batches"]
    out.write_text(json.dumps(content))
    again = run(out)["results"]
    assert set(again) == set(STEPS)
    assert again["against_llava_next_video"] == results["against_llava_next_video"]
    # With other arguments nothing is kept, and without time nothing is measured.
    late = run(out, "--seconds", "0")
    assert late["results"] == {}
    assert late["not_measured"] == dict.fromkeys(STEPS, "TimeOverError: no time left")
