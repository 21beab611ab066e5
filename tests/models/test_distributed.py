"""Two processes train as one with twice the batch: DDP without `find_unused_parameters`, and FSDP2 by accelerate.

Their batches are of different kinds: videos, images, texts alone. accelerate itself uses FSDP on accelerators alone, so
the processes call its function that shards a model (`fsdp2_prepare_model`).
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import ready_python
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from every_design import DESIGNS, every_design
from factory import IVA_CASES, VIDEOLLAMA2_CASES, DesignCase

REPOSITORY = Path(__file__).parents[2]
SUPPORT = REPOSITORY / "tests" / "support"
CONFIGS = REPOSITORY / "examples" / "distributed"
PROCESS = """
import json, sys

rank, world, rendezvous, support, names, device = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
sys.path.insert(0, support)

import torch
import torch.distributed as dist
from types import SimpleNamespace
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from every_design import DESIGNS
from factory import with_labels
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
backend = "nccl" if device == "cuda" else "gloo"
if device == "cuda":
    torch.cuda.set_device(rank)
dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world)
mine = [rank] if world == 2 else [0, 1]
# What both processes hold in each step; the second row of a process may be text alone, or both.
STEPS = [
    ([["v3"], []], [[], []]),
    ([[], []], [["v3"], []]),
    ([["v3"], ["v4"]], [["i"], ["v2", "i"]]),
    ([["i"], []], [[], ["v2"]]),
    ([[], []], [[], []]),
]


def losses_of(case, model, ranks):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step, kinds in enumerate(STEPS):
        batches = [with_labels(case.make_batch(kind, seed=2 * step + index)) for index, kind in enumerate(kinds)]
        num_items = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
        optimiser.zero_grad()
        total = torch.zeros((), device=device)
        for index in ranks:
            batch = {name: value.to(device) for name, value in batches[index].items()}
            loss = model(**batch, use_cache=False, num_items_in_batch=num_items.to(device)).loss
            # DDP and FSDP average the gradients of the processes.
            (loss * (2 if len(ranks) == 1 else 1)).backward()
            total += loss.detach()
        optimiser.step()
        if len(ranks) == 1:
            dist.all_reduce(total)
        losses.append(float(total))
    return losses


def sharded(model):
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=model.layers_to_shard(),
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=None,
        mixed_precision="no",
        is_main_process=rank == 0,
        device=torch.device(device),
    )
    return fsdp2_prepare_model(accelerator, model)


for case in DESIGNS:
    if case.name in names.split(","):
        make = lambda: case.make_model().train().to(device)
        model = sharded(make())
        units = sorted({type(module).__name__ for module in model.modules() if isinstance(module, FSDPModule)})
        found = {
            "one": losses_of(case, make(), [0, 1]),
            "ddp": losses_of(case, DistributedDataParallel(make()), mine),
            "fsdp2": losses_of(case, model, mine),
        }
        print("TRAINED", json.dumps({"name": case.name, "units": units, **found}), flush=True)
dist.destroy_process_group()
"""


def train_together(folder: Path, cases: list[DesignCase], device: str = "cpu", world: int = 2) -> None:
    """Train each case alone, and in processes with DDP and with FSDP2, and compare the losses."""
    names = ",".join(case.name for case in cases)
    arguments = [str(world), str(folder / "rendezvous"), str(SUPPORT), names, device]
    files = [folder / f"output_{rank}.txt" for rank in range(world)]
    runs = []
    for rank, file in enumerate(files):
        with file.open("wb") as output:
            runs.append(ready_python.start("-c", PROCESS, str(rank), *arguments, stdout=output, stderr=output))
    try:
        codes = [run.wait(540) for run in runs]
    finally:
        for run in runs:
            run.kill()
    outputs = [file.read_text() for file in files]
    for code, output in zip(codes, outputs, strict=True):
        assert code == 0, output
        lines = [line for line in output.splitlines() if line.startswith("TRAINED")]
        found = [json.loads(line.removeprefix("TRAINED")) for line in lines]
        assert [entry["name"] for entry in found] == [case.name for case in cases]
        for entry in found:
            assert entry["ddp"] == pytest.approx(entry["one"], abs=1e-4), entry["name"]
            assert entry["fsdp2"] == pytest.approx(entry["one"], abs=1e-4), entry["name"]
            # The control: each step changes what the next one computes.
            assert len(set(entry["one"])) == len(entry["one"])
            assert any("Decoder" in name for name in entry["units"])


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    train_together(tmp_path, [DESIGNS[0]])


@pytest.mark.slow
def test_two_processes_train_every_design_as_one(tmp_path: Path) -> None:
    train_together(tmp_path, DESIGNS)


@pytest.mark.gpu
def test_devices_train_every_design_as_one(tmp_path: Path) -> None:
    """With one device, one process shards over itself alone."""
    train_together(tmp_path, DESIGNS, "cuda", min(2, torch.cuda.device_count()))


@every_design
def test_units_of_fsdp_are_modules_of_the_model(case: DesignCase) -> None:
    """accelerate refuses names of classes that it does not find."""
    model = case.make_model()
    present = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules or ()) <= present
    (layer,) = model.layers_to_shard()
    assert layer in present
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    plugin.set_auto_wrap_policy(model)


@pytest.mark.parametrize("case", [VIDEOLLAMA2_CASES[4], IVA_CASES[0]], ids=lambda case: case.name)
def test_parts_that_a_configuration_leaves_out_are_not_named(case: DesignCase) -> None:
    optional = {"RegBlock", "IvaAdapterLayer"}
    model = case.make_model(num_insertions=0) if case is IVA_CASES[0] else case.make_model()
    assert not optional & set(model._no_split_modules or ())
    # The control: with the part, it is named.
    other = (IVA_CASES[0] if case is IVA_CASES[0] else VIDEOLLAMA2_CASES[0]).make_model()
    assert optional & set(other._no_split_modules or ())


@pytest.mark.slow
def test_the_example_for_a_cpu_starts_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from transformers import TrainingArguments\n"
        "args = TrainingArguments(output_dir='run', use_cpu=True)\n"
        "import torch.distributed as dist\n"
        "print(f'process {args.process_index} of {args.world_size} by {dist.get_backend()}', flush=True)\n"
    )
    command = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp_cpu.yaml")]
    done = subprocess.run(
        [sys.executable, *command, "--main_process_port", "0", str(script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("process")]
    assert sorted(said) == ["process 0 of 2 by gloo", "process 1 of 2 by gloo"]


@pytest.mark.parametrize("name", ["ddp", "ddp_cpu", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_accelerate_reads_the_example_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    file = str(CONFIGS / f"{name}.yaml")
    config = load_config_from_file(file)
    assert config.num_processes == 2
    # `accelerate launch` starts so many processes only by the launchers for several; the simple one starts one.
    started: dict[str, int] = {}
    for kind in ("simple", "multi_gpu", "deepspeed"):
        note = partial(lambda kind, args: started.update({kind: args.num_processes}), kind)
        monkeypatch.setattr(launch, f"{kind}_launcher", note)
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", file, "train.py"]))
    assert started == {"deepspeed" if name.startswith("deepspeed") else "multi_gpu": 2}
    if name == "fsdp2":
        options = {key.removeprefix("fsdp_"): value for key, value in config.fsdp_config.items()}
        options["fsdp_version"] = options.pop("version")
        options["cpu_offload"] = options.pop("offload_params")
        plugin = FullyShardedDataParallelPlugin(**options)
        assert plugin.fsdp_version == 2
        assert plugin.transformer_cls_names_to_wrap is None
    if name.startswith("deepspeed"):
        file = REPOSITORY / config.deepspeed_config["deepspeed_config_file"]
        settings = HfDeepSpeedConfig(json.loads(file.read_text()))
        assert settings.is_zero3() == (name == "deepspeed_zero3")
        assert settings.is_zero2() == (name == "deepspeed_zero2")
