"""Trace files: a source that replays them, a reader and a writer.

A trace is CSV or Parquet in long form, one row a value: ``location`` (or ``region``), ``time``, ``g_per_kwh``
[gCO2eq/kWh], and ``issued_at`` where a file holds several issues of a forecast. A value holds from its time
to the next one of that location and issue, the last for the median step; an empty value begins a gap.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from lowcarb_scheduler.clock import MICROSECOND, format_time, from_us, in_range, parse_time, to_us, to_utc
from lowcarb_scheduler.errors import InputError, MissingExtraError, one_line
from lowcarb_scheduler.forecasts.base import MAX_AGE, ForecastSource, age_problem, distinct, period
from lowcarb_scheduler.forecasts.series import Issue, Series, forecast_from, table_of
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable, Provenance, median_step_us
from lowcarb_scheduler.userfiles import MOST_COLUMNS, check_regular, check_width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike

    from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout
    from lowcarb_scheduler.intensity import Floats, Ints, Signal
    from lowcarb_scheduler.settings import Settings

COLUMNS: Final = ("location", "time", "g_per_kwh")
ISSUE: Final = "issued_at"
_HEADER: Final = "columns location, time, g_per_kwh and, for several issues, issued_at"
_LARGEST: Final = 1e9  # [gCO2eq/kWh]
_CALLED_ALSO: Final = {"region": "location"}


class Traces(ForecastSource):
    """Forecast source that replays trace files.

    Parameters
    ----------
    path : Path
        File of the forecasts. Without ``issued_at`` it is one issue that counts as known at any time, and its
        rows are the recorded intensity, too.
    signal : {"average", "marginal", "unknown"}
        Signal of the values.
    actual : Path, optional
        File of the recorded intensity, where ``path`` holds issues.
    max_age : timedelta, optional
        Longest age of the newest issue of a location; by default without limit.
    plausible_only : bool (default: False)
        Whether a value that no grid can have is an error. A run counts it as unknown.

    Raises
    ------
    InputError
        If a file cannot be read as a trace.
    """

    name = "traces"

    def __init__(
        self,
        path: Path,
        signal: Signal = "unknown",
        actual: Path | None = None,
        max_age: timedelta = timedelta.max,
        *,
        plausible_only: bool = False,
    ) -> None:
        self.path = Path(path)
        self.signal: Signal = Provenance(self.name, signal).signal
        self._max_age = max_age
        self._issued, self._forecasts = _by_location(read_points(path, "traces", plausible_only))
        self._actuals = self._forecasts if not self._issued else {}
        if actual is not None:
            has_issues, self._actuals = _by_location(read_points(actual, "traces-actual", plausible_only))
            if has_issues:
                raise InputError(ISSUE, "what happened was not issued", "drop the column", str(actual))
        self.is_certain = self._actuals is self._forecasts
        self.locations: tuple[str, ...] = tuple(sorted(self._forecasts))

    @classmethod
    def from_settings(cls, settings: Settings) -> Traces:
        """Open the source that settings describe."""
        if settings.traces is None:
            raise InputError("traces", "is not set", "set LOWCARB_TRACES or give --traces, a CSV or Parquet")
        return cls(settings.traces, settings.traces_signal, settings.traces_actual, MAX_AGE)

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return each location's newest issue at or before ``now``, whole.

        Raises
        ------
        ForecastUnavailableError
            If not one location has an issue that reaches past ``now``.
        """
        now = to_utc(now, "now")
        newest, missing = {}, {}
        for location in distinct(locations):
            if location not in self._forecasts:
                missing[location] = f"not in {self.path.name}"
                continue
            issues = self._forecasts[location]
            # A file without issues is one forecast, known at any time.
            index = issues.newest(to_us(now)) if self._issued else 0
            issue = issues.issue(max(index, 0), None if self._issued else now)
            if index < 0:
                missing[location] = f"the first issue is of {format_time(issue.issued_at)}"
            elif problem := age_problem(issue.issued_at, now, self._max_age):
                missing[location] = problem
            elif not issue.series.has_value(now):
                missing[location] = f"has no value after {format_time(now)}"
            else:
                newest[location] = issue
        return forecast_from(newest, missing, self.provenance)

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return the issues of [start, end), oldest first.

        Spans of length ``every`` count from 1970 UTC; the first issue of a location in each one is taken.
        """
        first_us, last_us = map(to_us, period(start, end))
        span_us = every // MICROSECOND
        spans: dict[int, dict[str, Issue]] = defaultdict(dict)
        for location in distinct(locations):
            if self._issued and location in self._forecasts:
                issues = self._forecasts[location]
                for index, issued_us in enumerate(issues.issued_us.tolist()):
                    if first_us <= issued_us < last_us:
                        spans[issued_us // span_us].setdefault(location, issues.issue(index))
        return [forecast_from(issues, {}, self.provenance) for _, issues in sorted(spans.items())]

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the recorded values in [start, end).

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there, or the file holds forecasts only.
        """
        first, last = period(start, end)
        known, missing = {}, {}
        for location in distinct(locations):
            if location not in self._actuals:
                holds = "holds forecasts only" if self._issued and not self._actuals else "does not have it"
                missing[location] = f"{self.path.name} {holds}"
                continue
            series = self._actuals[location].issue(0).series
            if series.has_value(first, last):
                known[location] = series
            else:
                missing[location] = f"no value from {format_time(first)} to {format_time(last)}"
        table = table_of(known, missing, self.provenance).slice(first, last)
        assert table is not None  # each location has a value in the period
        return table


def read_table(
    path: Path, field: str = "forecast", signal: Signal = "unknown", plausible_only: bool = False
) -> IntensityTable:
    """Read a trace file as one table; of several issues the newest one of each location.

    Parameters
    ----------
    path : Path
        CSV or Parquet.
    field : str
        Option or key that named the file, for errors.
    signal : {"average", "marginal", "unknown"}
        Signal of the values.
    plausible_only : bool (default: False)
        As in :class:`Traces`.

    Raises
    ------
    InputError
        If the file cannot be read as a trace.
    """
    _, by_location = _by_location(read_points(path, field, plausible_only))
    newest = {name: issues.issue(len(issues.issued_us) - 1).series for name, issues in by_location.items()}
    return table_of(newest, {}, Provenance("traces", signal))


def table_of_points(rows: pd.DataFrame, signal: Signal, source: str = "traces") -> IntensityTable:
    """Return distinct rows of ``location``, ``time`` and ``g_per_kwh`` as a table."""
    points = {
        str(name): (own["time"].to_numpy("datetime64[us]").astype(np.int64), own["g_per_kwh"].to_numpy())
        for name, own in rows.groupby("location", observed=True)
    }
    return IntensityTable.from_points(points, Provenance(source, signal))


def read_points(path: Path, field: str = "forecast", plausible_only: bool = False) -> pd.DataFrame:
    """Read the rows of a trace file.

    Parameters
    ----------
    path : Path
        CSV or Parquet.
    field : str
        Option or key that named the file, for errors.
    plausible_only : bool (default: False)
        As in :class:`Traces`.

    Returns
    -------
    pandas.DataFrame
        ``location`` (str), ``time`` and, where the file has it, ``issued_at`` (UTC), ``g_per_kwh`` (float64,
        NaN begins a gap); distinct, in order of location, issue and time.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, a time has no offset or is given twice, or a value is
        not a finite number. The error names file, column, row (1 is the first below the header) and fix.
    """
    path, file = Path(path), str(path)
    reader = {".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower())
    if reader is None:
        problem = f"{path.suffix or 'no suffix'} is no known format"
        raise InputError(field, problem, "give a .csv or .parquet", file)
    try:
        return _parse(reader(path), plausible_only)
    except MissingExtraError:  # no fault of the file
        raise
    except InputError as error:
        raise error.within(file) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(field, f"cannot be read: {why}", "give the path of a file", file) from None
    except ValueError as error:  # not UTF-8, not Parquet, a line with too many cells
        why = next(iter(str(error).splitlines()), "it cannot be decoded")[:200]
        raise InputError(
            field, f"is not a table: {why}", f"write {path.suffix} with {_HEADER}", file
        ) from None


def _read_csv(path: Path) -> pd.DataFrame:
    """Return the cells of a CSV as text."""
    # Categories: a year of hours for many locations has few distinct times, and each is then parsed once.
    dtypes = defaultdict(lambda: "category", g_per_kwh="str")
    frame = pd.read_csv(
        check_width(path), dtype=dtypes, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig"
    )
    # keep_default_na is off above because a location "NA" is Namibia, not a missing cell.
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes excess cells for an index
        raise ValueError("the rows have more cells than the header")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    """Return the columns of a Parquet file with their types."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    try:
        with check_regular(path).open("rb") as file:
            content = parquet.ParquetFile(file)
            if content.metadata.num_columns > MOST_COLUMNS:
                raise ValueError(f"it has more than {MOST_COLUMNS} columns")
            # Metadata of pandas could restore an index, whose columns would then be missing.
            frame: pd.DataFrame = content.read().to_pandas(ignore_metadata=True)
    except ArrowException as error:
        raise ValueError(str(error)) from None
    return frame


def _parse(raw: pd.DataFrame, plausible_only: bool) -> pd.DataFrame:
    """Parse cells as rows of a trace (see :func:`read_points`)."""
    # pandas calls the second of two columns of a name "name.1"
    given = [re.sub(r"\.\d+$", "", str(name).strip()) for name in raw.columns]
    given = [_CALLED_ALSO.get(name, name) for name in given]
    for column in (*COLUMNS, ISSUE):
        if given.count(column) > 1 or (column in COLUMNS and column not in given):
            found = ", ".join(str(name)[:40] for name in raw.columns[:12]) or "none"
            state = "stands twice" if column in given else "is missing"
            fix = f"write {_HEADER}"
            if len(given) == 1 and ";" in given[0]:
                fix = f"separate columns by commas, and write decimals with a point: {_HEADER}"
            raise InputError(column, f"the column {state} (found: {found})", fix)
    raw = raw.set_axis(given, axis="columns")
    if raw.empty:
        raise InputError("time", "the file has no rows", "give at least one value")
    rows = pd.DataFrame({"location": _names(raw["location"])})
    if ISSUE in given:
        rows[ISSUE] = _times(raw[ISSUE])
    rows["time"] = _times(raw["time"])
    rows["g_per_kwh"] = _numbers(raw["g_per_kwh"], plausible_only)
    key = [name for name in rows.columns if name != "g_per_kwh"]
    # Stable, so that an error about a repeated time names its second row.
    rows = rows.sort_values(key, kind="stable")
    twice = rows.duplicated(key)
    if twice.any():
        number = rows.index[twice][0]
        row = rows.loc[number]
        problem = f"row {number + 1}: {format_time(row.time)} stands twice for {row.location}"
        raise InputError("time", problem, "give each location one value a time and issue")
    return rows.reset_index(drop=True)


def _each(column: pd.Series, read: Callable[[str], Any]) -> np.ndarray[Any, Any]:
    """Apply ``read`` to each distinct text of a column; an error names the first row that has it."""
    try:
        codes, texts = pd.factorize(column, use_na_sentinel=False)
    except TypeError:
        raise InputError(str(column.name), "holds lists or other nested values", "write text") from None
    values = []
    for code, text in enumerate(texts):
        try:
            values.append(read("" if pd.isna(text) else str(text).strip()))
        except InputError as error:
            row = int(np.argmax(codes == code)) + 1
            raise InputError(error.field, f"row {row}: {error.problem}", error.fix) from None
    return np.asarray(values)[codes]


def _names(column: pd.Series) -> pd.Series:
    """Return locations as text."""
    names = pd.Series(_each(column, str))
    refuse_rows(names == "", "location", "is empty", "name the location")
    return names.astype("category")


def _times(column: pd.Series) -> pd.Series:
    """Return times in UTC."""
    name = str(column.name)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        refuse_rows(column.isna(), name, "is empty", "give each row a time")
        aware: pd.Series = column.dt.tz_convert("UTC")
        refuse_rows(~aware.dt.year.between(1970, 2199), name, "is out of range", "correct the year")
        return pd.Series(aware.dt.as_unit("us"))
    if pd.api.types.is_datetime64_dtype(column.dtype):
        raise InputError(name, "the times have no UTC offset", "store them with a time zone, for example UTC")
    times = pd.Series(_each(column, lambda text: to_us(in_range(parse_time(text, name), name))))
    utc: pd.Series = pd.to_datetime(times, unit="us", utc=True).dt.as_unit("us")
    return utc


def _numbers(column: pd.Series, plausible_only: bool) -> Floats:
    """Return finite numbers, NaN where a cell is empty."""
    name = str(column.name)
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        texts = column.astype(str).where(column.notna(), "").str.strip()
        values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        fix = "write a number, or leave the cell empty for a gap"
        refuse_rows(np.isnan(values) & (texts != ""), name, "is not a number", fix, texts)
    # Python reads "inf" and 1e999 as numbers, and a sum with either is useless.
    refuse_rows(np.isinf(values), name, "is infinite", "write a finite number, or leave the cell empty")
    shown = pd.Series(values)
    # Sums of larger ones leave what a float holds.
    refuse_rows(np.abs(values) > _LARGEST, name, "is no intensity in any unit", "correct the number", shown)
    if plausible_only:
        problem = f"is not from 0 to {MAX_G_PER_KWH:,.0f} g/kWh, where every grid is"
        fix = "correct the number or its unit, or give --allow-implausible if it is meant"
        refuse_rows((values < 0) | (values > MAX_G_PER_KWH), name, problem, fix, shown)
    return values


def refuse_rows(wrong: ArrayLike, field: str, problem: str, fix: str, texts: pd.Series | None = None) -> None:
    """Raise InputError for the first row that is wrong, if any; with its text, if texts are given."""
    rows = np.flatnonzero(wrong)
    if rows.size:
        text = "" if texts is None else f"{_shown(texts.iloc[rows[0]])} "
        raise InputError(field, f"row {rows[0] + 1}: {text}{problem}", fix)


def _shown(cell: object) -> str:
    return repr(one_line(cell, 40)) if isinstance(cell, str) else f"{cell:g}"


@dataclass(frozen=True, slots=True)
class _Issues:
    """All issues of one location; a file without issues has one.

    Parameters
    ----------
    issued_us : ndarray of int64, shape (I,)
        Times of issue, increasing [µs since 1970 UTC].
    bounds : ndarray of int64, shape (I + 1,)
        Index of the first point of each issue, and the number of points.
    times_us, values : ndarray, shape (P,)
        Points [µs since 1970 UTC, gCO2eq/kWh].
    """

    issued_us: Ints
    bounds: Ints
    times_us: Ints
    values: Floats

    def newest(self, now_us: int) -> int:
        """Return the index of the newest issue at or before ``now_us``, -1 if there is none."""
        return int(np.searchsorted(self.issued_us, now_us, side="right")) - 1

    def issue(self, index: int, issued_at: datetime | None = None) -> Issue:
        """Return one issue, by default with the time of issue that the file gives."""
        part = slice(self.bounds[index], self.bounds[index + 1])
        times_us = self.times_us[part]
        end_us = int(times_us[-1]) + median_step_us(times_us)
        return Issue(issued_at or from_us(self.issued_us[index]), Series(times_us, self.values[part], end_us))


def _by_location(rows: pd.DataFrame) -> tuple[bool, dict[str, _Issues]]:
    """Return whether rows of :func:`read_points` have issues, and the issues by location."""
    issued = ISSUE in rows
    times = rows["time"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    issues = rows[ISSUE].to_numpy(dtype="datetime64[us]").astype(np.int64) if issued else np.zeros_like(times)
    values = rows["g_per_kwh"].to_numpy()
    codes = rows["location"].cat.codes.to_numpy()
    by_location = {}
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        first = np.flatnonzero(np.diff(issues[start:end], prepend=issues[start] - 1))
        bounds = np.append(first, end - start).astype(np.int64)
        issued_us = issues[start:end][first]
        name = str(rows["location"].iloc[start])
        by_location[name] = _Issues(issued_us, bounds, times[start:end], values[start:end])
    return issued, by_location


# -- Writer ---


class TraceWriter:
    """Writer of a trace file, which appears whole or not at all.

    Parameters
    ----------
    path : Path
        CSV or Parquet, by its suffix.
    issued : bool
        Whether the file holds issues of forecasts.
    field : str
        Option that named the file, for errors.

    Raises
    ------
    InputError
        If the suffix is unknown, or the file cannot be written.
    """

    def __init__(self, path: Path, issued: bool, field: str) -> None:
        formats: dict[str, type[_Csv | _Parquet]] = {".csv": _Csv, ".parquet": _Parquet}
        self._path, self._field = path, field
        self._columns = ["location", *([ISSUE] if issued else []), "time", "g_per_kwh"]
        if path.suffix.lower() not in formats:
            raise InputError(field, f"{path} is no trace file", "end it in .csv or .parquet")
        # Beside the file, so that the rename at the end does not cross file systems.
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        self.rows = 0
        try:
            self._file = formats[path.suffix.lower()](self._unfinished, self._columns)
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._unfinished.replace(self._path)
        except OSError as failure:
            raise self._unwritable(failure) from None
        finally:
            self._unfinished.unlink(missing_ok=True)

    def add(self, location: str, issues: Sequence[tuple[int, Series]]) -> None:
        """Write the issues of a location.

        Parameters
        ----------
        location : str
            Its name.
        issues : sequence of (int, Series)
            Each with its time of issue [µs since 1970 UTC], which is written to a file of issues only.
        """
        if not issues:
            return
        times, values = zip(*(_points(series) for _, series in issues), strict=True)
        lengths = [len(each) for each in times]
        # One frame per location: one per issue would spend its time in pandas.
        issued = np.repeat(np.array([issued_us for issued_us, _ in issues], np.int64), lengths)
        columns = {ISSUE: issued, "time": np.concatenate(times), "g_per_kwh": np.concatenate(values)}
        rows = pd.DataFrame({"location": location, **columns})[self._columns]
        try:
            self._file.write(rows)
        except OSError as error:
            raise self._unwritable(error) from None
        self.rows += len(rows)

    def _unwritable(self, error: OSError) -> InputError:
        problem = f"{self._path} cannot be written ({error.strerror or error})"
        return InputError(self._field, problem, "give a file in a folder that exists")


class _Csv:
    def __init__(self, path: Path, columns: list[str]) -> None:
        self._stream = path.open("w", encoding="utf-8", newline="")
        self._write(pd.DataFrame(columns=columns), header=True)

    def write(self, rows: pd.DataFrame) -> None:
        times = {name: _written(rows[name]) for name in (ISSUE, "time") if name in rows}
        self._write(rows.assign(**times), header=False)

    def _write(self, rows: pd.DataFrame, header: bool) -> None:
        rows.to_csv(self._stream, header=header, index=False, lineterminator="\n")

    def close(self) -> None:
        self._stream.close()


class _Parquet:
    def __init__(self, path: Path, columns: list[str]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        self._table, instant = pa.Table, pa.timestamp("us", tz="UTC")
        types = {"location": pa.string(), "g_per_kwh": pa.float64()}
        self._schema = pa.schema([(name, types.get(name, instant)) for name in columns])
        self._stream = path.open("wb")
        self._writer = parquet.ParquetWriter(self._stream, self._schema)

    def write(self, rows: pd.DataFrame) -> None:
        self._writer.write_table(self._table.from_pandas(rows, self._schema, preserve_index=False))

    def close(self) -> None:
        self._writer.close()
        self._stream.close()


def _points(series: Series) -> tuple[Ints, Floats]:
    """Return times and values, with a gap at the end where a reader would let the last value hold longer."""
    times, values = series.times_us, series.values
    if int(times[-1]) + median_step_us(times) == series.end_us:
        return times, values
    return np.append(times, np.int64(series.end_us)), np.append(values, np.nan)


def _written(times_us: pd.Series) -> pd.Series:
    """Return times as text; each distinct one is formatted once, for there are few."""
    texts = {time_us: format_time(from_us(time_us)) for time_us in times_us.unique()}
    written: pd.Series = times_us.map(texts)
    return written
