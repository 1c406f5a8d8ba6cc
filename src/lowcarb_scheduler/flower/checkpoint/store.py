"""The checkpoint of a run, on disk: ``checkpoint/state.json`` and the arrays it names.

Arrays are written first, into files named by a digest of what they hold; the state, which names them, is
written last, and the old arrays are removed after that. So whenever a run is killed there is one state, and
the arrays that belong to it. Every file is written aside, forced to disk and renamed. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.codec import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

CHECKPOINT_VERSION: Final = 1
FOLDER: Final = "checkpoint"
STATE_NAME: Final = "state.json"
_ASIDE: Final = ".new"
_DIGITS: Final = 16  # of a digest, in a name
_START_ANEW: Final = "restore it from a copy, or start anew with another run-dir"


class Checkpoint:
    """The checkpoint in the folder of a run.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        self.path = self._folder / STATE_NAME

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Write arrays, unless they are on disk already; return what the state is to hold of them.

        Parameters
        ----------
        name : str
            Of what they are.
        arrays : mapping of str to ndarray
            The arrays, none of objects.

        Raises
        ------
        OSError
            If the disk takes them not.
        """
        found = digest(arrays)
        file = f"{name}-{found[:_DIGITS]}.npz"
        if not (self._folder / file).exists():
            self._write(file, lambda out: _save(out, arrays))
        return {"file": file, "sha256": found}

    def commit(self, state: Mapping[str, Any]) -> None:
        """Write the state, and from then on that is the checkpoint; arrays it does not name are removed.

        Raises
        ------
        OSError
            If the disk takes it not.
        """
        text = to_json({"v": CHECKPOINT_VERSION, "sha256": _digest(state), "state": state}) + "\n"
        self._write(STATE_NAME, lambda out: out.write(text.encode()))
        named = {kept["file"] for kept in state["arrays"].values()}
        for path in self._folder.iterdir():
            if path.suffix in (".npz", _ASIDE) and path.name not in named:
                with suppress(OSError):  # it is only in the way
                    path.unlink()

    def read(self) -> dict[str, Any]:
        """Read the state.

        Raises
        ------
        InputError
            If it cannot be read, or is not one of ours.
        """
        try:
            written = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self._torn(f"cannot be read ({error.strerror})") from None
        except ValueError:
            raise self._torn("is torn: it is not JSON") from None
        if not isinstance(written, dict) or not isinstance(written.get("state"), dict):
            raise self._torn("is not a checkpoint")
        if written.get("v") != CHECKPOINT_VERSION:
            fix = "go on with the version of lowcarb-scheduler that wrote it"
            problem = f"has version {written.get('v')!r}, not {CHECKPOINT_VERSION}"
            raise InputError("checkpoint", problem, fix, str(self.path))
        state: dict[str, Any] = written["state"]
        if _digest(state) != written.get("sha256"):
            raise self._torn("does not hold what was written")
        return state

    def arrays(self, kept: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        """Read the arrays that a state names.

        Raises
        ------
        InputError
            If they are not there, or not those that were written.
        """
        path = self._folder / kept["file"]
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept_there:
                arrays = {name: kept_there[name] for name in kept_there.files}
        except FileNotFoundError:
            raise self._torn("is not there", path) from None
        except Exception:  # noqa: BLE001  a torn file can make its readers raise anything
            raise self._torn("is torn", path) from None
        if digest(arrays) != kept["sha256"]:
            raise self._torn("does not hold what was written", path)
        return arrays

    def _torn(self, problem: str, path: Path | None = None) -> InputError:
        return InputError("checkpoint", problem, _START_ANEW, str(path or self.path))

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file aside, force it to disk, and let it take the place of the old one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / (name + _ASIDE)
        with aside.open("wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _save(out: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as ``numpy.savez`` does, which would pickle what it cannot write otherwise."""
    with zipfile.ZipFile(out, "w") as kept:
        for name, array in arrays.items():
            with kept.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(state).encode()).hexdigest()
