"""Kill whole saves, conversions and trainings (SIGKILL) at random moments, and look at what is left.

    python kill_saves.py FOLDER WHAT MOMENTS SEED                     (WHAT: save, convert, train)

A program of its own: it imports the libraries once, and every run is a fork of it. The moments are random parts of the
time that a whole run takes. Prints what was seen as JSON; an assertion that fails names the moment.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tqdm import tqdm
from transformers import AutoProcessor

from hf_videollm import PllavaForConditionalGeneration, save_checkpoint

# The lock of progress bars is shared with forks, and a fork that is killed while it holds the lock would never give it
# back. A lock of threads is not shared. Without the thread that watches the bars, nobody holds it during a fork.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0


def run(work: Callable[[], Any], seconds: float | None) -> tuple[bool, float]:
    """Do `work` in a fork, which is killed after some seconds; whether that came first, and the time it took."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = None
    while status is None:
        if seconds is not None and time.monotonic() - began >= seconds:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        else:
            # Looked at often, so that the time of a run that ends by itself is right.
            ended, ending = os.waitpid(child, os.WNOHANG)
            status = ending if ended else time.sleep(0.001)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the run itself failed"
    return killed, time.monotonic() - began


def state_of(folder: Path) -> str:
    """Which checkpoint this is: a number made of all its weights; a damaged one does not load."""
    model = PllavaForConditionalGeneration.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    return f"{sum(float(value.double().abs().sum()) for value in model.state_dict().values()):.6f}"


def kill_replacements(
    destination: Path, old: Callable[[], Any], new: Callable[[], Any], moments: int, seed: int
) -> dict[str, Any]:
    old()
    before = state_of(destination)
    _, seconds = run(new, None)
    after = state_of(destination)
    assert before != after
    # By random parts of the time of a whole run.
    rng = random.Random(seed)
    seen = {"old": 0, "new": 0, "killed": 0}
    for moment in range(moments):
        old()
        assert os.listdir(destination.parent) == [destination.name], moment
        killed, took = run(new, rng.uniform(0, seconds))
        # The machine is faster or slower from one run to the next.
        seconds = seconds if killed else took
        state = state_of(destination)
        assert state in (before, after), moment
        seen["old" if state == before else "new"] += 1
        seen["killed"] += killed
    old()
    assert os.listdir(destination.parent) == [destination.name]
    return seen


def kill_saves(folder: Path, moments: int, seed: int) -> dict[str, Any]:
    from tiny_checkpoint import make_model, make_processor

    processor, (one, two) = make_processor(), (make_model(number) for number in (0, 1))
    destination = folder / "work" / "model"
    return kill_replacements(
        destination,
        lambda: save_checkpoint(one, processor, destination, overwrite=True),
        lambda: save_checkpoint(two, processor, destination, overwrite=True, max_shard_size="100kB"),
        moments,
        seed,
    )


def kill_conversions(folder: Path, moments: int, seed: int) -> dict[str, Any]:
    from pllava_sources import raw_config, released_tensors, write_source, write_tokenizer

    from hf_videollm.convert.pllava.convert import convert_pllava

    source = write_source(folder / "source", released_tensors(), raw_config(), shards=2)
    write_tokenizer(source)
    destination = folder / "work" / "model"
    return kill_replacements(
        destination,
        lambda: convert_pllava(source, destination, merge=1.0, overwrite=True),
        lambda: convert_pllava(source, destination, merge=3.0, overwrite=True),
        moments,
        seed,
    )


def kill_trainings(folder: Path, moments: int, seed: int) -> dict[str, Any]:
    from hf_videollm.models.errors import CheckpointError
    from hf_videollm.synthetic.clips import generate_dataset
    from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
    from hf_videollm.training.resume import checkpoint_problem
    from hf_videollm.training.sft import Recipe, make_trainer, run_sft
    from hf_videollm.training_outputs import load_trained

    steps = 4
    model, processor = build_tiny_pllava(num_frames=4, image_size=32, patch_size=8, pooling_shape=(2, 2, 2))
    records = str(generate_dataset(folder / "clips", 4, kind="motion", with_audio=False, progress=False))
    output = folder / "work" / "out"
    options = {"output_dir": str(output), "per_device_train_batch_size": 2, "max_steps": steps, "use_cpu": True}
    options |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "disable_tqdm": True}
    recipe = Recipe(records=records, frame_cache=str(folder / "cache"), merge_turns=True, arguments=options)
    make_trainer(recipe, model, processor)  # fills the cache once
    rng = random.Random(seed)
    seen = {"killed": 0, "resumed": 0, "half": 0, "finished": 0, "opened": 0}

    def work() -> None:
        trainer = run_sft(recipe, model, processor, save=True)
        assert trainer.state.global_step == steps

    # What a whole run takes, and what a run takes that goes on from a checkpoint.
    _, whole = run(work, None)
    seconds = {True: whole, False: whole}
    for moment in range(moments):
        there = sorted(output.glob("checkpoint-*")) if moment else []
        is_new = not moment or any(path.name == f"checkpoint-{steps}" for path in there)
        if is_new:
            import shutil

            shutil.rmtree(output)
        else:
            seen["resumed"] += any(checkpoint_problem(path) is None for path in there)
            seen["half"] += any(checkpoint_problem(path) is not None for path in there)
        killed, took = run(work, rng.uniform(0.3, 1) * seconds[is_new])
        # The machine is faster or slower from one run to the next.
        seconds[is_new] = seconds[is_new] if killed else took
        seen["killed"] += killed
        output.mkdir(parents=True, exist_ok=True)
        # What opens, opens whole; otherwise the folder says that nothing in it is finished.
        try:
            seen["opened"] += bool(load_trained(output))
        except CheckpointError as error:
            if "has finished saving" not in str(error):
                raise
    # Whatever was left: the next run goes on from it, is done, and leaves only what is whole.
    killed, _ = run(work, None)
    assert not killed
    names = {path.name: checkpoint_problem(path) for path in output.iterdir() if path.is_dir()}
    assert {name: problem for name, problem in names.items() if name.startswith("checkpoint") and problem} == {}
    assert f"checkpoint-{steps}" in names
    assert not (output / ".training.lock").exists()
    PllavaForConditionalGeneration.from_pretrained(output / f"checkpoint-{steps}")
    seen["finished"] += 1
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, what, moments, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    kill = {"save": kill_saves, "convert": kill_conversions, "train": kill_trainings}[what]
    print(json.dumps(kill(place, moments, seed)))
