"""Archive of forecasts and actual intensity in an SQLite file.

The archive serves three purposes: a cache until the next issue of a forecast, the last good forecast when a
source fails, and the history that bias correction learns from.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from platformdirs import user_data_path

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, Clock, SystemClock, from_us, to_us
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.folders import make_folder
from lowcarb_scheduler.forecasts.base import MAX_AGE, Forecast
from lowcarb_scheduler.forecasts.series import Issue, Series, columns_of, forecast_from
from lowcarb_scheduler.intensity import IntensityTable, Provenance, Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from lowcarb_scheduler.intensity import Floats

FILE_NAME: Final = "archive.sqlite"
_FIX: Final = "name another folder with LOWCARB_ARCHIVE_DIR, or set it to none"
_ISSUE: Final = "issued_us, first_us, end_us, step_us, steps_us, g_per_kwh"  # columns of Issue, see _read

# -- File --------------------------------------------------------------------------------------------------
# SQLite, so that two processes can write and a crash leaves nothing half done. It has a rollback journal and
# no write-ahead log, because a log needs shared memory, which a network folder has not.
#
# An issue is one row with all of its values, two bytes each: a row a value would take ten times as much. They
# are not compressed, so that SQL reads them: the views ``forecasts`` and ``actuals`` present the data in the
# form of a trace file, for other programs.

_APPLICATION: Final = 0x10CA  # application_id of our files in SQLite's header
_VERSION: Final = 2
_EARLIER: Final = (
    1  # had every issue as a list in JSON, which is still read; a writer brings the views up to date
)
_GAP: Final = 0xFFFF

_UTC: Final = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"

# SQLite has no loop over the bytes of a blob, and no number of a byte: a list with a zero for each value
# stands in for the one, a table of all bytes for the other.
_FORECASTS: Final = f"""CREATE VIEW forecasts AS
    WITH RECURSIVE bytes AS (
        SELECT 0 AS number, '00' AS code
        UNION ALL SELECT number + 1, printf('%02X', number + 1) FROM bytes WHERE number < 255
    ), points AS (
        SELECT series, issued_us, first_us + ifnull(k.key * step_us,
                   json_extract(steps_us, '$[' || k.key || ']')) AS time_us,
               CASE typeof(g_per_kwh) WHEN 'blob' THEN nullif(256 * high.number + low.number, {_GAP})
                   / CASE hex(substr(g_per_kwh, 1, 1)) WHEN '01' THEN 10.0 ELSE 100.0 END
                   ELSE k.value END AS g_per_kwh
        FROM issues, json_each(CASE typeof(g_per_kwh) WHEN 'blob' THEN
            '[0' || replace(hex(zeroblob(length(g_per_kwh) / 2 - 1)), '00', ',0') || ']'
            ELSE g_per_kwh END) AS k
        LEFT JOIN bytes AS high ON high.code = hex(substr(g_per_kwh, 2 * k.key + 2, 1))
        LEFT JOIN bytes AS low ON low.code = hex(substr(g_per_kwh, 2 * k.key + 3, 1))
        UNION ALL SELECT series, issued_us, end_us, NULL FROM issues
    )
    SELECT location, {_UTC.format("issued_us")} AS issued_at, {_UTC.format("time_us")} AS time, g_per_kwh,
           source, signal, server
    FROM points JOIN series ON series.id = points.series"""

# Times are microseconds since 1970 UTC, as everywhere in the package; the views show them as text.
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
        g_per_kwh BLOB NOT NULL,  -- see _packed; or a list in JSON, in which null is a gap
        UNIQUE (series, issued_us)
    )""",
    """CREATE TABLE steps (
        series INTEGER NOT NULL REFERENCES series,
        time_us INTEGER NOT NULL, end_us INTEGER NOT NULL, g_per_kwh REAL NOT NULL,
        PRIMARY KEY (series, time_us)
    ) WITHOUT ROWID""",
    _FORECASTS,
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


# -- Archive -----------------------------------------------------------------------------------------------


class Feed(NamedTuple):
    """Origin of archived values; those of two feeds are never mixed.

    Parameters
    ----------
    source : str
        Name of the source in the settings.
    signal : {"average", "marginal", "unknown"}
        Quantity that the values measure.
    server : str
        Address of the server: two installations of one source are two feeds.
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
    """Archived data of one location.

    Parameters
    ----------
    feed : Feed
        Origin of the values.
    location : str
        Name that the source uses.
    issues : int
        Number of forecasts.
    first_issued, last_issued : datetime or None
        Issue time of the oldest and the newest forecast, None without one.
    actual_hours : float
        Duration of known actual intensity [h].
    actual_from, actual_until : datetime or None
        Begin and end of actual intensity, None without any.
    size_bytes : int
        Approximate share of the file [B].
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
    """Forecasts and actual intensity on disk.

    The file is opened at each call. Every method raises InputError if the file is not an archive, is damaged,
    or cannot be written.

    Parameters
    ----------
    folder : Path, optional
        Folder of the file, created when it is missing; by default the user's data folder.
    keep_days : int (default: 60)
        Age at which data is deleted.
    clock : Clock, optional
        Clock that determines the age of data; by default the system's, in simulations too.
    patience : timedelta (default: 2 s)
        Longest wait for another process that is writing.
    """

    def __init__(
        self,
        folder: Path | None = None,
        keep_days: int = 60,
        clock: Clock | None = None,
        patience: timedelta = timedelta(seconds=2),
    ) -> None:
        self._folder, self._patience, self._keep = folder, patience, timedelta(days=keep_days)
        self._clock = clock or SystemClock()

    @property
    def path(self) -> Path:
        """Path of the file.

        Raises
        ------
        InputError
            If the folder is below the home folder, and the user has none.
        """
        try:
            if self._folder is None:
                return user_data_path("lowcarb-scheduler", appauthor=False) / FILE_NAME
            return self._folder.expanduser() / FILE_NAME
        except RuntimeError:
            raise InputError("archive-dir", "there is no home folder to keep an archive in", _FIX) from None

    def within(self, limit: timedelta) -> Archive:
        """Return the same archive with a wait for other processes of at most ``limit``."""
        return Archive(self._folder, self._keep.days, self._clock, min(limit, self._patience))

    def check(self) -> None:
        """Raise InputError if the archive cannot be written."""
        with self._opened(writing=True):
            pass

    # -- Forecasts

    def put(self, feed: Feed, *forecasts: Forecast) -> None:
        """Store forecasts; an issue that is stored already does not change."""
        with self._opened(writing=True) as db:
            for forecast in forecasts:
                for location, series in columns_of(forecast.intensity).items():
                    if location not in forecast.last_good:  # a stand-in is an old issue, stored already
                        _insert(db, _key(db, feed, location), forecast.issued_at(location), series)
            locations = {location for each in forecasts for location in each.intensity.locations}
            # Each write deletes what is too old, or the file of a long-lived server would grow for ever.
            for key in _keys(db, feed, locations).values():
                self._forget_old(db, key)

    def newest(
        self, feed: Feed, locations: Sequence[str], now: datetime, max_age: timedelta = MAX_AGE
    ) -> dict[str, Issue]:
        """Return the newest issue of each location at or before ``now``, at most ``max_age`` old."""
        bounds = to_us(now - max_age), to_us(now)
        query = (
            f"SELECT {_ISSUE} FROM issues WHERE series = ? AND issued_us BETWEEN ? AND ?"
            " ORDER BY issued_us DESC LIMIT 1"
        )
        with self._opened() as db:
            keys = _keys(db, feed, locations).items()
            rows = {location: db.execute(query, (key, *bounds)).fetchone() for location, key in keys}
            return {location: _read(row) for location, row in rows.items() if row}

    def past(
        self, feed: Feed, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
    ) -> list[Forecast]:
        """Return the forecasts issued in [start, end), oldest first.

        Of each location the first issue in every interval ``every`` since 1970 UTC is returned: bias
        correction needs issues at even distances, and reads a month of them.
        """
        span_us = every // MICROSECOND
        query = (
            f"SELECT {_ISSUE} FROM issues JOIN (SELECT series, min(issued_us) AS issued_us FROM issues"
            " WHERE series = ? AND issued_us >= ? AND issued_us < ? GROUP BY issued_us / ?)"
            " USING (series, issued_us)"
        )
        spans: dict[int, dict[str, Issue]] = defaultdict(dict)
        with self._opened() as db:
            for location, key in _keys(db, feed, locations).items():
                for row in db.execute(query, (key, to_us(start), to_us(end), span_us)):
                    spans[row[0] // span_us][location] = _read(row)
        return [forecast_from(issues, {}, feed.provenance) for _, issues in sorted(spans.items())]

    def issues(self, feed: Feed, location: str) -> list[Issue]:
        """Return all issues of a location, oldest first."""
        with self._opened() as db:
            keys = _keys(db, feed, [location]).values()
            query = f"SELECT {_ISSUE} FROM issues WHERE series = ? ORDER BY issued_us"
            return [_read(row) for key in keys for row in db.execute(query, (key,))]

    # -- Actual intensity

    def put_actual(self, feed: Feed, table: IntensityTable) -> None:
        """Store actual intensity over stored values of the same time, which providers revise."""
        with self._opened(writing=True) as db:
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
        """Return the steps that overlap [start, end), by location; a location without any is left out."""
        # The step that covers the begin is found by its key, not by end_us, which has no index.
        query = (
            "SELECT time_us, end_us, g_per_kwh FROM steps WHERE series = ?1 AND time_us < ?3 AND end_us > ?2"
            " AND time_us >= ifnull((SELECT max(time_us) FROM steps WHERE series = ?1 AND time_us <= ?2), ?2)"
            " ORDER BY time_us"
        )
        found = {}
        with self._opened() as db:
            for location, key in _keys(db, feed, locations).items():
                if rows := db.execute(query, (key, to_us(start), to_us(end))).fetchall():
                    begins, ends = np.array([row[:2] for row in rows], np.int64).T
                    # Gaps are not stored: one begins where a step ends before the next one begins.
                    holes = np.flatnonzero(ends[:-1] != begins[1:])
                    times_us = np.insert(begins, holes + 1, ends[holes])
                    values = np.insert(np.array([row[2] for row in rows]), holes + 1, np.nan)
                    found[location] = Series(times_us, values, int(ends[-1]))
        return found

    # -- Contents and size

    def holdings(self) -> list[Holding]:
        """Return the archived data by location, in order of source, server, signal and location."""
        query = f"""
            SELECT source, signal, server, location, ifnull(issues, 0), first_us, last_us,
                   ifnull(actual_us, 0) / {HOUR_US}.0, from_us, until_us,
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
        with self._opened() as db:
            holdings = []
            for *feed, location, issues, first, last, hours, begin, end, size in db.execute(query):
                first, last, begin, end = map(_time, (first, last, begin, end))
                holdings.append(Holding(Feed(*feed), location, issues, first, last, hours, begin, end, size))
        return holdings

    def prune(self, keep: timedelta) -> tuple[int, int]:
        """Delete data older than ``keep`` and return the number of deleted issues and actual values."""
        before_us = to_us(self._clock.now() - keep)
        with self._opened(writing=True) as db:
            issues = db.execute("DELETE FROM issues WHERE issued_us < ?", (before_us,)).rowcount
            steps = db.execute("DELETE FROM steps WHERE end_us <= ?", (before_us,)).rowcount
            db.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM issues)"
                       " AND id NOT IN (SELECT series FROM steps)")  # fmt: skip
        with self._connected() as db:
            db.execute("VACUUM")  # releases the disk space; not possible inside a transaction
        return issues, steps

    def _forget_old(self, db: sqlite3.Connection, key: int) -> None:
        before_us = to_us(self._clock.now() - self._keep)
        db.execute("DELETE FROM issues WHERE series = ? AND issued_us < ?", (key, before_us))
        db.execute("DELETE FROM steps WHERE series = ? AND time_us < ? AND end_us <= ?",
                   (key, before_us, before_us))  # fmt: skip

    # -- File

    @contextmanager
    def _opened(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file in one transaction; for reading, a missing file is empty and not created.

        Raises
        ------
        InputError
            If the file cannot be read or written, or is not an archive.
        """
        with self._connected(writing=writing) as db:
            # IMMEDIATE waits for another writer now; a lock taken after the first read could only fail.
            db.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            version = self._version_of(db)
            if version is None:
                for statement in _SCHEMA:  # without a commit nothing of it is left on disk
                    db.execute(statement)
            elif writing and version == _EARLIER:
                for statement in ("DROP VIEW forecasts", _FORECASTS, f"PRAGMA user_version = {_VERSION}"):
                    db.execute(statement)
            yield db
            if writing:
                db.execute("COMMIT")

    @contextmanager
    def _connected(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        path = self.path
        try:
            if writing:
                make_folder(path.parent)
            name = path if writing or path.exists() else ":memory:"
            # isolation_level=None: sqlite3 must not begin transactions beside those of this class.
            connection = sqlite3.connect(name, timeout=self._patience.total_seconds(), isolation_level=None)
            with closing(connection) as db:
                yield db
        # ValueError: a row with a document that _read cannot parse, after a crash of the disk or by hand.
        except (sqlite3.Error, OSError, ValueError) as error:
            why = one_line(getattr(error, "strerror", None) or str(error))
            raise InputError("archive-dir", f"{path} cannot be used: {why}", _FIX) from None

    def _version_of(self, db: sqlite3.Connection) -> int | None:
        """Return the version of the archive in the file; None if the file is empty.

        Raises
        ------
        InputError
            If the file holds something else, or an archive of a later version.
        """
        query = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
        application, version = db.execute(query).fetchone()
        if application == _APPLICATION:
            if version in (_EARLIER, _VERSION):
                return int(version)
            problem = f"{self.path} is an archive of version {version}, not {_VERSION}"
            raise InputError("archive-dir", problem, f"install the release that wrote it, or {_FIX}")
        # A new file has neither an application_id nor a table.
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise InputError("archive-dir", f"{self.path} is the database of another program", _FIX)
        return None


def _key(db: sqlite3.Connection, feed: Feed, location: str) -> int:
    """Return the key of a series, creating the series if it is missing."""
    query = "INSERT OR IGNORE INTO series (source, signal, server, location) VALUES (?, ?, ?, ?)"
    db.execute(query, (*feed, location))
    return _keys(db, feed, [location])[location]


def _keys(db: sqlite3.Connection, feed: Feed, locations: Iterable[str]) -> dict[str, int]:
    """Return the keys of existing series by location."""
    query = "SELECT id FROM series WHERE source = ? AND signal = ? AND server = ? AND location = ?"
    rows = {location: db.execute(query, (*feed, location)).fetchone() for location in locations}
    return {location: row[0] for location, row in rows.items() if row}


def _clear(db: sqlite3.Connection, key: int, first_us: int, after_us: int) -> None:
    """Remove a span from a series; a step across its edge keeps the part outside."""
    across = (
        "series = ?1 AND end_us > {0}"
        " AND time_us = (SELECT max(time_us) FROM steps WHERE series = ?1 AND time_us < {0})"
    )
    # First the part after the span of a step that covers all of it, then the part before: the order matters,
    # because shortening the step would lose its end.
    rest = f"SELECT series, ?3, end_us, g_per_kwh FROM steps WHERE {across.format('?3')}"
    db.execute(f"INSERT INTO steps {rest}", (key, first_us, after_us))
    db.execute(f"UPDATE steps SET end_us = ?2 WHERE {across.format('?2')}", (key, first_us))
    inside = "series = ?1 AND time_us >= ?2 AND time_us < ?3"
    db.execute(f"DELETE FROM steps WHERE {inside}", (key, first_us, after_us))


def _insert(db: sqlite3.Connection, key: int, issued_at: datetime, series: Series) -> None:
    """Insert an issue unless it exists."""
    offsets_us = series.times_us - series.times_us[0]
    step_us = int(offsets_us[1]) if len(offsets_us) > 1 else 0
    even = (np.diff(offsets_us) == step_us).all()
    db.execute(
        f"INSERT OR IGNORE INTO issues (series, {_ISSUE}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key, to_us(issued_at), int(series.times_us[0]), series.end_us, step_us if even else None,
            None if even else _json(offsets_us.tolist()), _packed(series.values),
        ),
    )  # fmt: skip


def _read(row: tuple[Any, ...]) -> Issue:
    """Return the issue of a row."""
    issued_us, first_us, end_us, step_us, steps_us, g_per_kwh = row
    values = _unpacked(g_per_kwh)
    if values.ndim != 1 or not values.size or np.isinf(values).any():
        raise ValueError("an issue is not a list of numbers")
    offsets_us = np.arange(len(values)) * step_us if steps_us is None else np.array(json.loads(steps_us))
    return Issue(from_us(issued_us), Series(first_us + offsets_us.astype(np.int64), values, end_us))


def _packed(values: Floats) -> bytes | str:
    """Return values as two bytes each, in hundredths of a g/kWh, or in tenths if one is above 655 g/kWh.

    Five-minute values of every quarter of an hour would fill a disk with digits that no meter has. What does
    not fit, as negative values, is a list in JSON.
    """
    known = values[~np.isnan(values)]
    for decimals in (2, 1):
        codes = np.rint(values * 10**decimals)
        if not known.size or (known.min() >= 0 and np.nanmax(codes) < _GAP):
            return bytes([decimals]) + np.where(np.isnan(codes), _GAP, codes).astype(">u2").tobytes()
    return _json([None if value != value else value for value in values.tolist()])  # NaN is no JSON


def _unpacked(stored: bytes | str) -> Floats:
    """Return the values of an issue, from either form."""
    if isinstance(stored, bytes):
        if stored[:1] not in (b"\x01", b"\x02"):
            raise ValueError("an issue is not in hundredths or tenths")
        codes = np.frombuffer(stored[1:], ">u2")
        return np.where(codes == _GAP, np.nan, codes / 10.0 ** stored[0])
    document = json.loads(stored)
    return np.array(document if isinstance(document, list) else [], np.float64)  # None becomes NaN


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _json(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"))
