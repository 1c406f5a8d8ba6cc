"""What a backtest is asked about: traces, and the part of them in which instances lie."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from lowcarb_scheduler.backtest.history import History, issues_of, table_of
from lowcarb_scheduler.backtest.naive import NAIVE, naive_issues
from lowcarb_scheduler.clock import HOUR_US, format_duration, format_time, from_us, parse_time, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.correction import HISTORY
from lowcarb_scheduler.forecasts.source import checked_signal, unknown_name
from lowcarb_scheduler.forecasts.traces import ISSUE, read_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from lowcarb_scheduler.backtest.instance import Setting
    from lowcarb_scheduler.intensity import Signal

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed, and where it came from.

    Parameters
    ----------
    history : History
        What happened, and what was forecast.
    period : (datetime, datetime)
        No instance starts before, none ends after.
    actual, forecast : str
        The names of the files, or how the forecasts were made.
    """

    history: History
    period: tuple[datetime, datetime]
    actual: str
    forecast: str


def read_replay(
    actual: Path,
    forecast: str,
    setting: Setting,
    deadlines: Sequence[float],
    since: str | None,
    until: str | None,
    delay: timedelta,
    signal: str,
) -> Replay:
    """Read traces and refuse what no backtest can rest on.

    Parameters
    ----------
    actual : Path
        The trace of what happened.
    forecast : str
        The trace of forecasts, or ``climatology`` or ``persistence``.
    setting : Setting
        What kind of job.
    deadlines : sequence of float
        In back-to-back times.
    since, until : str or None
        The period: times, or days in UTC. By default all that the traces allow.
    delay : timedelta
        How late the actual intensity of an hour is known.
    signal : str
        What the numbers measure.

    Raises
    ------
    InputError
        If a file cannot be read or lacks something, or the period is too short.
    """
    measured = checked_signal(cast("Signal", signal))
    rows = read_points(actual, "--actual")
    if ISSUE in rows:
        problem = "what happened was not issued"
        raise InputError(ISSUE, problem, "give it as --forecast, and what happened as --actual", str(actual))
    try:
        happened = table_of(rows, setting.locations, "actual", measured)
    except InputError as error:
        raise error.within(str(actual)) from None
    begins, ends = happened.start, happened.end
    wanted = _time(since, "--from"), _time(until, "--to")
    if forecast in NAIVE:
        history = History(happened, naive_issues(happened, forecast, delay), delay)
        if not history.issues:
            problem = "has less than three days, too few for a forecast"
            raise InputError("--actual", problem, "give a longer trace", str(actual))
    else:
        issued = _forecast_rows(forecast, wanted)
        try:
            history = History(happened, issues_of(issued, setting.locations, measured), delay)
        except InputError as error:
            raise error.within(forecast) from None
    first, last = history.issues[0][0], history.issues[-1][1].end
    earliest, latest = max(first, begins + _HOUR + delay), min(ends, last)
    start, end = wanted[0] or max(first, begins + HISTORY), wanted[1] or latest
    if start < earliest:
        problem = f"{format_time(start)} is before anything was known, {format_time(earliest)}"
        raise InputError("--from", problem, "give a later time")
    if end > latest:
        which = "the actual intensity" if ends <= last else "the last forecast"
        raise InputError("--to", f"{format_time(end)} is after {which} ends, {format_time(latest)}",
                         "give an earlier time")  # fmt: skip
    start = from_us(-(-to_us(start) // HOUR_US) * HOUR_US)
    _check_length(setting, deadlines, start, end)
    _check_gaps(history, start, end, actual)
    shown = history.between(start, end)
    kind = f"{forecast} of the past of the same file" if forecast in NAIVE else Path(forecast).name
    return Replay(shown, (start, end), actual.name, kind)


def _forecast_rows(forecast: str, wanted: tuple[datetime | None, datetime | None]) -> pd.DataFrame:
    """Return the rows of a trace of forecasts, without issues that no planner will be shown."""
    path = Path(forecast)
    if path.suffix.lower() not in (".csv", ".parquet"):
        error = unknown_name("--forecast", forecast, NAIVE)
        raise InputError("--forecast", error.problem, f"{error.fix}, or give a .csv or .parquet file")
    issued = read_points(path, "--forecast")
    if ISSUE not in issued:
        problem = "is missing: it does not say when a forecast was made"
        raise InputError(ISSUE, problem, "add it, or give --forecast climatology", str(path))
    start, end = wanted
    chosen = issued
    if start is not None:
        chosen = chosen[chosen[ISSUE] >= start - HISTORY]
    if end is not None:
        chosen = chosen[chosen[ISSUE] <= end]
    if chosen.empty:
        raise InputError("--forecast", "has no issue in the period", "give another period or file", str(path))
    return chosen


def _time(text: str | None, field: str) -> datetime | None:
    """Read a time with an offset, or a day in UTC."""
    if text is None:
        return None
    try:
        return datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return parse_time(text, field)


def _check_length(setting: Setting, deadlines: Sequence[float], start: datetime, end: datetime) -> None:
    longest = max(deadlines) * setting.back_to_back
    if end - start < longest + _HOUR:
        have = format_duration(max(end - start, timedelta(0)))
        problem = f"from {format_time(start)} there are {have}, and a deadline of {max(deadlines):g} takes"
        fix = "give a longer trace or period, or nearer --deadlines"
        raise InputError("--to", f"{problem} {format_duration(longest)}", fix)


def _check_gaps(history: History, start: datetime, end: datetime, file: Path) -> None:
    """Refuse gaps in what is charged."""
    table: Any = history.actual.slice(start, end)
    steps, columns = np.nonzero(np.isnan(table.values))
    if len(steps):
        where, when = table.locations[columns[0]], format_time(from_us(table.edges_us[steps[0]]))
        problem = f"{where} has no value at {when}, and {len(steps)} are missing in all"
        fix = "fill the gaps, choose another period, or leave the place out of the setting"
        raise InputError("g_per_kwh", problem, fix, str(file))
