"""What a run writes: its own folder, and the archive. Checking leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.doctor.check import Check
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.archive import Archive
from lowcarb_scheduler.forecasts.climatology import LEAST_DAYS
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger

if TYPE_CHECKING:
    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.doctor.check import State
    from lowcarb_scheduler.settings import Settings

RUNS: Final = Path("runs")  # where runs go that are given no folder
LEAST_FREE_BYTES: Final = 100_000_000
FETCH: Final = "lowcarb archive fetch --days 28"
NEVER_KEPT: Final = {"", "synthetic", "traces"}
_MOST_LISTED: Final = 6  # locations
_MEGABYTE: Final = 1e6


def check_run_dir(settings: Settings) -> Check:
    """Check that the ledger of the next run can be written."""
    folder = settings.run_dir or RUNS
    try:
        if settings.run_dir is not None and (folder / FILE_NAME).exists():
            return _check_ledger(folder)
        free = _free_bytes(folder)
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        return Check("run-dir", "fault", problem, "name another folder with LOWCARB_RUN_DIR")
    room = f"{folder} can be written, {free / _MEGABYTE:,.0f} MB are free"
    if free < LEAST_FREE_BYTES:
        return Check("run-dir", "warning", room, "make room: a full disk ends the ledger")
    return Check("run-dir", "ok", room)


def _check_ledger(folder: Path) -> Check:
    """Check whether a run can go on in a folder that holds one."""
    fix = "give another folder, or leave LOWCARB_RUN_DIR out"
    try:
        finished = any(event["event"] == "run_finished" for event in read_ledger(folder))
    except InputError as error:
        return Check("run-dir", "fault", f"{folder}: {error.problem}", fix)
    if finished:
        return Check("run-dir", "fault", f"{folder} holds a finished run, which is never overwritten", fix)
    return Check("run-dir", "warning", f"{folder} holds a run that has not finished", fix)


def check_archive(settings: Settings, clock: Clock) -> Check:
    """Check that the archive can be written, and say what it holds.

    A run does without one, so it is a fault only where the folder was named.
    """
    if settings.archive_dir == "none":
        problem = "archive-dir is none: neither last good forecasts nor history outlive a run"
        return Check("archive", "warning", problem, "leave LOWCARB_ARCHIVE_DIR out")
    archive = Archive(settings.archive_dir, settings.archive_days, clock)
    days: dict[str, float] = {}
    try:
        path = archive.path
        if not path.exists():
            _free_bytes(path.parent)
            problem = f"{path} is not there yet: the first run learns nothing from the past"
            return Check("archive", _thin(settings), problem, f"to fill it: {FETCH}")
        archive.check()
        for holding in archive.holdings():
            days[holding.location] = max(holding.actual_hours / 24, days.get(holding.location, 0.0))
        size = path.stat().st_size / _MEGABYTE
    except (InputError, OSError) as error:
        state: State = "warning" if settings.archive_dir is None else "fault"
        if isinstance(error, InputError):
            return Check("archive", state, error.problem, error.fix)
        problem = f"{path.parent} cannot be written ({error.strerror})"
        return Check("archive", state, problem, "name another folder with LOWCARB_ARCHIVE_DIR")
    listed = [f"{one_line(name, 40)} {known:.1f}" for name, known in sorted(days.items())]
    history = ", ".join(listed[:_MOST_LISTED]) or "none"
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    holds = f"{path}, {size:.1f} MB; days of history: {history}{more}"
    if min(days.values(), default=0) < LEAST_DAYS:
        holds = f"{holds}; with less than {LEAST_DAYS} nothing stands in for a forecast that fails"
        return Check("archive", _thin(settings), holds, f"to fill it: {FETCH}")
    return Check("archive", "ok", holds)


def _thin(settings: Settings) -> State:
    """Return how grave a lack of history is: of no account where no source is asked that is kept."""
    return "warning" if set((settings.source or "").split(",")) - NEVER_KEPT else "ok"


def _free_bytes(folder: Path) -> int:
    """Return how much room there is for a folder, which need not exist yet.

    Raises
    ------
    OSError
        If nothing can be written there.
    """
    absolute = folder.expanduser().absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        return shutil.disk_usage(existing).free
