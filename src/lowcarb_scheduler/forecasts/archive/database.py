"""The archive: every good forecast and every actual intensity that was seen, on disk.

It is what a source has said: a cache until its next issue, the last good forecast when it fails, and the
history that corrections are learned from.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import MICROSECOND, SystemClock, from_us, to_us
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.base import MAX_AGE
from lowcarb_scheduler.forecasts.series import Issue, Series, columns_of, forecast_from
from lowcarb_scheduler.intensity import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from typing import Any

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.intensity import IntensityTable, Signal

# -- The file of the archive: what stands in it, and how it is opened ---------------------------------------
# One SQLite file, so that two processes can write to it and a crash leaves nothing half done. It keeps a
# rollback journal and no write-ahead log: that one needs memory which the processes share, and so no network
# folder.
#
# An issue is one row, its values a list: 3.6 times smaller and 5 times faster to read than a row a value. The
# views ``forecasts`` and ``actuals`` show everything in the form of a trace file.

FILE_NAME: Final = "archive.sqlite"
PATIENCE: Final = timedelta(seconds=2)
_FIX: Final = "name another folder with LOWCARB_ARCHIVE_DIR, or set it to none"
_APPLICATION: Final = 0x10CA  # tells the file from those of other programs
_VERSION: Final = 1

_UTC: Final = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"

_SCHEMA: Final = (
    """CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL, server TEXT NOT NULL, signal TEXT NOT NULL, location TEXT NOT NULL,
        UNIQUE (source, server, signal, location)
    )""",
    """CREATE TABLE issues (
        id INTEGER PRIMARY KEY,
        series INTEGER NOT NULL REFERENCES series,
        issued_us INTEGER NOT NULL,
        first_us INTEGER NOT NULL, end_us INTEGER NOT NULL,
        step_us INTEGER,  -- null where the steps differ,
        steps_us TEXT,  -- and then how long after the first each begins
        g_per_kwh TEXT NOT NULL,  -- null is a gap
        UNIQUE (series, issued_us)
    )""",
    """CREATE TABLE steps (
        series INTEGER NOT NULL REFERENCES series,
        time_us INTEGER NOT NULL, end_us INTEGER NOT NULL, g_per_kwh REAL NOT NULL,
        PRIMARY KEY (series, time_us)
    ) WITHOUT ROWID""",
    f"""CREATE VIEW forecasts AS
    WITH points AS (
        SELECT series, issued_us, g.value AS g_per_kwh,
               first_us + ifnull(g.key * step_us, json_extract(steps_us, '$[' || g.key || ']')) AS time_us
        FROM issues, json_each(issues.g_per_kwh) AS g
        UNION ALL SELECT series, issued_us, NULL, end_us FROM issues
    )
    SELECT location, {_UTC.format("issued_us")} AS issued_at, {_UTC.format("time_us")} AS time, g_per_kwh,
           source, signal, server
    FROM points JOIN series ON series.id = points.series""",
    f"""CREATE VIEW actuals AS
    WITH points AS (
        SELECT series, time_us, g_per_kwh FROM steps
        UNION ALL SELECT series, end_us, NULL FROM steps AS ends WHERE NOT EXISTS
            (SELECT 1 FROM steps AS next WHERE next.series = ends.series AND next.time_us = ends.end_us)
    )
    SELECT location, {_UTC.format("time_us")} AS time, g_per_kwh, source, signal, server
    FROM points JOIN series ON series.id = points.series""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """The file, opened for a moment at a time.

    Parameters
    ----------
    folder : Path or None
        Where it lies; made when it is missing. None is the user's folder for data.
    patience : timedelta
        How long one call waits for another process that is writing.
    """

    folder: Path | None
    patience: timedelta = PATIENCE

    @property
    def path(self) -> Path:
        """Where it is.

        Raises
        ------
        InputError
            If that is in the home folder, and there is none.
        """
        try:
            folder = default_folder() if self.folder is None else self.folder.expanduser()
        except RuntimeError:
            raise InputError("archive-dir", "there is no home folder to keep an archive in", _FIX) from None
        return folder / FILE_NAME

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open the file; a missing one is empty, and stays missing.

        Raises
        ------
        InputError
            If it cannot be read, or is none of ours.
        """
        with self._connected() as db:
            db.execute("BEGIN")
            if not self._is_ours(db):
                _create(db)  # and undone with the transaction
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file, and keep what is written if all of it was.

        Raises
        ------
        InputError
            If it cannot be written, or is none of ours.
        """
        with self._connected(writing=True) as db:
            db.execute("BEGIN IMMEDIATE")
            if not self._is_ours(db):
                _create(db)
            yield db
            db.execute("COMMIT")

    def shrink(self) -> None:
        """Give the room back of what was dropped.

        Raises
        ------
        InputError
            As for writing.
        """
        with self._connected() as db:
            db.execute("VACUUM")

    @contextmanager
    def _connected(self, writing: bool = False) -> Iterator[sqlite3.Connection]:
        path = self.path
        try:
            if writing:
                path.parent.mkdir(parents=True, exist_ok=True)
            name = path if writing or path.exists() else ":memory:"
            patience_s = self.patience.total_seconds()
            with closing(sqlite3.connect(name, timeout=patience_s, isolation_level=None)) as db:
                yield db
        except (sqlite3.Error, OSError, ValueError) as error:
            why = one_line(getattr(error, "strerror", None) or str(error))
            raise InputError("archive-dir", f"{path} cannot be used: {why}", _FIX) from None

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """Return whether the file holds an archive; False where it is new.

        Raises
        ------
        InputError
            If it holds something else, or an archive of another version.
        """
        application, version = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application == _APPLICATION and version == _VERSION:
            return True
        if application == _APPLICATION:
            problem = f"{self.path} is an archive of version {version}, not {_VERSION}"
            raise InputError("archive-dir", problem, f"install the release that wrote it, or {_FIX}")
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise InputError("archive-dir", f"{self.path} is the database of another program", _FIX)
        return False


def default_folder() -> Path:
    """Return the user's folder for data: that of ``XDG_DATA_HOME``, else ``~/.local/share``.

    Raises
    ------
    RuntimeError
        If there is no home folder.
    """
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    data = given if given.is_absolute() else Path.home() / ".local" / "share"
    return data / "lowcarb-scheduler"


def _create(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        db.execute(statement)


KEEP_DAYS: Final = 60
_ISSUE: Final = "issued_us, first_us, end_us, step_us, steps_us, g_per_kwh"


@dataclass(frozen=True, slots=True)
class Feed:
    """Whose numbers they are; those of two feeds are never mixed.

    Parameters
    ----------
    source : str
        The source, as settings name it.
    signal : {"average", "marginal", "unknown"}
        What they measure.
    server : str
        Who was asked, where that can be chosen.
    """

    source: str
    signal: Signal
    server: str = ""

    @property
    def provenance(self) -> Provenance:
        """Provenance of the tables of the feed."""
        return Provenance(self.source, self.signal)


@dataclass(frozen=True, slots=True)
class Holding:
    """What there is of one location; times are None where there is nothing.

    Parameters
    ----------
    feed : Feed
        Whose numbers.
    location : str
        As the source calls it.
    issues : int
        How many forecasts.
    first_issued, last_issued : datetime or None
        When the oldest and the newest of them were made.
    actual_hours : float
        For how long actual intensity is known [h].
    actual_from, actual_until : datetime or None
        Between which times.
    size_bytes : int
        About what it takes of the file.
    """

    feed: Feed
    location: str
    issues: int
    first_issued: datetime | None
    last_issued: datetime | None
    actual_hours: float
    actual_from: datetime | None
    actual_until: datetime | None
    size_bytes: int


class Archive:
    """Forecasts and actuals on disk. Nothing is opened before it is used.

    Each method raises InputError where the file is none of ours, is damaged, or cannot be written.

    Parameters
    ----------
    folder : Path, optional
        Where the file lies; made when it is missing. By default the user's folder for data.
    keep_days : int
        After how many days what is not asked for any more is dropped.
    clock : Clock, optional
        Tells the age of what is kept; the system's by default, in simulations too.
    patience : timedelta
        How long one call waits for another process that is writing.
    """

    def __init__(
        self,
        folder: Path | None = None,
        keep_days: int = KEEP_DAYS,
        clock: Clock | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._file, self._keep = ArchiveFile(folder, patience), timedelta(days=keep_days)
        self._clock = clock or SystemClock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def within(self, limit: timedelta) -> Archive:
        """Return the same archive, of which one call waits for another process at most so long."""
        patience = min(limit, self._file.patience)
        return Archive(self._file.folder, self._keep.days, self._clock, patience)

    def check(self) -> None:
        """Raise InputError if it cannot be written."""
        with self._file.writing():
            pass

    # -- forecasts -----------------------------------------------------------------------------------------

    def put(self, feed: Feed, *forecasts: Forecast) -> None:
        """Keep forecasts; of a location's issue that is there already nothing changes."""
        with self._file.writing() as db:
            for forecast in forecasts:
                for location, series in columns_of(forecast.intensity).items():
                    if location not in forecast.last_good:
                        _insert(db, _key(db, feed, location), forecast.issued_at(location), series)
            locations = {location for each in forecasts for location in each.intensity.locations}
            for key in _keys(db, feed, locations).values():
                self._forget_old(db, key)

    def newest(
        self, feed: Feed, locations: Sequence[str], now: datetime, max_age: timedelta = MAX_AGE
    ) -> dict[str, Issue]:
        """Return each location's newest issue at or before ``now``, if it is not older than that."""
        bounds = to_us(now - max_age), to_us(now)
        query = f"SELECT {_ISSUE} FROM issues WHERE series = ? AND issued_us BETWEEN ? AND ?"
        found = {}
        with self._file.reading() as db:
            for location, key in _keys(db, feed, locations).items():
                row = db.execute(f"{query} ORDER BY issued_us DESC LIMIT 1", (key, *bounds)).fetchone()
                if row is not None:
                    found[location] = _read(row)
        return found

    def past(
        self, feed: Feed, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
    ) -> list[Forecast]:
        """Return the issues of [start, end), oldest first.

        Of each location the first in every span of that length is taken, the spans counted from 1970 UTC.
        """
        span_us = every // MICROSECOND
        query = (
            f"SELECT {_ISSUE} FROM issues JOIN (SELECT series, min(issued_us) AS issued_us FROM issues"
            " WHERE series = ? AND issued_us >= ? AND issued_us < ? GROUP BY issued_us / ?)"
            " USING (series, issued_us)"
        )
        spans: dict[int, dict[str, Issue]] = defaultdict(dict)
        with self._file.reading() as db:
            for location, key in _keys(db, feed, locations).items():
                for row in db.execute(query, (key, to_us(start), to_us(end), span_us)):
                    spans[row[0] // span_us][location] = _read(row)
        return [forecast_from(issues, {}, feed.provenance) for _, issues in sorted(spans.items())]

    def issues(self, feed: Feed, location: str) -> list[Issue]:
        """Return all issues of a location, oldest first."""
        with self._file.reading() as db:
            keys = _keys(db, feed, [location]).values()
            query = f"SELECT {_ISSUE} FROM issues WHERE series = ? ORDER BY issued_us"
            return [_read(row) for key in keys for row in db.execute(query, (key,))]

    # -- actuals -------------------------------------------------------------------------------------------

    def put_actual(self, feed: Feed, table: IntensityTable) -> None:
        """Keep what happened; it replaces what was known of the same time, for providers revise."""
        with self._file.writing() as db:
            for location, series in columns_of(table).items():
                key = _key(db, feed, location)
                for first_us, after_us in series.spans_us():
                    _clear(db, key, first_us, after_us)
                edges, known = np.append(series.times_us, series.end_us), ~np.isnan(series.values)
                steps = zip(edges[:-1][known], edges[1:][known], series.values[known], strict=True)
                rows = [(key, int(begin), int(end), float(value)) for begin, end, value in steps]
                db.executemany("INSERT INTO steps VALUES (?, ?, ?, ?)", rows)
                self._forget_old(db, key)

    def actual(
        self, feed: Feed, locations: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, Series]:
        """Return what happened around [start, end), whole steps, by location; one without any is left out."""
        query = (
            "SELECT time_us, end_us, g_per_kwh FROM steps WHERE series = ?1 AND time_us < ?3 AND end_us > ?2"
            " AND time_us >= ifnull((SELECT max(time_us) FROM steps WHERE series = ?1 AND time_us <= ?2), ?2)"
            " ORDER BY time_us"
        )
        found = {}
        with self._file.reading() as db:
            for location, key in _keys(db, feed, locations).items():
                if rows := db.execute(query, (key, to_us(start), to_us(end))).fetchall():
                    begins, ends = np.array([row[:2] for row in rows], np.int64).T
                    holes = np.flatnonzero(ends[:-1] != begins[1:])
                    times_us = np.insert(begins, holes + 1, ends[holes])
                    values = np.insert(np.array([row[2] for row in rows]), holes + 1, np.nan)
                    found[location] = Series(times_us, values, int(ends[-1]))
        return found

    # -- keeping house -------------------------------------------------------------------------------------

    def holdings(self) -> list[Holding]:
        """Return what there is, in order of source, server, signal and location."""
        query = """
            SELECT source, signal, server, location, issues, first_us, last_us, actual_us, from_us, until_us,
                   ifnull(issue_bytes, 0) + 30 * ifnull(steps, 0)
            FROM series
            LEFT JOIN (SELECT series, count(*) AS issues,
                       min(issued_us) AS first_us, max(issued_us) AS last_us,
                       sum(60 + length(g_per_kwh) + ifnull(length(steps_us), 0)) AS issue_bytes
                       FROM issues GROUP BY series) AS i ON i.series = series.id
            LEFT JOIN (SELECT series, count(*) AS steps, sum(end_us - time_us) AS actual_us,
                       min(time_us) AS from_us, max(end_us) AS until_us
                       FROM steps GROUP BY series) AS s ON s.series = series.id
            ORDER BY source, server, signal, location"""
        with self._file.reading() as db:
            return [_holding(*row) for row in db.execute(query)]

    def prune(self, keep: timedelta) -> tuple[int, int]:
        """Drop what is older and give its room back; return how many issues and actual values went."""
        before_us = to_us(self._clock.now() - keep)
        with self._file.writing() as db:
            issues = db.execute("DELETE FROM issues WHERE issued_us < ?", (before_us,)).rowcount
            steps = db.execute("DELETE FROM steps WHERE end_us <= ?", (before_us,)).rowcount
            db.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM issues)"
                       " AND id NOT IN (SELECT series FROM steps)")  # fmt: skip
        self._file.shrink()
        return issues, steps

    def _forget_old(self, db: sqlite3.Connection, key: int) -> None:
        before_us = to_us(self._clock.now() - self._keep)
        db.execute("DELETE FROM issues WHERE series = ? AND issued_us < ?", (key, before_us))
        db.execute("DELETE FROM steps WHERE series = ? AND time_us < ? AND end_us <= ?",
                   (key, before_us, before_us))  # fmt: skip


def _key(db: sqlite3.Connection, feed: Feed, location: str) -> int:
    """Return the key of a series, which is made when it is missing."""
    names = (feed.source, feed.server, feed.signal, location)
    db.execute("INSERT OR IGNORE INTO series (source, server, signal, location) VALUES (?, ?, ?, ?)", names)
    return _keys(db, feed, [location])[location]


def _keys(db: sqlite3.Connection, feed: Feed, locations: Iterable[str]) -> dict[str, int]:
    """Return the keys of the series there are."""
    query = "SELECT id FROM series WHERE source = ? AND server = ? AND signal = ? AND location = ?"
    names = (feed.source, feed.server, feed.signal)
    rows = {location: db.execute(query, (*names, location)).fetchone() for location in locations}
    return {location: row[0] for location, row in rows.items() if row}


def _clear(db: sqlite3.Connection, key: int, first_us: int, after_us: int) -> None:
    """Take a span out of a series; a step that reaches into it keeps what lies outside."""
    last = "SELECT max(time_us) FROM steps WHERE series = ? AND time_us < ?"
    db.execute(
        "INSERT INTO steps SELECT series, ?, end_us, g_per_kwh FROM steps"
        f" WHERE series = ? AND time_us = ({last}) AND end_us > ?",
        (after_us, key, key, after_us, after_us),
    )
    db.execute(
        f"UPDATE steps SET end_us = ? WHERE series = ? AND time_us = ({last}) AND end_us > ?",
        (first_us, key, key, first_us, first_us),
    )
    db.execute(
        "DELETE FROM steps WHERE series = ? AND time_us >= ? AND time_us < ?", (key, first_us, after_us)
    )


def _insert(db: sqlite3.Connection, key: int, issued_at: datetime, series: Series) -> None:
    """Write an issue, if it is not there."""
    db.execute(
        f"INSERT OR IGNORE INTO issues (series, {_ISSUE}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key, to_us(issued_at), *_written(series)),
    )


def _written(series: Series) -> tuple[int, int, int | None, str | None, str]:
    """Return a series as its row has it."""
    first_us = int(series.times_us[0])
    steps = np.diff(series.times_us)
    even = (steps == steps[:1]).all()
    step_us = (int(steps[0]) if len(steps) else 0) if even else None
    steps_us = None if even else _json((series.times_us - first_us).tolist())
    values = [None if value != value else value for value in series.values.tolist()]
    return first_us, series.end_us, step_us, steps_us, _json(values)


def _read(row: tuple[Any, ...]) -> Issue:
    """Return the issue that a row holds."""
    issued_us, first_us, end_us, step_us, steps_us, g_per_kwh = row
    written = json.loads(g_per_kwh)
    values = np.array(written if isinstance(written, list) else [], np.float64)  # None becomes NaN
    if values.ndim != 1 or not values.size or np.isinf(values).any():
        raise ValueError("an issue in it is no list of numbers")
    after = np.arange(len(values)) * step_us if steps_us is None else np.array(json.loads(steps_us))
    return Issue(from_us(issued_us), Series(first_us + after.astype(np.int64), values, end_us))


def _holding(source: str, signal: Signal, server: str, location: str, *figures: int | None) -> Holding:
    issues, first, last, actual_us, begin, until, size = figures
    hours = (actual_us or 0) * MICROSECOND / timedelta(hours=1)
    first_issued, last_issued, actual_from, actual_until = (
        None if us is None else from_us(us) for us in (first, last, begin, until)
    )
    return Holding(
        Feed(source, signal, server), location, issues or 0, first_issued, last_issued, hours, actual_from,
        actual_until, size or 0,
    )  # fmt: skip


def _json(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"))
