"""Publishes the rows of a mix as a dataset on the Hub: Parquet files that hold the media, and a card."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import atomic_folder
from ..data.bad_media import BadFile, check_share
from ..data.decoding import decoded_seconds
from ..data.embedded import embedded_features, files_of, first_medium, with_media
from ..data.mix import load_mix
from ..data.mix_plan import PreparedMix, prepare_mix
from ..data.parsed_files import DataError
from ..data.record import media_of
from ..disk_full import name_full_disk
from ..models.errors import MediaError, MissingBackend, UnsafeURL, one_line
from ..models.video_llm_option_names import did_you_mean, names_options
from ..version import __version__
from .dataset_card import dataset_card
from .licence_terms import HUB_LICENCES
from .push_errors import PushError, explain, patiently
from .repo_names import check_repo_id

__all__ = ["DatasetReport", "push_dataset"]

_SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
# Rows of videos are large, and a reader holds a group of rows in memory.
_ROWS_IN_GROUP = 20
# Bytes of a group of rows after it was read. A video with more rows than that is stored once in each of several groups.
_LARGEST_GROUP = 10**9
# Parquet stores equal values once as long as the different ones of a group take no more than this.
_LARGEST_DICTIONARY = 2**31 - 1


@dataclass(frozen=True)
class DatasetReport:
    """What was published, or what would be.

    Attributes:
        repo_id: name of the dataset.
        rows: split -> rows.
        files: path in the repository -> bytes.
        dry_run: whether it was only written to `folder`.
        folder: folder on this machine, of a dry run.
        url: address of the commit; None for a dry run.
        left_out: rows that are not in it, because their media are missing or cannot be decoded.
    """

    repo_id: str
    rows: dict[str, int]
    files: dict[str, int]
    dry_run: bool
    folder: str | None = None
    url: str | None = None
    left_out: tuple[BadFile, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def render(self) -> Any:
        """The report for a terminal."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("file", "bytes")
        for path, size in self.files.items():
            table.add_row(path, f"{size:,}")
        rows = ", ".join(f"{number:,} rows of {split}" for split, number in self.rows.items())
        where = f"written to {self.folder}, not published" if self.dry_run else f"published: {self.url}"
        lines = [Text(f"{self.repo_id}: {rows}; {where}")]
        lines += [Text(f"left out: {each.id}: {each.path} ({each.reason})") for each in self.left_out]
        return Group(table, *lines)


@names_options
def push_dataset(
    mix: str | os.PathLike[str],
    repo_id: str,
    *,
    licence: str | None = None,
    private: bool | None = None,
    dry_run: bool = False,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    max_shard_size: str = "500MB",
    token: str | None = None,
    message: str = "Upload dataset with hf_videollm",
    cache_dir: str | None = None,
) -> DatasetReport:
    """Publish the rows that a mix chooses, each once, with their media inside.

    Everything is written and checked on this machine first; then one commit publishes it. Every row has its media, but
    the bytes of a video with several rows are stored once: the rows about it stand together, and Parquet stores equal
    values of a group of rows once.

    Args:
        mix: the mix file.
        repo_id: `OWNER/NAME`.
        licence: licence of the dataset, as the Hub names it. Its sources have licences of their own, which this package
            does not know, so it must be given.
        private: make a new repository private; the Hub decides by default.
        dry_run: publish nothing, but write the folder as it would be published into `output`.
        output: folder for `dry_run`; `NAME.dry-run` in the working folder by default.
        overwrite: replace `output` if it is not empty.
        max_shard_size: largest size of the media in one Parquet file, such as 500MB.
        token: token of the Hub; `None` takes the one that the user logged in with.
        message: title of the commit.
        cache_dir: as in `prepare_mix`.

    Raises:
        DataError: the mix or a row is wrong, or no licence is given.
        ValueError: the name of the repository or the size is not possible.
        PushError: the Hub refused, failed or did not answer.
        FileExistsError: `output` is not empty.
    """
    if not dry_run and (output is not None or overwrite):
        option = f"output={output}" if output is not None else f"overwrite={overwrite}"
        raise ValueError(f"{option} is for dry_run alone: a push writes no folder.")
    check_repo_id(repo_id)
    if not licence:
        raise DataError("licence must be given: the sources have licences, so say which one the dataset gets.")
    if licence not in HUB_LICENCES:
        raise DataError(f"licence {licence!r} is none that the Hub knows: {did_you_mean(licence, HUB_LICENCES)}")
    size = _bytes_of(max_shard_size)
    prepared = _decodable(prepare_mix(load_mix(mix), cache_dir))
    left_out = tuple(prepared.missing)
    if dry_run:
        folder = Path(output or f"{repo_id.split('/')[1]}.dry-run")
        with atomic_folder(folder, overwrite=overwrite) as temporary:
            rows, files = _write(prepared, temporary, repo_id, licence, size)
        return DatasetReport(repo_id, rows, files, dry_run=True, folder=str(folder), left_out=left_out)
    with tempfile.TemporaryDirectory(prefix="hf_videollm_push_") as work, name_full_disk(work):
        rows, files = _write(prepared, Path(work), repo_id, licence, size)
        url = _publish(Path(work), repo_id, private, token, message)
    return DatasetReport(repo_id, rows, files, dry_run=False, url=url, left_out=left_out)


def _decodable(prepared: PreparedMix) -> PreparedMix:
    """The mix without rows whose media cannot be decoded, which count like those with missing media.

    Raises:
        TooManyBadMediaError: these are more than `max_bad` allows.
        DataError: no row is left.
    """
    reasons: dict[tuple[str, ...], str | None] = {}
    broken: dict[int, BadFile] = {}
    for number in sorted(set(prepared.chosen)):
        row = prepared.table[number]
        # Rows about one video are looked at once.
        media = tuple(f"{block['path']} {block['start']} {block['end']}" for block in media_of(row))
        if any("://" in (block["path"] or "") for block in media_of(row)):
            continue  # What is written later says that addresses are not published.
        if media not in reasons:
            try:
                reasons[media] = None
                for _ in decoded_seconds(row, num_frames=1):
                    pass
            except (MissingBackend, UnsafeURL):
                raise
            except MediaError as error:
                reasons[media] = one_line(error)
        if (reason := reasons[media]) is not None:
            broken[number] = BadFile(row["id"], next(iter(row["files"]), ""), reason)
    bad = [*prepared.missing, *broken.values()]
    total = len(set(prepared.chosen)) + len(prepared.missing)
    check_share(bad, total, prepared.mix.max_bad, str(prepared.mix.path))
    chosen = [number for number in prepared.chosen if number not in broken]
    if not chosen:
        raise DataError(f"{prepared.mix.path}: no row is left to publish.")
    return replace(prepared, chosen=chosen, missing=bad)


def _bytes_of(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(KB|MB|GB)", text.strip().upper())
    if match is None or int(match[1]) == 0:
        raise ValueError(f"max_shard_size {text!r} is no size: give one such as 500MB.")
    return int(match[1]) * _SIZES[match[2]]


def _write(
    prepared: PreparedMix, folder: Path, repo_id: str, licence: str, size: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Write Parquet files and card; rows of each split, and bytes of each file."""
    table = prepared.rows(None).select(_once(prepared))
    splits = list(dict.fromkeys(table["split"][:]))
    rows: dict[str, int] = {}
    for split in splits:
        if re.fullmatch(r"\w+(\.\w+)*", split) is None:
            raise DataError(f"{prepared.mix.path}: the split {split!r} cannot be a name on the Hub: use letters alone.")
        of_split = table.filter(lambda value, split=split: value == split, input_columns="split", keep_in_memory=True)
        rows[split] = len(of_split)
        _write_split(of_split, folder / "data", split, size, _names(prepared))
    card = dataset_card(prepared, repo_id, licence, rows, embedded_features())
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return rows, files


def _once(prepared: PreparedMix) -> list[int]:
    """Positions of the rows, each row once."""
    seen: dict[int, int] = {}
    for position, row in enumerate(prepared.chosen):
        seen.setdefault(row, position)
    return list(seen.values())


def _names(prepared: PreparedMix) -> dict[str, str]:
    """Whole path -> path below the root of its source; nothing else of this machine's folders is published."""
    names: dict[str, str] = {}
    for paths in prepared.table["files"][:]:
        for path in paths:
            for spec in prepared.mix.sources:
                # `resolve` follows links and "..", which may lead out of the folder.
                if Path(path).resolve().is_relative_to(spec.root.resolve()):
                    names.setdefault(path, Path(path).resolve().relative_to(spec.root.resolve()).as_posix())
    return names


def _write_split(rows: Any, folder: Path, split: str, size: int, names: dict[str, str]) -> None:
    from pyarrow import parquet  # type: ignore[import-untyped]

    folder.mkdir(exist_ok=True)
    parts: list[Path] = []
    writer, filled = None, 0
    features = embedded_features()
    try:
        for group, weight in _groups(rows, size, names):
            if writer is not None and filled + weight > size:
                writer.close()
                writer, filled = None, 0
            if writer is None:
                parts.append(folder / f"{split}-{len(parts):05d}.part")
                writer = parquet.ParquetWriter(
                    parts[-1], features.arrow_schema, dictionary_pagesize_limit=_LARGEST_DICTIONARY
                )
            writer.write_table(_table(group, features), row_group_size=len(group))
            filled += weight
    finally:
        if writer is not None:
            writer.close()
    # The names say how many files there are, which is known only now.
    for number, path in enumerate(parts):
        path.rename(folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")


def _groups(rows: Any, size: int, names: dict[str, str]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Groups of rows with their media, and the bytes of their different media. Rows about one video stand together."""
    group: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    read, last = 0, None
    for row in _by_medium(rows):
        medium = first_medium(row)
        whole = with_media(row, names)
        weight = sum(len(file["bytes"]) for file in files_of(whole))
        is_full = len(group) >= _ROWS_IN_GROUP or sum(sizes.values()) + weight > size
        is_full = is_full and medium != last
        if group and (is_full or read + weight > _LARGEST_GROUP):
            yield group, sum(sizes.values())
            group, sizes, read = [], {}, 0
        group.append(whole)
        sizes.update((file["path"], len(file["bytes"])) for file in files_of(whole))
        read, last = read + weight, medium
    if group:
        yield group, sum(sizes.values())


def _by_medium(rows: Any) -> Iterator[dict[str, Any]]:
    """The rows, of which those about one video follow each other. Videos come in the order of their first rows."""
    places: dict[str, list[int]] = {}
    for number, row in enumerate(rows.select_columns(["id", "messages"])):
        places.setdefault(first_medium(row), []).append(number)
    for numbers in places.values():
        for number in numbers:
            yield rows[number]


def _table(group: list[dict[str, Any]], features: Any) -> Any:
    from datasets import Dataset

    schema = features.arrow_schema
    return Dataset.from_list(group, features=features).data.table.select(schema.names).cast(schema)


def _publish(folder: Path, repo_id: str, private: bool | None, token: str | None, message: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="hf_videollm", library_version=__version__)
    of_dataset: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset"}

    def ask(call: Callable[[], Any]) -> Any:
        try:
            return patiently(call)
        # The client passes on errors of several libraries.
        except Exception as error:
            meaning = explain(error, repo_id, api.endpoint)
            if meaning is None:
                raise
            raise PushError(f"{repo_id}: {meaning}. Nothing was published.") from error

    is_new = not ask(lambda: api.repo_exists(**of_dataset))
    ask(lambda: api.create_repo(**of_dataset, private=private, exist_ok=True))
    is_private = ask(lambda: api.dataset_info(repo_id)).private
    if private is not None and private != is_private:
        raise PushError(
            f"{repo_id} exists and is {'private' if is_private else 'public'}, which a push does not change: do that "
            f"on its page, choose another name, or leave out private={private}. Nothing was published."
        )
    try:
        # Files of an earlier push that has other splits or another number of files are deleted in the same commit.
        made = ask(
            lambda: api.upload_folder(
                **of_dataset, folder_path=folder, commit_message=message, delete_patterns="data/*.parquet"
            )
        )
    except BaseException:
        if is_new:
            # The error that led here says more than one of this request.
            with contextlib.suppress(Exception):
                api.delete_repo(**of_dataset)
        raise
    return f"{api.endpoint}/datasets/{repo_id}/tree/{made.oid}"
