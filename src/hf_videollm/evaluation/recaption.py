"""Captions for videos without any, as PLLaVA makes them (Inter4K): a folder or a list of videos becomes JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from .data_files import DataError, DataFiles, Row
from .items import Item, Medium
from .prompts_pllava import RECAPTION_QUERY
from .records import read_records
from .run_options import RunOptions
from .runner import Runner
from .task import Task
from .tasks.inter4k import TASKS as INTER4K

__all__ = ["VIDEO_SUFFIXES", "find_videos", "recaption", "recaption_style", "run_folder"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
# Fields of a list that may hold the name of a video.
NAME_FIELDS = ("video_name", "video", "path")


def find_videos(source: Path) -> list[tuple[str, Path]]:
    """The videos to describe: name and file.

    Args:
        source: a folder, whose videos are taken in the order of their names, those of folders in it included; or a list
            of names or paths (`.txt` one a line, `.json`, `.jsonl`), which are relative to the folder of the list.

    Raises:
        DataError: there is nothing, or a list has another form.
    """
    if source.is_dir():
        found = sorted(
            path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and not _is_hidden(path, source)
        )
        named = [(path.relative_to(source).as_posix(), path) for path in found]
    elif source.is_file():
        named = [(name, _file_of(source.parent, name)) for name in _listed(source)]
    else:
        raise DataError(f"{source}: no such folder or list of videos; check the path.")
    if not named:
        raise DataError(f"{source} holds no videos ({', '.join(VIDEO_SUFFIXES)}).")
    return named


def recaption_style(design: str) -> str:
    """The prompt style of a design: PLLaVA's whole prompt for PLLaVA, its question alone for the others.

    The chat template of PLLaVA's style would take the place of that of the checkpoint, which others were trained with.
    """
    return "pllava" if design == "pllava" else "default"


def run_folder(output: Path) -> Path:
    """Where records and result of a run are that writes its captions to `output`."""
    return output.with_name(f"{output.name}.run")


def recaption(runner: Runner, videos: Sequence[tuple[str, Path]], output: Path) -> dict[str, Any] | None:
    """Describe videos; a run that was stopped goes on where it was.

    Args:
        runner: with the model. Its `options.prompt_style` is a style of the task `inter4k`.
        videos: of `find_videos`.
        output: JSON lines with `video`, `path`, `caption` and `frames`; written when all videos are done. A video that
            cannot be read has `error` instead of `caption`.

    Returns:
        What `result.json` in the folder beside the output holds; None if other processes are still at work.

    Raises:
        SettingsChangedError: the folder beside the output holds captions that were made with other settings.
        DataError: two videos have the same name.
    """
    folder = run_folder(output)
    result = runner.run(_task(videos), DataFiles(output.parent), folder)
    if result is None:
        return None
    records = read_records(folder)
    lines = []
    for name, path in videos:
        record = records[name]
        line: dict[str, Any] = {"video": name, "path": str(path)}
        if "error" in record:
            line["error"] = record["error"]["message"]
        else:
            line |= {"caption": record["answers"][0], "frames": record["media"][0].get("frames")}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    with atomic_file(output) as place:
        place.write_text("".join(lines), encoding="utf-8")
    return result


def _task(videos: Sequence[tuple[str, Path]]) -> Task:
    def load(data: DataFiles) -> Iterator[Item]:
        for name, path in videos:
            yield Item(name, (Medium(path),), (RECAPTION_QUERY,))

    prompts = INTER4K[0].prompts
    return Task("recaption", "Recaption", load, ("videos",), "your own videos", prompts, metric="none")


def options_with_style(options: RunOptions, design: str) -> RunOptions:
    """The options of a run, with the design's style where none was chosen."""
    from dataclasses import replace

    return replace(options, prompt_style=options.prompt_style or recaption_style(design))


def _listed(source: Path) -> Iterator[str]:
    data = DataFiles(source.parent)
    if source.suffix == ".txt":
        yield from (line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    elif source.suffix == ".jsonl":
        yield from map(_name_of, data.jsonl_rows(source.name))
    elif source.suffix == ".json":
        values = data.json(source.name)
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            yield from values
        else:
            yield from map(_name_of, data.as_rows(values, str(source)))
    else:
        raise DataError(f"{source}: a list of videos is .txt, .json or .jsonl.")


def _name_of(row: Row) -> str:
    field = next((name for name in NAME_FIELDS if name in row.values), NAME_FIELDS[0])
    name: str = row.get(field)
    return name


def _file_of(folder: Path, name: str) -> Path:
    """The file of a name in a list, which may lack its suffix, as Inter4K's own list does."""
    path = folder / name
    if path.suffix.lower() in VIDEO_SUFFIXES or path.exists():
        return path
    return next((found for suffix in VIDEO_SUFFIXES if (found := folder / f"{name}{suffix}").exists()), path)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
