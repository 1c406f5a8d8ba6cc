"""Files on disk after a process is killed: a folder before and after every important step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_ON_DISK = ((os, "fsync"), (os, "open"), (Path, "open"), (Path, "replace"), (Path, "unlink"))


class KillPoints:
    """Copies a folder whenever it may have changed; equal copies are kept once.

    Parameters
    ----------
    folder : Path
        What is watched.
    copies : Path
        Where the copies go.
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder, self._copies = folder, copies
        self._last: dict[str, bytes] = {}
        self._copying = False
        self.found: list[Path] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Copy at every call that reaches the disk, for as long as the patch lasts."""
        for owner, name in _ON_DISK:
            patch.setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, step: Callable[..., object]) -> Callable[..., object]:
        """Return a step that is the same, with a copy before and after it."""

        def stepping(*arguments: object, **keywords: object) -> object:
            self.copy()
            try:
                return step(*arguments, **keywords)
            finally:
                self.copy()

        return stepping

    def copy(self) -> None:
        """Copy the folder as it is now, unless that was the last copy."""
        if self._copying:  # which is a step, too
            return
        self._copying = True
        files = [path for path in sorted(self._folder.rglob("*")) if path.is_file()]
        now = {str(path.relative_to(self._folder)): path.read_bytes() for path in files}
        if now != self._last:
            self._last = now
            copy = self._copies / f"{len(self.found):04}"
            for name, content in now.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            self.found.append(copy)
        self._copying = False


def cut_in_two(folder: Path, line: bytes = b'{"v": 1, "at": "2026-03-02T00:00:00Z", "ev') -> None:
    """Leave half a line at the end of the ledger in a folder."""
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(line)


def fresh(folder: Path, copy: Path) -> Path:
    """Return a copy of a copy, to be gone on with."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(copy, folder)
    return folder
