"""The model code that travels with a checkpoint: the files it needs, and where they come from."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import models as shared
from ..designs import Design
from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import read_checkpoint_json

# The files of a checkpoint that name code.
NAMING_FILES = ("config.json", "processor_config.json", "tokenizer_config.json")


def missing_code(folder: Path, design: Design) -> dict[str, Path]:
    """The code that a checkpoint needs and that its folder does not have.

    A folder that has its code keeps it as it is. Code of two releases is never mixed.

    Args:
        folder: folder of the checkpoint.
        design: its design.

    Returns:
        Name of a file -> the file in this package. It is empty if the folder has all its code.

    Raises:
        CheckpointError: config.json names no code, the code of another repository, or code that is there in part.
    """
    modules = named_modules(folder)
    there = {name for name in modules if (folder / f"{name}.py").is_file()}
    if there == modules:
        _check_imports(folder, modules)
        return {}
    if there:
        raise CheckpointError(
            f"{folder} has {min(there)}.py, but not {min(modules - there)}.py, which its configuration names: remove "
            "all .py files from the folder (push adds those of this package), or save the checkpoint again."
        )
    return code_of_package(design, modules)


def named_modules(folder: Path) -> set[str]:
    """The modules that the `auto_map` and the pipelines of a checkpoint name, without `.py`.

    Raises:
        CheckpointError: none is named, or one of another repository.
    """
    modules: set[str] = set()
    for name in NAMING_FILES:
        for reference in _references(read_checkpoint_json(folder / name)):
            if "--" in reference:
                raise CheckpointError(
                    f"{folder / name} takes code from another repository ({reference}), which its owner can change: "
                    "save the checkpoint again with save_checkpoint, which puts the code beside the weights."
                )
            modules.add(reference.split(".")[0])
    if "auto_map" not in read_checkpoint_json(folder / "config.json") or not modules:
        raise CheckpointError(
            f"{folder / 'config.json'} names no code (auto_map), so nobody could load the repository without this "
            "package: save the checkpoint again with hf_videollm.save_checkpoint."
        )
    return modules


def _references(content: Any) -> Iterator[str]:
    """All references to classes, `module.Class`, in `auto_map` and `custom_pipelines`, at any depth."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == "auto_map" and isinstance(value, Mapping):
            for entry in value.values():
                yield from (str(part) for part in (entry if isinstance(entry, list) else [entry]) if part)
        elif key == "custom_pipelines" and isinstance(value, Mapping):
            yield from (str(task["impl"]) for task in value.values() if isinstance(task, Mapping) and "impl" in task)
        else:
            yield from _references(value)


def _check_imports(folder: Path, modules: set[str]) -> None:
    """Refuse code that imports a file which the folder does not have."""
    from transformers.dynamic_module_utils import get_relative_import_files

    for name in sorted(modules):
        try:
            get_relative_import_files(folder / f"{name}.py")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder / f'{name}.py'} needs {Path(str(error.filename)).name}, which is missing: remove all .py "
                "files from the folder (push adds those of this package), or save the checkpoint again."
            ) from error


def code_of_package(design: Design, modules: set[str]) -> dict[str, Path]:
    """The files of these modules of a design, and all files that they import.

    Raises:
        CheckpointError: the design has no such module.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    # The design of another package has files of its own, and those that all designs share are in this package.
    places = [Path(inspect.getfile(design.load("generating_model"))).parent, Path(inspect.getfile(shared)).parent]
    files: dict[str, Path] = {}
    for name in sorted(modules):
        file = next((file for place in places if (file := place / f"{name}.py").is_file()), None)
        if file is None:
            raise CheckpointError(f"The configuration names the module {name}, which the design {design.name} lacks.")
        files |= {Path(found).name: Path(found) for found in (file, *get_relative_import_files(file))}
    return dict(sorted(files.items()))


__all__ = ["code_of_package", "missing_code", "named_modules"]
