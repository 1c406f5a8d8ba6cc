"""Runs of a folder, newest first: a line of each, from as little of its ledger as that takes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import Saved
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.events import FiguresRefreshed, RunFinished, event_of
from lowcarb_scheduler.ledger import FILE_NAME, as_written, mark_of, read_start
from lowcarb_scheduler.monitor.state import GONE, RunState

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path


UNREADABLE: Final = "unreadable"
_TAIL_BYTES: Final = 65_536  # hold the last event of a run of hundreds of rounds
_END: Final = mark_of(RunFinished)
_AFTER: Final = mark_of(FiguresRefreshed)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run.

    Parameters
    ----------
    run_dir : Path
        Its folder.
    run_id : str or None
        Flower's id of the run.
    state : str
        As in :class:`~lowcarb_scheduler.monitor.state.RunState`, or ``unreadable``.
    rounds, rounds_done : int or None
        Number of all rounds, and of finished rounds.
    opens_at : datetime or None
        Next opening of a run that goes on.
    is_virtual : bool
        Whether the run uses a virtual clock.
    saved_g, saving : float or None
        Emissions avoided so far [gCO2eq], and their part of run-now, over the rounds that are known.
    started_at : datetime or None
        When the run began.
    problem : str or None
        Why its ledger cannot be read.
    app : str or None
        Publisher and name of the app, where Flower tells them.
    """

    run_dir: Path
    run_id: str | None = None
    state: str = UNREADABLE
    rounds: int | None = None
    rounds_done: int | None = None
    opens_at: datetime | None = None
    is_virtual: bool = False
    saved_g: float | None = None
    saving: float | None = None
    started_at: datetime | None = None
    problem: str | None = None
    app: str | None = None

    @classmethod
    def read(cls, run_dir: Path) -> RunSummary:
        """Read the summary of a run; a ledger that cannot be read is one, too."""
        try:
            return _of_ended(run_dir) or _of_state(run_dir, RunState.read(run_dir))
        except InputError as error:
            return cls(run_dir, problem=one_line(str(error)))


def list_runs(folder: Path, read: Callable[[Path], RunSummary] = RunSummary.read) -> list[RunSummary]:
    """Return the runs whose folders are in a folder, newest first; those that cannot be read come last.

    Parameters
    ----------
    folder : Path
        The folder.
    read : callable, optional
        Returns the summary of the run in a folder.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    runs = [read(path.parent) for path in ledgers_in(folder)]
    known = [run for run in runs if run.started_at is not None]
    known.sort(key=lambda run: (run.started_at, str(run.run_dir)), reverse=True)
    return [*known, *(run for run in runs if run.started_at is None)]


def newest_run(folder: Path) -> Path:
    """Return the folder of the run that began last.

    Raises
    ------
    InputError
        If there is no run in the folder.
    """
    found = []
    for path in ledgers_in(folder) if folder.is_dir() else []:
        try:
            found.append((read_start(path.parent).began_at, str(path), path.parent))
        except InputError:
            continue  # a run that has just made its folder, or no run
    if not found:
        raise InputError("RUN_DIR", f"there is no run in {folder}/", "give the folder of a run")
    return max(found)[-1]


def ledgers_in(folder: Path) -> list[Path]:
    """Return the ledgers of the runs whose folders are in a folder; raises like :func:`list_runs`."""
    if not folder.is_dir():
        raise InputError("FOLDER", f"there is no folder {folder}", "give the folder that holds the runs")
    return sorted(folder.glob(f"*/{FILE_NAME}"))


def _of_ended(run_dir: Path) -> RunSummary | None:
    """Return the summary of a run that has ended, from the first and the last lines of its ledger.

    None where those do not tell all: only a full reading does then.
    """
    path = run_dir / FILE_NAME
    try:
        last = _last_events(path)
        if not last:
            return None
        with as_written(str(path)):
            started, (ended, *refreshed) = read_start(run_dir), [event_of(json.loads(line)) for line in last]
    except OSError as error:
        raise InputError(
            "ledger", f"cannot be read ({error.strerror})", "make it readable", str(path)
        ) from None
    assert isinstance(ended, RunFinished)  # by the name of the event
    by_round = {each.round: each for each in ended.rounds}
    for event in refreshed:
        if isinstance(event, FiguresRefreshed):
            by_round |= {each.round: each for each in event.rounds if each.round in by_round}
    saved = Saved.of((each.realised_g, each.run_now_g) for each in by_round.values())
    return RunSummary(
        run_dir, str(started.run_id), ended.status, started.rounds, max(by_round, default=0), None,
        started.clock == "virtual", *_avoided(saved), started.began_at, app=started.app,
    )  # fmt: skip


def _last_events(path: Path) -> list[bytes]:
    """Return the line of the end of a run and those after it; none if the run goes on, or was resumed."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    ends: list[bytes] = []
    # The last part is empty, or torn; the first one may be the end of a line, which tells no event.
    for line in reversed(lines[:-1]):
        is_end = _END.search(line[:200])
        if not is_end and not _AFTER.search(line[:200]):
            return []
        ends.insert(0, line)
        if is_end:
            return ends
    return []


def _of_state(run_dir: Path, run: RunState) -> RunSummary:
    opens_at = None if run.state == GONE else run.opens_at
    return RunSummary(
        run_dir, run.run_id, run.state, run.rounds, run.rounds_done, opens_at, run.is_virtual,
        *_avoided(run.saved), run.started_at, app=run.app,
    )  # fmt: skip


def _avoided(saved: Saved | None) -> tuple[float | None, float | None]:
    return (saved.avoided_g, saved.saving) if saved else (None, None)
