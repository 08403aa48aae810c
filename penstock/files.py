"""Directories whose entries are on the disk, and what a full disk looks like. Blocking.

Source: fsync(2): syncing a file does not sync the entry that names it; that takes an fsync of its directory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What an `OSError` of a full or failing disk says: it may pass."""

_NOT_SYNCED_BY_ITSELF = frozenset({errno.EINVAL, errno.ENOTSUP})


def make_directory_durably(directory: Path, mode: int = 0o777) -> None:
    """Make a directory and what is missing above it; on return their entries are on the disk.

    A crash may have come between the making of a directory and its sync, so the entry of one that is there is synced as well.

    :param mode: of those that are made, as far as the process's umask allows.
    :raises OSError: where that is not possible.
    """
    directory = directory.absolute()
    there = directory.is_dir()
    if not there:
        make_directory_durably(directory.parent, mode)
        directory.mkdir(mode, exist_ok=True)
    try:
        sync_directory(directory.parent)
    except PermissionError:
        if not there:
            raise  # what is there already was made by whoever may open the directory above it


def write_durably(path: Path, content: bytes) -> None:
    """A small file, whole or not at all: it takes its name once it is on the disk.

    :raises OSError: where that is not possible.
    """
    draft = path.with_name(f".{path.name}.new")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    draft.rename(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Put the directory's entries on the disk. Some file systems know no sync of a directory: nothing can be asked of these.

    :raises OSError: the directory cannot be opened, or the disk failed.
    """
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NOT_SYNCED_BY_ITSELF:
            raise
    finally:
        os.close(file)
