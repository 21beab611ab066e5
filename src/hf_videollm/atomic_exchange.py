"""Exchanges two paths in one step, on file systems that can do this."""

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange"]

AT_FDCWD = -100
RENAME_EXCHANGE = 2
# Errors of systems and file systems that cannot do this (network file systems, FUSE, old kernels, sandboxes).
UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchange two existing paths of one file system. Both exist at any time.

    Returns:
        Whether the paths were exchanged. If not, nothing has changed: the system cannot do it, or a path is missing.

    Raises:
        OSError: the exchange failed for another reason, such as permissions.
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
