"""Ledgers that grow: each is read again only when it has changed, and rarely where a reading takes long."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from lowcarb_scheduler.ledger import FILE_NAME, is_in_use
from lowcarb_scheduler.monitor.state import RunState

if TYPE_CHECKING:
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock

_REST: Final = 10  # of the time, in times a reading takes: a ledger of millions of lines takes seconds


class Stamp(NamedTuple):
    """Signs of change of a ledger: its size [bytes], when it was written [ns], and whether a run holds it."""

    size: int
    written_ns: int
    in_use: bool | None

    @classmethod
    def of(cls, run_dir: Path) -> Stamp | None:
        """Return the signs of the ledger in a folder; None without one."""
        # A process that is killed leaves no line, so the lock on its ledger is looked at, too.
        try:
            found = (run_dir / FILE_NAME).stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, is_in_use(run_dir))


class Follower:
    """Reader of one ledger that grows; threads may share it.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    clock : Clock
        Times the readings.
    """

    def __init__(self, run_dir: Path, clock: Clock) -> None:
        self._run_dir, self._clock, self._lock = run_dir, clock, Lock()
        self._run: RunState | None = None
        self._seen: Stamp | None = None
        self._due = clock.now()

    def read(self) -> RunState:
        """Return the state of the run, as it is in the ledger now or was a little earlier.

        Raises
        ------
        InputError
            If the ledger cannot be read.
        """
        with self._lock:
            # Before the reading: lines that come meanwhile are read the next time.
            found, began = Stamp.of(self._run_dir), self._clock.now()
            if self._run is None or (found != self._seen and began >= self._due):
                self._run, self._seen = RunState.read(self._run_dir), found
                self._due = began + _REST * (self._clock.now() - began)
            return self._run
