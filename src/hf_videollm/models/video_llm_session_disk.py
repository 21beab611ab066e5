"""Files with a checksum over all their bytes, which appear complete or not at all.

The checksum stands in the header of a safetensors file, and is that of the file with zeros in its place.
"""

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUM = "checksum"
# Stands in the file until its checksum is known.
UNSEALED = "0" * 64
_PLACE = re.compile(rb'"checksum":"([0-9a-f]{64})"')
# The length of the header, in the first bytes of a safetensors file, and the largest header that is read.
_LENGTH = 8
_LARGEST_HEADER = 256 << 20


class DamagedFileError(ValueError):
    """The checksum of a file is not that of its bytes, or the file has none."""


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path`, which replaces it when the block ends without an error.

    Missing folders are made, as `save_pretrained` makes its folder. The file may be read by those who may read other
    new files of this process (its umask).

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".session.{uuid.uuid4().hex[:12]}"
    # The system applies the umask to this file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        usual = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # safetensors may have replaced the file by one that other users cannot read.
        temporary.chmod(usual)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_other_than_file(path: str | os.PathLike[str]) -> Path:
    """Refuse a name under which no file can be written.

    Raises:
        ValueError: the name is empty, or stands for a folder, a device, a pipe or a socket.
    """
    name = os.fspath(path)
    if not name:
        raise ValueError("The name of the file is empty: give one, such as clip.session.")
    try:
        mode = os.stat(name).st_mode
    except OSError:  # there is no such file yet, or writing it says what is wrong
        return Path(name)
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name} is a folder: give the name of a file, such as {os.path.join(name, 'clip.session')}.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name} is a device, a pipe or a socket, and no regular file: give another name.")
    return Path(name)


def seal(path: Path) -> None:
    """Write the checksum of a file into it. Its metadata hold `{CHECKSUM: UNSEALED}`."""
    digest, place, _ = _checksum(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: Path) -> None:
    """Read a whole file, at about 1 GB a second.

    Raises:
        DamagedFileError: its checksum is wrong or missing.
        OSError: it cannot be read.
    """
    digest, _, found = _checksum(path)
    if digest != found:
        raise DamagedFileError(f"{path}: the checksum is not that of the bytes.")


def _checksum(path: Path) -> tuple[str, int, str]:
    """The checksum that a file should hold, the position of the one that it holds, and that one."""
    with path.open("rb") as file:
        first = file.read(_LENGTH)
        length = int.from_bytes(first, "little")
        if len(first) < _LENGTH or length > _LARGEST_HEADER:
            raise DamagedFileError(f"{path}: this is no header of a safetensors file.")
        header = file.read(length)
        places = list(_PLACE.finditer(header))
        if len(places) != 1:
            raise DamagedFileError(f"{path}: the header holds {len(places)} checksums.")
        begin, end = places[0].span(1)
        digest = hashlib.sha256(first + header[:begin] + UNSEALED.encode() + header[end:])
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest(), _LENGTH + begin, header[begin:end].decode()


__all__ = ["CHECKSUM", "UNSEALED", "DamagedFileError", "check_seal", "refuse_other_than_file", "seal", "written_file"]
