"""The file of the archive: what stands in it, and how it is opened.

One SQLite file, so that two processes can write to it and a crash leaves nothing half done. It keeps a
rollback journal and no write-ahead log: that one needs memory which the processes share, and so no network
folder.

An issue is one row, its values a list: 3.6 times smaller and 5 times faster to read than a row a value. The
views ``forecasts`` and ``actuals`` show everything in the form of a trace file.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

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
