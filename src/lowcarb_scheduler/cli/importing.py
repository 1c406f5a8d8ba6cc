"""What ``archive import`` does with downloaded files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, SystemClock, from_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.archive import Feed
from lowcarb_scheduler.forecasts.downloads import merged, read_download
from lowcarb_scheduler.forecasts.series import columns_of
from lowcarb_scheduler.forecasts.source import checked_signal, unknown_name
from lowcarb_scheduler.forecasts.trace_writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lowcarb_scheduler.forecasts.archive import Archive
    from lowcarb_scheduler.forecasts.downloads import Download, Factor
    from lowcarb_scheduler.intensity import IntensityTable, Signal

_FACTORS = "direct", "lifecycle"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was taken in of a location.

    Parameters
    ----------
    location, source, signal : str
        What it is.
    first, last : datetime
        Where it begins and ends.
    hours : float
        For how long it is known [h].
    """

    location: str
    source: str
    signal: str
    first: datetime
    last: datetime
    hours: float


def read_all(files: Sequence[Path], factor: str, signal: str) -> list[Download]:
    """Read files, in their order.

    Raises
    ------
    InputError
        If one of them cannot be read, or no such factor or signal exists.
    """
    if factor not in _FACTORS:
        raise unknown_name("--factor", factor, _FACTORS)
    measured = checked_signal(cast("Signal", signal))
    return [read_download(file, cast("Factor", factor), measured) for file in files]


def write_trace(downloads: Sequence[Download], path: Path) -> list[Imported]:
    """Write one trace file of all of them; where they overlap, the first counts.

    Raises
    ------
    InputError
        If they measure different signals, or the file cannot be written.
    """
    whole = merged([each.table for each in downloads])
    with TraceWriter(path, issued=False, field="--to") as writer:
        for location, series in columns_of(whole).items():
            writer.add(location, [(0, series)])
    return list(_told(whole))


def into_archive(downloads: Sequence[Download], archive: Archive, keep_days: int) -> list[Imported]:
    """Keep all of them as history.

    Raises
    ------
    InputError
        If one of them is older than anything the archive keeps, or it cannot be written.
    """
    oldest = SystemClock().now() - timedelta(days=keep_days)
    for each in downloads:
        if each.table.end <= oldest:
            problem = f"ends {each.table.end:%Y-%m-%d}, and the archive keeps {keep_days} days"
            fix = "give --to FILE for a backtest, or set LOWCARB_ARCHIVE_DAYS"
            raise InputError("--to", problem, fix)
    told: list[Imported] = []
    for each in downloads:
        archive.put_actual(Feed(each.table.source, each.table.signal, each.server), each.table)
        told += _told(each.table)
    return told


def _told(table: IntensityTable) -> Iterator[Imported]:
    for location, series in columns_of(table).items():
        edges = np.append(series.times_us, series.end_us)
        hours = float(np.diff(edges)[~np.isnan(series.values)].sum() / HOUR_US)
        yield Imported(location, table.source, table.signal, from_us(edges[0]), from_us(edges[-1]), hours)
