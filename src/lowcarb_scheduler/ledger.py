"""Ledger of a run: an append-only journal of typed events, from the first plan to the final figures.

One JSON object a line: ``{"v": 1, "at": time, "event": name, ...}``; see :mod:`lowcarb_scheduler.events`. A
line is on disk before the run goes on; those of a round's nodes, which may be thousands, are handed to the
system at once and synced together. The ledger holds the forecasts and actuals that were used, so every figure
of a report can be computed again from this file alone.

A run that is resumed continues in the same file. Lines after the place that its checkpoint remembers belong
to work that was lost; the event ``run_resumed`` names that place, and readers count everything once.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import SystemClock
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError, MissingExtraError
from lowcarb_scheduler.events import (
    ActualReceived,
    Degraded,
    ForecastReceived,
    NodeDone,
    NodeEvaluated,
    NodeFailed,
    NodesChanged,
    RunResumed,
    RunStarted,
    event_of,
)
from lowcarb_scheduler.folders import make_folder, sync_folder
from lowcarb_scheduler.validation import path_problem

try:
    import fcntl
except ImportError:  # not on POSIX: two runs in one folder are not told apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO, TextIO

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import Event

logger = logging.getLogger("flwr")

LEDGER_VERSION: Final = 1
FILE_NAME: Final = "ledger.jsonl"
_OF_A_NODE: Final = (NodeDone, NodeEvaluated, NodeFailed)  # synced to disk with the next event
_KNOWLEDGE: Final = (RunStarted, RunResumed, NodesChanged, ForecastReceived, ActualReceived, Degraded)
_GLANCES, _GLANCE = 20, timedelta(milliseconds=10)  # attempts to lock a ledger, and the time between two


class Ledger:
    """Ledger of one run, open for writing.

    Parameters
    ----------
    run_dir : Path
        Folder of the run; created if it is missing.
    clock : Clock
        Stamps the events.
    goes_on : bool
        Whether to continue the ledger in the folder, after cutting a torn last line.

    Attributes
    ----------
    lines : int
        Number of events in the file.
    cut : int
        Number of bytes of a torn last line that were cut.
    is_broken : bool
        Whether writing has failed; the ledger ends before that event.

    Raises
    ------
    InputError
        If the folder already holds a ledger, which is never overwritten, or another run writes in it.
    """

    def __init__(self, run_dir: Path, clock: Clock, *, goes_on: bool = False) -> None:
        self.run_dir = run_dir
        self._clock = clock
        self.is_broken = False
        self.lines = self.cut = 0
        path = run_dir / FILE_NAME
        try:
            make_folder(run_dir)
            self._file = path.open("r+" if goes_on else "x", encoding="utf-8", newline="\n")
            try:
                _lock(self._file, run_dir)
                if goes_on:
                    self.lines, self.cut = _cut_torn_line(path)
                    self._file.seek(0, os.SEEK_END)
                else:
                    sync_folder(run_dir)
            except BaseException:
                self._file.close()
                raise
        except FileExistsError:
            if not run_dir.is_dir():
                raise InputError("run-dir", f"{run_dir} is a file", "give a folder") from None
            raise InputError(
                "run-dir", f"{run_dir} holds the ledger of a run", "give another folder, or leave it out"
            ) from None
        except OSError as error:
            raise InputError(
                "run-dir", f"{run_dir} is not writable ({error.strerror})", "give another"
            ) from None

    def append(self, event: Event) -> None:
        """Write one event, and wait until it is on disk unless it is of one of a round's nodes.

        If writing fails, the ledger ends with a warning; the training goes on.
        """
        entry = {"v": LEDGER_VERSION, "at": self._clock.now(), "event": event.name, **event.to_record()}
        if self.is_broken:
            return
        try:
            self._file.write(to_json(entry, compact=True) + "\n")
            self._file.flush()
            if not isinstance(event, _OF_A_NODE):
                os.fsync(self._file.fileno())
            self.lines += 1
        except OSError as error:
            self.is_broken = True
            logger.warning("lowcarb: the ledger ends here, the training continues: %s", error)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # append has warned of a full disk
            self._file.close()


def _lock(file: TextIO, run_dir: Path) -> None:
    """Keep other runs out of the folder for as long as this process holds the file open."""
    if fcntl is None:
        return
    clock = SystemClock()  # another process looks in real time
    try:
        for _ in range(_GLANCES):
            # Who asks whether a run is alive holds the lock, too, but only for an instant.
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            clock.sleep_until(clock.now() + _GLANCE)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fix = "stop it first, or give another folder"
        raise InputError("run-dir", f"a run is still writing in {run_dir}", fix) from None
    except OSError:  # a file system without locks
        return


def is_in_use(run_dir: Path) -> bool | None:
    """Return whether a process holds the ledger of a run open to write; None if that cannot be found out."""
    if fcntl is None:
        return None
    try:
        with (run_dir / FILE_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    return False


def _cut_torn_line(path: Path) -> tuple[int, int]:
    """Cut a torn last line, as a crash leaves it; return the number of lines, and of bytes cut."""
    lines = end = 0
    with path.open("r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
        cut = file.tell() - end
        if cut:
            file.truncate(end)
            os.fsync(file.fileno())
    return lines, cut


# -- Reading -----------------------------------------------------------------------------------------------


def read_ledger(run_dir: Path) -> list[Event]:
    """Read the events of a run, in order; see :func:`iter_ledger`.

    Raises
    ------
    InputError
        If there is no ledger, or a line in it is not an event of this version.
    """
    if problem := path_problem(run_dir):
        raise InputError("run-dir", f"{str(run_dir)!r:.80}: {problem}", "give the folder of a run")
    path = run_dir / FILE_NAME
    if run_dir.is_file():
        raise InputError("run-dir", f"{run_dir} is a file", "give the folder of a run")
    if not path.is_file():
        inside = sorted(str(found.parent) for found in run_dir.glob(f"*/{FILE_NAME}"))
        fix = f"give one of {', '.join(inside[-3:])}" if inside else "give the folder of a run"
        raise InputError("run-dir", f"there is no {path}", fix)
    events = list(iter_ledger(run_dir))
    if not events or not isinstance(events[0], RunStarted):
        raise InputError("ledger", "has no run_started event", "give the folder of a run", str(path))
    return events


def iter_ledger(run_dir: Path, since: int = 0, until: int | None = None) -> Iterator[Event]:
    """Yield the events of a run, in order, holding one of them at a time.

    A torn last line, as a crash leaves it, is left out, and so is work that was lost in a crash: a run that
    was resumed has done it again.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    since : int
        The line after which to begin.
    until : int, optional
        The last line to read.

    Raises
    ------
    InputError
        If the file cannot be read, or a line in it is not an event of this version.
    """
    path = run_dir / FILE_NAME
    with _opened(path) as lines, as_written(str(path)):
        lost = _lost_lines(path)
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") or (until is not None and number > until):
                return
            if number <= since:
                continue
            event = _event(line, number, path)
            is_lost = any(after < number < resumed for after, resumed in lost)
            if not is_lost or isinstance(event, _KNOWLEDGE):
                yield event


def read_start(run_dir: Path) -> RunStarted:
    """Read the start of a run, and no more of its ledger.

    Raises
    ------
    InputError
        If the ledger cannot be read, or does not begin with one.
    """
    path = run_dir / FILE_NAME
    with _opened(path) as lines, as_written(str(path)):
        event = _event(lines.readline(), 1, path)
        if not isinstance(event, RunStarted):
            raise InputError("ledger", "has no run_started event", "give the folder of a run", str(path))
        return event


def iter_kinds(run_dir: Path, kinds: Sequence[type[Event]]) -> Iterator[Event]:
    """Yield the events of some kinds, in order, without reading any other line as JSON.

    Work that was lost in a crash is included, a torn last line is not.

    Raises
    ------
    InputError
        If the file cannot be read, or such a line is not an event of this version.
    """
    path = run_dir / FILE_NAME
    mark = mark_of(*kinds)
    with _opened(path) as lines, as_written(str(path)):
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n") and mark.search(line):
                event = _event(line, number, path)
                if isinstance(event, tuple(kinds)):  # a text in another event may hold the mark
                    yield event


class LedgerTail:
    """Reader of the lines that a ledger has gained since the last look, and of no others.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    kinds : sequence of type of Event
        Events to read; no other line is read as JSON.
    """

    def __init__(self, run_dir: Path, kinds: Sequence[type[Event]]) -> None:
        self._path, self._kinds, self._mark = run_dir / FILE_NAME, tuple(kinds), mark_of(*kinds)
        self._at = 0  # bytes read so far

    def read(self) -> list[Event]:
        """Return the new events of these kinds, in order; a line that is not complete counts the next time.

        Raises
        ------
        InputError
            If the file cannot be read, or such a line is not an event of this version.
        """
        found = []
        with _opened(self._path) as lines, as_written(str(self._path)):
            lines.seek(self._at)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                if self._mark.search(line):
                    event = _event(line, 0, self._path)
                    if isinstance(event, self._kinds):
                        found.append(event)
        return found


def mark_of(*kinds: type[Event]) -> re.Pattern[bytes]:
    """Return the pattern in a line with an event of these kinds; a text in another event may have it, too.

    The first ledgers have a space after each colon.
    """
    return re.compile(rb'"event": ?"(%s)"' % "|".join(kind.name for kind in kinds).encode())


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a ledger to read."""
    try:
        with path.open("rb") as lines:
            yield lines
    except OSError as error:
        fix = "make it readable"
        raise InputError("ledger", f"cannot be read ({error.strerror})", fix, str(path)) from None


def _event(line: bytes, number: int, path: Path) -> Event:
    """Return the event of a line."""
    try:
        record = _record(line)
    except ValueError as error:
        fix = "restore the file; it is append-only"
        raise InputError(f"line {number}", str(error), fix, str(path)) from None
    return event_of(record)


@contextmanager
def as_written(file: str) -> Iterator[None]:
    """Refuse events that are not as this version writes them, and name the file.

    Raises
    ------
    InputError
        If an event lacks a key, or holds a value of another type.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except InputError as error:
        raise error.within(file) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"holds an event this version does not write ({type(error).__name__}: {error})"
        raise InputError("ledger", problem, "use the version that wrote it", file) from error


def _lost_lines(path: Path) -> list[tuple[int, int]]:
    """Return the spans of lost work: the last line that counts, and the line of the resumption."""
    spans, resumed = [], mark_of(RunResumed)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n") and resumed.search(line):
                with suppress(ValueError, KeyError):  # reported when the line itself is read
                    record = _record(line)
                    if record["event"] == RunResumed.name:
                        spans.append((int(record["after"]), number))
    return spans


def _record(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not isinstance(record, dict) or not {"v", "at", "event"} <= record.keys():
        raise ValueError("is not an event")
    if record["v"] != LEDGER_VERSION:
        raise ValueError(f"has version {record['v']!r}, not {LEDGER_VERSION}")
    return record
