"""Ledgers that grow: each is read again only when it has changed, and rarely where a reading takes long."""

from __future__ import annotations

from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.ledger import FILE_NAME, is_in_use
from lowcarb_scheduler.monitor.listing import RunSummary, ledgers_in, list_runs
from lowcarb_scheduler.monitor.state import GOING_ON, RunState

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock

_REST: Final = 10  # of the time, in times a reading takes: a ledger of millions of lines takes seconds
_MOST_RUNS: Final = 32  # whose ledgers are kept in memory
_RECENT: Final = timedelta(hours=1)


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

    Attributes
    ----------
    seen : Stamp or None
        Signs of change of the ledger as of the newest reading.
    """

    def __init__(self, run_dir: Path, clock: Clock) -> None:
        self.seen: Stamp | None = None
        self._run_dir, self._clock, self._lock = run_dir, clock, Lock()
        self._run: RunState | None = None
        self._problem: InputError | None = None
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
            if (found != self.seen or self._run is None) and began >= self._due:
                try:
                    self._run, self._problem = RunState.read(self._run_dir), None
                except InputError as error:
                    self._run, self._problem = None, error
                self.seen, self._due = found, began + _REST * (self._clock.now() - began)
            if self._run is None:
                assert self._problem is not None  # it was read, or could not be
                raise self._problem.with_traceback(None)
            return self._run


class RunFolder:
    """Runs of a folder, for threads that share it.

    Parameters
    ----------
    folder : Path
        Folder with a folder for each run; their names are the names of the runs.
    clock : Clock
        Times the readings.

    Raises
    ------
    InputError
        If there is no such folder.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        ledgers_in(folder)
        self.path, self._clock, self._lock = folder, clock, Lock()
        self._followers: dict[str, Follower] = {}
        self._summaries: dict[Path, tuple[Stamp | None, RunSummary]] = {}

    def find(self, name: str) -> Path | None:
        """Return the folder of a run; None where no run has this name."""
        if name in ("", ".", "..") or not set("/\\\0").isdisjoint(name):
            return None  # the name of a run leads nowhere else
        found = self.path / name
        try:
            return found if (found / FILE_NAME).is_file() else None
        except OSError:  # a name that is too long
            return None

    def read(self, run_dir: Path) -> RunState:
        """Return the state of a run; raises like :meth:`Follower.read`."""
        return self.follow(run_dir).read()

    def follow(self, run_dir: Path) -> Follower:
        """Return the reader of a run's ledger."""
        with self._lock:
            # The one that was asked for last is the last to go.
            follower = self._followers.pop(run_dir.name, None) or Follower(run_dir, self._clock)
            self._followers[run_dir.name] = follower
            for name in list(self._followers)[:-_MOST_RUNS]:
                del self._followers[name]
        return follower

    def summaries(self) -> list[RunSummary]:
        """Return the summaries of all runs, as :func:`~lowcarb_scheduler.monitor.listing.list_runs` does."""
        with self._lock:
            found = list_runs(self.path, self._summary)
            listed = {run.run_dir for run in found}
            self._summaries = {path: kept for path, kept in self._summaries.items() if path in listed}
            return found

    def _summary(self, run_dir: Path) -> RunSummary:
        stamp, kept = Stamp.of(run_dir), self._summaries.get(run_dir)
        if kept is None or kept[0] != stamp:
            kept = self._summaries[run_dir] = stamp, RunSummary.read(run_dir)
        return kept[1]

    def recent(self, now: datetime) -> list[Path]:
        """Return the folders of the runs that go on, or have written within the hour."""
        since_ns = to_us(now - _RECENT) * 1000
        listed = [run for run in self.summaries() if run.problem is None]
        with self._lock:
            stamps = {run.run_dir: self._summaries[run.run_dir][0] for run in listed}
        return [
            run.run_dir
            for run in listed
            if run.state in GOING_ON or ((stamp := stamps[run.run_dir]) and stamp.written_ns >= since_ns)
        ]

    def stamps(self) -> tuple[Stamp | None, ...]:
        """Return the signs of change of all ledgers."""
        return tuple(Stamp.of(path.parent) for path in ledgers_in(self.path))
