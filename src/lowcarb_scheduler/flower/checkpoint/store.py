"""Checkpoint of a run on disk: ``checkpoint/state.json`` and the array files that it names.

Arrays are written first, into files named by a digest of their content; the state, which names them, is
written last; then old arrays are removed. So whenever a run is killed, the disk holds one state and exactly
the arrays that belong to it. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.codec import digest
from lowcarb_scheduler.folders import make_folder, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

CHECKPOINT_FORMAT: Final = 2  # 1 named the parts of a run's memory differently
_TEMPORARY: Final = ".new"
_DIGITS: Final = 16  # of a digest, in a file name
_RESTORE: Final = "restore it from a copy, or start anew with another run-dir"


class Checkpoint:
    """Checkpoint in the folder of a run.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "checkpoint"
        self.path = self._folder / "state.json"

    @property
    def exists(self) -> bool:
        """True if a state is on disk."""
        return self.path.exists()

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Write arrays, unless equal ones are on disk, and return their file and digest for the state.

        Parameters
        ----------
        name : str
            Beginning of the file name.
        arrays : mapping of str to ndarray
            Arrays of numbers, texts or times, not of objects.

        Raises
        ------
        OSError
            If writing fails.
        """
        content = digest(arrays)
        file = f"{name}-{content[:_DIGITS]}.npz"
        if not (self._folder / file).exists():
            self._write(self._folder / file, lambda out: _save(out, arrays))
        return {"file": file, "sha256": content}

    def commit(self, state: Mapping[str, Any]) -> None:
        """Write the state, which makes it the checkpoint, and remove arrays that it does not name.

        Raises
        ------
        OSError
            If writing fails.
        """
        header = {"v": CHECKPOINT_FORMAT, "version": __version__, "sha256": _digest(state)}
        text = to_json({**header, "state": state}) + "\n"
        self._write(self.path, lambda out: out.write(text.encode()))
        named = {entry["file"] for entry in state["arrays"].values()}
        for path in self._folder.iterdir():
            if path.suffix in (".npz", _TEMPORARY) and path.name not in named:
                with suppress(OSError):  # a file too many harms no run
                    path.unlink()

    def read(self) -> dict[str, Any]:
        """Read the state.

        Raises
        ------
        InputError
            If the file cannot be read, is damaged, or has the format of another version.
        """
        try:
            written = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self._damaged(f"cannot be read ({error.strerror})") from None
        except ValueError:
            raise self._damaged("is damaged: it is not JSON") from None
        if not isinstance(written, dict) or not isinstance(written.get("state"), dict):
            raise self._damaged("is not a checkpoint")
        if written.get("v") != CHECKPOINT_FORMAT:
            version = written.get("version")  # format 1 does not name the version that wrote it
            writer = f"lowcarb-scheduler {version}" if version else "an earlier lowcarb-scheduler"
            problem = (
                f"has format {written.get('v')!r}, written by {writer}; lowcarb-scheduler {__version__} reads"
                f" format {CHECKPOINT_FORMAT}"
            )
            fix = "resume with the version that wrote it, or start anew with another run-dir"
            raise InputError("checkpoint", problem, fix, str(self.path))
        state: dict[str, Any] = written["state"]
        if _digest(state) != written.get("sha256"):
            raise self._damaged("does not match its digest")
        return state

    def read_arrays(self, entry: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        """Read arrays by their entry in the state.

        Raises
        ------
        InputError
            If the file is missing, damaged, or not the one that was written.
        """
        path = self._folder / entry["file"]
        try:
            # Without allow_pickle=False a manipulated file could run code.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise self._damaged("is missing", path) from None
        except Exception:  # noqa: BLE001  a damaged file can make its readers raise anything
            raise self._damaged("is damaged", path) from None
        if digest(arrays) != entry["sha256"]:
            raise self._damaged("does not match its digest", path)
        return arrays

    def _damaged(self, problem: str, path: Path | None = None) -> InputError:
        return InputError("checkpoint", problem, _RESTORE, str(path or self.path))

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically: a crash leaves the old file or the new one, never a part."""
        make_folder(self._folder)
        temporary = self._folder / (path.name + _TEMPORARY)
        with temporary.open("wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
        sync_folder(self._folder)


def name_in_file(kind: str, name: str) -> str:
    """Return the beginning of a file name for the arrays of anything with a name, which nodes may choose."""
    return f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"


def _save(out: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays like ``numpy.savez``, which would pickle those that it cannot write otherwise."""
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(state).encode()).hexdigest()
