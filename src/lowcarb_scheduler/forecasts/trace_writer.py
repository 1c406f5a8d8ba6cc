"""The one writer of trace files; :mod:`lowcarb_scheduler.forecasts.traces` reads them."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, format_time, from_us
from lowcarb_scheduler.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from lowcarb_scheduler.forecasts.series import Series
    from lowcarb_scheduler.intensity import Floats, Ints


class TraceWriter:
    """Writes a trace file; it appears whole, or not at all.

    Parameters
    ----------
    path : Path
        CSV or Parquet, by its suffix.
    issued : bool
        Whether it holds issues of forecasts.
    field : str
        The option that named the file, for errors.

    Raises
    ------
    InputError
        If it can be no trace, or cannot be written.
    """

    def __init__(self, path: Path, issued: bool, field: str) -> None:
        kinds: dict[str, Callable[[Path, bool], _File]] = {".csv": _Csv, ".parquet": _Parquet}
        self._path, self._field, self._issued = path, field, issued
        if path.suffix.lower() not in kinds:
            raise InputError(field, f"{path} is no trace file", "end it in .csv or .parquet")
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        self.rows = 0
        try:
            self._file = kinds[path.suffix.lower()](self._unfinished, issued)
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

    def add(self, location: str, told: Sequence[tuple[int, Series]]) -> None:
        """Write what is told of a location.

        Parameters
        ----------
        location : str
            Its name.
        told : sequence of (int, Series)
            Each with when it was issued [µs since 1970 UTC], which counts in a file of issues only.
        """
        if not told:
            return
        times, values = zip(*(_points(series) for _, series in told), strict=True)
        lengths = [len(each) for each in times]
        issued = np.repeat(np.array([issued_us for issued_us, _ in told], np.int64), lengths)
        try:
            self._file.write(location, issued, np.concatenate(times), np.concatenate(values))
        except OSError as error:
            raise self._unwritable(error) from None
        self.rows += sum(lengths)

    def _unwritable(self, error: OSError) -> InputError:
        problem = f"{self._path} cannot be written ({error.strerror or error})"
        return InputError(self._field, problem, "give a file in a folder that exists")


class _File(Protocol):
    def write(self, location: str, issued_us: Ints, times_us: Ints, values: Floats) -> None:
        """Write rows of one location."""

    def close(self) -> None:
        """Finish the file."""


class _Csv:
    def __init__(self, path: Path, issued: bool) -> None:
        import csv

        self._stream: IO[str] = path.open("w", encoding="utf-8", newline="")
        self._rows, self._issued = csv.writer(self._stream, lineterminator="\n"), issued
        self._rows.writerow(["location", *(["issued_at"] if issued else []), "time", "g_per_kwh"])

    def write(self, location: str, issued_us: Ints, times_us: Ints, values: Floats) -> None:
        texts = ["" if value != value else repr(value) for value in values.tolist()]
        times = [_written(times_us), *([_written(issued_us)] if self._issued else [])]
        names = [location] * len(texts)
        self._rows.writerows(zip(names, *reversed(times), texts, strict=True))

    def close(self) -> None:
        self._stream.close()


class _Parquet:
    def __init__(self, path: Path, issued: bool) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        self._pa, instant = pa, pa.timestamp("us", tz="UTC")
        fields: list[Any] = [("location", pa.string())]
        fields += [("issued_at", instant)] if issued else []
        self._schema = pa.schema([*fields, ("time", instant), ("g_per_kwh", pa.float64())])
        self._stream = path.open("wb")
        self._writer = parquet.ParquetWriter(self._stream, self._schema)

    def write(self, location: str, issued_us: Ints, times_us: Ints, values: Floats) -> None:
        columns = {"location": [location] * len(values), "issued_at": issued_us, "time": times_us,
                   "g_per_kwh": self._pa.array(values, from_pandas=True)}  # fmt: skip
        arrays = [self._pa.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
        self._stream.close()


def _points(series: Series) -> tuple[Ints, Floats]:
    """Return times and values, with a gap at the end where a reader would let the last value hold longer."""
    times, values = series.times_us, series.values
    step_us = int(np.median(np.diff(times))) if len(times) > 1 else HOUR_US
    if int(times[-1]) + step_us == series.end_us:
        return times, values
    return np.append(times, np.int64(series.end_us)), np.append(values, np.nan)


def _written(times_us: Ints) -> list[str]:
    """Write times; each distinct one once, for there are few."""
    distinct, places = np.unique(times_us, return_inverse=True)
    texts = [format_time(from_us(time_us)) for time_us in distinct]
    return [texts[place] for place in places]
