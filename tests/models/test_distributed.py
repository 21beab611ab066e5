"""Two processes with batches of different kinds train together, without `find_unused_parameters`."""

import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
PROCESS = """
import sys

rank, rendezvous, support = int(sys.argv[1]), *sys.argv[2:]
sys.path.insert(0, support)

import torch
import torch.distributed as dist
from factory import IVA_CASES, PLLAVA_CASES, with_labels
from linvt_design_case import LINVT_CASES

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
for case in (PLLAVA_CASES[0], IVA_CASES[0], LINVT_CASES[0]):
    kinds = [[["v3"], []], [[], []]]
    model = case.make_model().train()
    # What both batches give together, in one process.
    for kind in kinds:
        (model(**with_labels(case.make_batch(kind)), use_cache=False).loss / 2).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for step in range(2):
        model.zero_grad()
        kind = kinds[(rank + step) % 2]
        wrapped(**with_labels(case.make_batch(kind)), use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
    print("TRAINED", case.name, flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_with_different_batches(tmp_path: Path) -> None:
    """One has a video and a text, the other texts alone, and in the second step the other way round."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "rendezvous"), str(SUPPORT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [run.communicate(timeout=240)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output
        assert output.count("TRAINED") == 3
