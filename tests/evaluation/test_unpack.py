"""Archives of benchmarks: all forms are unpacked, killed ones go on, and none of them can do harm."""

import gzip
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.disk_full import DiskFullError
from hf_videollm.evaluation import archive_members
from hf_videollm.evaluation.archive_members import ArchiveLimits
from hf_videollm.evaluation.archives import NOTES, ArchiveError, find_archives, unreadable_archives
from hf_videollm.evaluation.unpack import packed, unpack_all

Files = dict[str, bytes]
FILES: Files = {
    "data/a.mp4": random.Random(0).randbytes(70_000),
    "data/b.mp4": random.Random(1).randbytes(300),
    "data/empty.srt": b"",
    "data/deeper/c.json": b'{"a": 1}' * 50,
}


def write_zip(path: Path, files: Files = FILES, method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry, content


def write_tar(path: Path, entries: Iterable[tuple[tarfile.TarInfo, bytes]] | None = None, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for entry, content in entries or [tar_entry(name, content) for name, content in FILES.items()]:
            archive.addfile(entry, io.BytesIO(content))
    return path


def cut(path: Path, names: Callable[[int], str], size: int = 20_000) -> None:
    content = path.read_bytes()
    for number, start in enumerate(range(0, len(content), size)):
        path.with_name(f"{path.name}{names(number)}").write_bytes(content[start : start + size])
    path.unlink()


def letters(number: int) -> str:
    return "abcdefghij"[number // 26] + "abcdefghijklmnopqrstuvwxyz"[number % 26]


FORMS: dict[str, Callable[[Path], Any]] = {
    "zip": lambda folder: write_zip(folder / "x.zip"),
    "deflated zip": lambda folder: write_zip(folder / "x.zip", method=zipfile.ZIP_DEFLATED),
    "tar": lambda folder: write_tar(folder / "x.tar"),
    "tar.gz": lambda folder: write_tar(folder / "x.tar.gz", mode="w:gz"),
    "tgz": lambda folder: write_tar(folder / "x.tgz", mode="w:gz"),
    "tar.bz2": lambda folder: write_tar(folder / "x.tar.bz2", mode="w:bz2"),
    "tar.xz": lambda folder: write_tar(folder / "x.tar.xz", mode="w:xz"),
    "tar.part.aa": lambda folder: cut(write_tar(folder / "x.tar"), lambda number: f".part.{letters(number)}"),
    "tar.gz.partaa": lambda folder: cut(write_tar(folder / "x.tar.gz", mode="w:gz"), lambda n: f".part{letters(n)}"),
    "zip.001": lambda folder: cut(write_zip(folder / "x.zip"), lambda number: f".{number + 1:03d}"),
    "zip.part-0": lambda folder: cut(write_zip(folder / "x.zip"), lambda number: f".part-{number}"),
    "zipaa": lambda folder: cut(write_zip(folder / "x.zip"), letters),
}


def content_of(folder: Path) -> Files:
    """What is in a folder, less archives and our notes."""
    files = (path for path in folder.rglob("*") if path.is_file() and NOTES not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if not path.name.startswith("x.")}


@pytest.mark.parametrize("place", ["", "video/inner"])
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_unpacked_beside_themselves(tmp_path: Path, form: str, place: str) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    FORMS[form](tmp_path / place)
    assert len(packed(tmp_path)) == 1
    (archive,) = unpack_all(tmp_path)
    assert archive.name.parent == tmp_path / place
    assert content_of(tmp_path / place) == FILES
    # A second time, there is nothing to do; the archive stays.
    assert packed(tmp_path) == unpack_all(tmp_path) == []
    assert len(find_archives(tmp_path)) == 1


def test_several_archives_go_into_one_folder(tmp_path: Path) -> None:
    for number in range(3):
        write_zip(tmp_path / f"videos_chunked_{number:02d}.zip", {f"data/{number}.mp4": b"x" * number})
    told: list[tuple[str, int, int]] = []

    def progress(archive: Any) -> Callable[[int, int], None]:
        return lambda done, total: told.append((archive.name.name, done, total))

    assert len(unpack_all(tmp_path, progress)) == 3
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]
    assert told[-2:] == [("videos_chunked_02.zip", 0, 2), ("videos_chunked_02.zip", 2, 2)]


def test_only_a_new_archive_is_unpacked_again(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"a.txt": b"old", "b.txt": b"same"})
    unpack_all(tmp_path)
    kept = (tmp_path / "b.txt").stat().st_mtime_ns
    write_zip(tmp_path / "x.zip", {"a.txt": b"newer", "b.txt": b"same"})
    assert len(unpack_all(tmp_path)) == 1
    assert (tmp_path / "a.txt").read_bytes() == b"newer"
    assert (tmp_path / "b.txt").stat().st_mtime_ns == kept


def test_archives_in_archives_stay_packed(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"deep.txt": b"x"}).read_bytes()
    (tmp_path / "inner.zip").unlink()
    write_zip(tmp_path / "x.zip", {"below/inner.zip": inner})
    for _ in range(2):
        unpack_all(tmp_path)
    assert (tmp_path / "below/inner.zip").exists()
    assert not (tmp_path / "below/deep.txt").exists()
    # The control: an archive that the user puts there is unpacked.
    write_zip(tmp_path / "below/other.zip", {"deep.txt": b"x"})
    assert [archive.name.name for archive in unpack_all(tmp_path)] == ["other.zip"]


def test_hidden_folders_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write_zip(tmp_path / ".cache/huggingface/x.zip")
    for name in ("x.zip.json", "frames.tar.md", "z.zip.xz", "test.parquet"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("all.7z", "all.rar"):
        (tmp_path / name).write_bytes(b"x")
    assert unpack_all(tmp_path) == []
    assert [path.name for path in unreadable_archives(tmp_path)] == ["all.7z", "all.rar"]
    assert unpack_all(tmp_path / "missing") == []


HOSTILE_NAMES = ["../out.txt", "a/../../out.txt", "/tmp/evil.txt", "C:\\evil.txt", "C:evil", "a\\..\\..\\out"]
HOSTILE_NAMES += ["..", "a\nb", f"{NOTES}/0.json", f"a/{NOTES}/0.json"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "in"
    files = {"good.txt": b"good", name: b"evil"}
    if kind == "zip":
        write_zip(folder / "x.zip", files)
    else:
        write_tar(folder / "x.tar", [tar_entry(name, content) for name, content in files.items()])
    with pytest.raises(ArchiveError, match=r"x\.(zip|tar) is not unpacked: the name .* is not safe") as error:
        unpack_all(folder)
    assert "\n" not in str(error.value)
    # Nothing at all is written of such an archive.
    assert content_of(folder) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.FIFOTYPE, "a device"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "with holes"),
    ],
)
def test_a_tar_file_holds_only_files(tmp_path: Path, kind: bytes, words: str) -> None:
    entries = [tar_entry("good.txt", b"x"), tar_entry("evil", type=kind, linkname="../../etc/passwd")]
    write_tar(tmp_path / "x.tar", entries)
    with pytest.raises(ArchiveError, match=words):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {}


def test_a_zip_file_holds_no_links(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("evil")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
        archive.writestr("evil/passwd", "x")
    with pytest.raises(ArchiveError, match="'evil' in it is a link"):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {}


@pytest.mark.parametrize("outer", ["data", "data/deeper"])
def test_nothing_is_written_through_a_link_that_is_there(tmp_path: Path, outer: str) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside"
    outside.mkdir()
    write_zip(folder / "x.zip")
    (folder / outer).parent.mkdir(exist_ok=True)
    (folder / outer).symlink_to(outside, target_is_directory=True)
    with pytest.raises(ArchiveError, match="through the link"):
        unpack_all(folder)
    assert list(outside.iterdir()) == []


def test_a_file_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside.txt"
    outside.write_text("mine")
    write_zip(folder / "x.zip", {"a.txt": b"evil"})
    (folder / "a.txt").symlink_to(outside)
    with pytest.raises(ArchiveError, match="through the link"):
        unpack_all(folder)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("files", [{"a": b"x", "./a": b"y"}, {"a": b"x", "a/b": b"y"}, {"a/b": b"x", "a": b"y"}])
def test_two_things_of_one_name_are_refused(tmp_path: Path, files: Files) -> None:
    write_zip(tmp_path / "x.zip", files)
    with pytest.raises(ArchiveError, match=r"twice|a file and a folder"):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {}


def test_a_file_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"notes.txt": b"theirs", "other.txt": b"x"})
    (tmp_path / "notes.txt").write_text("my own notes")
    with pytest.raises(ArchiveError, match=r"holds another 'notes\.txt' than .*\(6 and 12 bytes\): move that file"):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {"notes.txt": b"my own notes"}


@pytest.mark.parametrize(("standing", "words"), [("a.txt/x", "is a folder"), ("b", "which is a file")])
def test_files_and_folders_do_not_replace_each_other(tmp_path: Path, standing: str, words: str) -> None:
    write_zip(tmp_path / "x.zip", {"a.txt": b"x", "b/c.txt": b"y"})
    (tmp_path / standing).parent.mkdir(exist_ok=True)
    (tmp_path / standing).write_text("mine")
    with pytest.raises(ArchiveError, match=words):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {standing: b"mine"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    size = 3 << 20
    if kind == "zip":
        write_zip(tmp_path / "x.zip", {"zeros": bytes(size)}, zipfile.ZIP_DEFLATED)
    else:
        write_tar(tmp_path / "x.tar.gz", [tar_entry("zeros", bytes(size))], "w:gz")
    with pytest.raises(ArchiveError, match="it would become more than"):
        unpack_all(tmp_path, limits=ArchiveLimits(bytes=size - 1))
    with pytest.raises(ArchiveError, match="it would become more than"):
        unpack_all(tmp_path, limits=ArchiveLimits(files=0))
    monkeypatch.setattr(archive_members, "FREE_BYTES", 0)
    with pytest.raises(ArchiveError, match="it would become more than"):
        unpack_all(tmp_path, limits=ArchiveLimits(ratio=100))
    assert content_of(tmp_path) == {}
    # The control: within the limits it is unpacked.
    unpack_all(tmp_path, limits=ArchiveLimits(bytes=size, files=1, ratio=5000))
    assert (tmp_path / "zeros").stat().st_size == size


def test_a_header_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    """tarfile reads a header of names as a whole; this one claims 8 GB, which gzip would make out of little."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(ArchiveError, match="claims 8,589,93"):
        unpack_all(tmp_path)


def test_sizes_that_lie_are_found_out(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.bin": bytes(1000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"x\.zip is damaged"):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {}


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2", "tar.part.aa", "zip.001"])
def test_archives_that_are_cut_off_are_damaged(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    parts = sorted(path for path in tmp_path.iterdir() if path.is_file())
    for part in parts[2:]:
        # Nobody can tell from the names that a part is missing behind the last one.
        part.unlink()
    last = parts[:2][-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    with pytest.raises(ArchiveError, match=r"is damaged.*fetch it again") as error:
        unpack_all(tmp_path)
    assert "\n" not in str(error.value)
    assert all(FILES[name] == content for name, content in content_of(tmp_path).items())


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_random_bytes_are_damaged(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"x.{kind}").write_bytes(random.Random(3).randbytes(2000))
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack_all(tmp_path)


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_never_gives_a_wrong_file(tmp_path: Path, seed: int) -> None:
    """Files of a zip have checksums. Whatever is damaged, a file that appears has its own content."""
    path = write_zip(tmp_path / "x.zip", method=zipfile.ZIP_DEFLATED)
    content, rng = bytearray(path.read_bytes()), random.Random(seed)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    with suppress(ArchiveError):
        unpack_all(tmp_path)
    # A damaged name is a name of its own, which nobody can tell.
    assert all(FILES[name] == found for name, found in content_of(tmp_path).items() if name in FILES)
    assert not list((tmp_path / NOTES).glob("*.part"))


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"x"})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="'a' in it is encrypted"):
        unpack_all(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x.tar.part.aa", "x.tar.part.ac"], r"x\.tar: a part is missing \(behind aa; the next one is ac\)"),
        (["x.tar.part.ab", "x.tar.part.ac"], r"a part is missing \(the first one; the next one is ab\)"),
        (["x.zip.001", "x.zip.003"], r"behind 001; the next one is 003"),
        (["x.zip.002"], r"the first one; the next one is 002"),
        (["x.zip.01", "x.zip.002"], "different lengths"),
        (["x.zip", "x.zip.001"], r"whole and in parts \(x\.zip\.001\)"),
        (["x.zip", "x.z01"], "was cut by `zip -s`"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ArchiveError, match=words):
        unpack_all(tmp_path)


def test_the_disk_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "x.zip")
    usage = lambda free: lambda place: type("Usage", (), {"free": free})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage((64 << 20) + 1000))
    with pytest.raises(DiskFullError, match=r"x\.zip needs 0\.00 GB to be unpacked, and 0\.07 GB are free: make room"):
        unpack_all(tmp_path)
    assert content_of(tmp_path) == {}
    monkeypatch.setattr("shutil.disk_usage", usage((64 << 20) + sum(map(len, FILES.values()))))
    assert len(unpack_all(tmp_path)) == 1


PROGRAM = """
import os, signal, sys
from pathlib import Path
from hf_videollm.evaluation import unpack

count = 0
class Killing:
    # Kills the process in the middle of a file.
    def __init__(self, file): self.file = file
    def write(self, chunk):
        global count
        count += 1
        if count > int(sys.argv[2]):
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(chunk)
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()

unpack.CHUNK = 1000
open_ = Path.open
Path.open = lambda self, mode="r", **o: Killing(open_(self, mode)) if self.suffix == ".part" else open_(self, mode, **o)
unpack.unpack_all(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("form", ["zip", "tar.part.aa"])
def test_a_killed_unpacking_goes_on(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    for after in (10, 70):
        killed = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(after)], check=False)
        assert killed.returncode == -signal.SIGKILL
        # Half a file lies under another name.
        assert all(FILES[name] == content for name, content in content_of(tmp_path).items())
        assert list((tmp_path / NOTES).glob("*.part"))
    kept = (tmp_path / "data/a.mp4").stat().st_mtime_ns
    assert len(unpack_all(tmp_path)) == 1
    assert content_of(tmp_path) == FILES
    assert (tmp_path / "data/a.mp4").stat().st_mtime_ns == kept
    assert not list((tmp_path / NOTES).glob("*.part"))


def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    for number in range(4):
        write_zip(tmp_path / f"x.{number}.zip", {f"{number}-{name}": content for name, content in FILES.items()})
    done: list[int] = []
    threads = [threading.Thread(target=lambda: done.append(len(unpack_all(tmp_path)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 4
    assert len(content_of(tmp_path)) == 16


def test_a_note_that_is_damaged_is_written_again(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip")
    unpack_all(tmp_path)
    (note,) = (tmp_path / NOTES).glob("*.json")
    assert json.loads(note.read_text())["archive"] == "x.zip"
    note.write_text("{")
    assert len(unpack_all(tmp_path)) == 1
    assert unpack_all(tmp_path) == []


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    entry, content = tar_entry("a.sh", b"x", mode=0o4777)
    write_tar(tmp_path / "x.tar", [(entry, content)])
    unpack_all(tmp_path)
    (tmp_path / "usual").touch()
    assert (tmp_path / "a.sh").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert os.access(tmp_path / "a.sh", os.R_OK)
