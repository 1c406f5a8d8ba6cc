"""Folders whose names survive a power failure: ledgers, checkpoints and archives are kept in them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_CANNOT_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)  # said by file systems that force no folder to disk


def make_folder(folder: Path) -> None:
    """Create a folder with its parents, and force to disk the name of each that is new.

    Raises
    ------
    OSError
        If a folder cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Force to disk the names of what is in a folder; those of new and renamed files are not otherwise.

    Raises
    ------
    OSError
        If the disk fails.
    """
    if os.name != "posix":  # Windows opens no folder
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(opened)
