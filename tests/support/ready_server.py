"""A Python process that imports the large libraries once, and becomes a new interpreter by forking itself.

`ready_python.py` starts it and sends it jobs. This package is not among what it imports: each copy finds it by its own
path, or does not find it. There are two servers: before transformers is imported, the process forks one that goes on
without it, for jobs that are about importing transformers.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

# None of them imports a library of Hugging Face, or reads the variables of one.
FIRST = (
    "typer",
    "rich.console",
    "rich.progress",
    "requests",
    "yaml",
    "jinja2",
    "av",
    "PIL.Image",
    "torch",
    "torchvision.transforms.v2.functional",
    # PEFT imports these two, through libraries that are not for all jobs.
    "torch._inductor.compile_fx",
    "pandas",
)
SECOND = (
    "transformers",
    "transformers.generation",
    "transformers.modeling_utils",
    "transformers.pipelines",
    "transformers.processing_utils",
    "transformers.video_processing_utils",
    "transformers.image_processing_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.auto.video_processing_auto",
    "transformers.feature_extraction_sequence_utils",
    "transformers.generation.streamers",
    "transformers.pipelines.image_text_to_text",
    "transformers.models.clip.image_processing_clip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.siglip.modeling_siglip",
)
# The folder of remote code: several libraries copy it from the environment while they are imported.
CACHE = "HF_MODULES_CACHE"


def become(job: dict[str, Any], standard: list[int]) -> None:
    """Give this copy the streams, the folder and the environment of the job."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    cache = os.environ.get(CACHE)
    for module in list(sys.modules.values()):
        if cache is not None and CACHE in getattr(module, "__dict__", {}):
            setattr(module, CACHE, cache)
    # All copies would draw the same numbers.
    random.seed()
    sys.modules["numpy"].random.seed()


def run(arguments: list[str], path: list[str]) -> None:
    """Do what `python ARGUMENTS` does, with the folders of installed packages given."""
    is_safe = arguments[0] == "-P"  # the folder of the program is no place of modules
    arguments = arguments[is_safe:]
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder] + path
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if arguments[0] == "-c":
        sys.path[:] = ["", *path]
        sys.argv[:] = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    elif arguments[0] == "-m":
        sys.path[:] = [os.getcwd(), *path]
        sys.argv[:] = ["-m", *arguments[2:]]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:] = path if is_safe else [os.path.dirname(os.path.abspath(arguments[0])), *path]
        sys.argv[:] = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def end_after(work: Callable[[], None]) -> None:
    """Work, then end as an interpreter does, except that it frees no object: that would copy the server's memory."""
    status = 0
    try:
        work()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = 1 if isinstance(stop.code, str) else int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    for finish in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        finish()
    os._exit(status & 0xFF)


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each job: returns the job in the copy that does it, and nothing in the server after the last one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 5)
        if not message:
            return None
        if os.fork() == 0:
            # A copy that waits for the job, so that jobs may run at the same time.
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            job, status, *standard = descriptors
            worker = os.fork()
            if worker == 0:
                os.close(status)
                with open(job, encoding="utf-8") as file:
                    return json.load(file), standard
            for descriptor in (job, *standard):
                os.close(descriptor)
            os.write(status, array.array("q", [worker]).tobytes())
            _, ended, usage = os.wait4(worker, 0)
            cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
            os.write(status, array.array("q", [os.waitstatus_to_exitcode(ended), cpu]).tobytes())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def load(names: tuple[str, ...]) -> None:
    """Import these modules. The garbage collector of a copy need not look at what it shares with the server."""
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def warm_up() -> None:
    """Let libraries prepare what each job would prepare anew."""
    sys.modules["PIL.Image"].init()
    with contextlib.suppress(ImportError, AttributeError):  # older releases have no such table
        # A thousand patterns of the names of weights, compiled for the first model that is loaded.
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")


installed = [folder for folder in sys.path[1:] if folder not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
whole, without_transformers = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
load(FIRST)
if os.fork() == 0:
    whole.close()
    found = serve(without_transformers)
else:
    without_transformers.close()
    load(SECOND)
    warm_up()
    found = serve(whole)
if found is not None:
    become(*found)
    arguments = found[0]["arguments"]
    end_after(lambda: run(arguments, installed))
