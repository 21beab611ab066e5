"""What `import hf_videollm` loads, and that the designs are registered before anybody can use transformers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ready_python

import hf_videollm
from hf_videollm.after_import import call_after_import

# Libraries that take seconds of CPU time to import, or that only some uses need.
HEAVY = ("torch", "torchvision", "transformers", "av", "peft", "trl", "datasets", "scenedetect", "bitsandbytes")
# transformers imports the first of these, and our classes are subclasses of its own.
ONLY_SOME_USES = ("peft", "trl", "datasets", "scenedetect", "bitsandbytes")
PRINT_LOADED = "\nimport sys; print(*(name for name in {names} if name in sys.modules))"

# Ways in which a program may come to an Auto class and to the package.
ORDERS = {
    "package first": "import hf_videollm\nfrom transformers import AutoConfig",
    "transformers first": "import transformers\nimport hf_videollm\nfrom transformers import AutoConfig",
    "Auto module by its name": "import hf_videollm\nfrom transformers.models.auto.configuration_auto import AutoConfig",
    "after a library that imports transformers": "import hf_videollm, peft\nfrom transformers import AutoConfig",
    "a file of models/ first": (
        "from hf_videollm.models.media_video import load_video\nfrom transformers import AutoConfig"
    ),
    "in a thread": (
        "import hf_videollm, threading\n"
        "names = ('transformers', 'hf_videollm.models.modeling_iva', 'hf_videollm.inference', 'transformers.trainer')\n"
        "threads = [threading.Thread(target=__import__, args=(name,)) for name in names]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\n"
        "from transformers import AutoConfig"
    ),
}
CHECK_REGISTERED = """
import hf_videollm
from transformers import AutoModelForImageTextToText
from transformers.pipelines import PIPELINE_REGISTRY
assert PIPELINE_REGISTRY.check_task("video-text-to-text")[0] == "video-text-to-text"
for name, row in hf_videollm.designs.DESIGNS.items():
    config = AutoConfig.for_model(name)
    assert type(config) is row.load("config"), config
    assert AutoModelForImageTextToText._model_mapping[type(config)] is row.load("generating_model")
print("registered")
"""


def run(code: str, ready: tuple[str, ...] = ()) -> str:
    """Standard output of a new interpreter, which has imported nothing, or torch, or torch and transformers.

    One with transformers has imported none of `ONLY_SOME_USES`.
    """
    if ready:
        result = ready_python.run("-c", code, with_transformers="transformers" in ready)
    else:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


def loaded(code: str, names: tuple[str, ...]) -> set[str]:
    """Those of these modules that are loaded after some code."""
    ready = ("torch", "transformers") if names == ONLY_SOME_USES else ()
    return set(run(code + PRINT_LOADED.format(names=names), ready).split())


def test_the_import_alone_loads_nothing_heavy() -> None:
    assert not loaded("import hf_videollm", HEAVY)


def test_registered_designs_load_no_library_that_only_some_uses_need() -> None:
    names = "load_pipeline, hf_videollm.save_checkpoint, hf_videollm.build_checkpoint"
    assert not loaded(f"import hf_videollm, transformers\nhf_videollm.{names}", ONLY_SOME_USES)


def test_no_module_of_the_package_loads_a_library_that_only_some_uses_need() -> None:
    # The classes of the trainers are subclasses of TRL's, so that their modules are imported where a training begins.
    # So are those of callbacks, whose class in transformers loads PEFT.
    needs_trl = [f"hf_videollm.training.{name}" for name in ("trainer", "dpo_trainer", "grpo_trainer")]
    needs_peft = [f"hf_videollm.training.{name}" for name in ("mix_reporter", "run_callbacks")]
    # From the files: tests of a toy design lend hf_videollm.models further folders.
    package = Path(hf_videollm.__file__).parent
    files = [file.relative_to(package.parent).with_suffix("") for file in sorted(package.rglob("*.py"))]
    modules = [".".join(file.parts) for file in files if file.name != "__init__"]
    # Classes of `evaluate`, which `evaluate.load` imports by the path of their file.
    metrics = [name for name in modules if re.fullmatch(r"hf_videollm\.evaluation\.metrics\.(\w+)\.\1", name)]
    assert metrics
    # The model of lmms-eval's plugin is a subclass of lmms-eval's, which need not be installed.
    needs_lmms_eval = "hf_videollm.evaluation.lmms_eval"
    assert needs_lmms_eval in modules
    others = [
        name
        for name in modules
        if name not in (*needs_trl, *needs_peft, needs_lmms_eval, *metrics)
        and not name.endswith((".__main__", ".pickle_child"))
    ]
    assert {*needs_trl, *needs_peft} <= set(modules)
    code = f"import importlib\nfor name in {others}: importlib.import_module(name)"
    assert not loaded(code, ONLY_SOME_USES)
    # The control.
    assert all("trl" in loaded(f"import {name}", ONLY_SOME_USES) for name in needs_trl)


def test_control_what_is_loaded_is_seen() -> None:
    assert loaded("import hf_videollm, av, scenedetect", HEAVY) >= {"av", "scenedetect"}


@pytest.mark.parametrize("order", ORDERS)
def test_designs_are_registered_whatever_is_imported_first(order: str) -> None:
    """Torch is there already: which of its modules is imported first changes nothing here."""
    is_first = order in ("transformers first", "after a library that imports transformers")
    ready = ("torch", "transformers") if is_first else ("torch",)
    assert run(ORDERS[order] + CHECK_REGISTERED, ready).endswith("registered")


def test_control_without_the_package_nothing_is_registered() -> None:
    try_it = "try:\n    AutoConfig.for_model('pllava')\nexcept ValueError:\n    print('unknown')"
    assert run(f"from transformers import AutoConfig\n{try_it}", ("torch", "transformers")) == "unknown"


def test_public_names_are_those_of_the_table_and_importable() -> None:
    assert set(hf_videollm.__all__) <= set(dir(hf_videollm))
    rows = [*hf_videollm.designs.DESIGNS.values(), *hf_videollm.designs.ENCODERS.values()]
    names = {name for row in rows for name in row.classes()}
    assert names <= set(hf_videollm.__all__)
    for row in rows:
        for name, reference in row.classes().items():
            assert f"{getattr(hf_videollm, name).__module__}:{name}" == reference


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'hf_videollm' has no attribute 'PllavaConfi'"):
        hf_videollm.PllavaConfi  # noqa: B018
    with pytest.raises(ImportError, match="PllavaConfi"):
        exec("from hf_videollm import PllavaConfi")


def test_a_failed_call_fails_the_import_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_module.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    calls = []

    def fail_once() -> None:
        calls.append(sys.modules["late_module"].value)
        if len(calls) == 1:
            raise RuntimeError("not yet")

    call_after_import("late_module", fail_once)
    before = list(sys.meta_path)
    with pytest.raises(RuntimeError, match="not yet"):
        import late_module
    import late_module

    assert calls == [1, 1]
    assert type(late_module.__loader__).__name__ == "SourceFileLoader"
    assert late_module.__spec__.loader is late_module.__loader__
    assert len(sys.meta_path) == len(before) - 1
    call_after_import("late_module", fail_once)
    assert calls == [1, 1, 1]
    monkeypatch.delitem(sys.modules, "late_module")
