"""Two paths change places in one step of the file system, where there is one."""

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange"]

AT_FDCWD = -100
RENAME_EXCHANGE = 2
# What systems and file systems say that do not know it (network file systems, FUSE, old kernels, sandboxes).
UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Let two existing paths of one file system change places; there is no moment at which either is missing.

    Returns:
        False if it cannot be done here, or no longer: nothing has changed then.

    Raises:
        OSError: the system refuses it for another reason, such as permissions.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or an old C library
        return False
    done = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in UNKNOWN or number == errno.ENOENT:
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))
