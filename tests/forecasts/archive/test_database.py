"""Archive: data is read as it was stored, by two processes too, and each fault is one clear error."""

from __future__ import annotations

import pwd
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.clock import HOUR_US, VirtualClock, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.archive.database import FILE_NAME, Archive, Feed
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.forecasts.series import columns_of
from lowcarb_scheduler.forecasts.sources.traces import Traces
from lowcarb_scheduler.intensity import IntensityTable, Provenance

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 3, 2, tzinfo=UTC)
FEED = Feed("watttime", "marginal")
PLACES = ("DE", "FR")


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "kept", clock=VirtualClock(NOW))


def table(start, values, locations=("DE",), step=HOUR):
    """Return a table; values are (T,) for all locations, or (T, L)."""
    values = np.array(values, dtype=float)
    columns = np.tile(values[:, None], len(locations)) if values.ndim == 1 else values
    edges = to_us(start) + np.arange(len(columns) + 1) * (step // timedelta(microseconds=1))
    return IntensityTable(edges, tuple(locations), columns, Provenance("watttime", "marginal"))


def issue(at, values=(100.0,) * 24, locations=("DE",)):
    return Forecast(table(at, values, locations), at)


def value_at(archive, when, location="DE"):
    """Return the newest issue's first value."""
    found = archive.newest(FEED, [location], when)
    return float(found[location].series.values[0]) if found else None


# -- what is put is what is read ---------------------------------------------------------------------------

intensities = st.floats(0, 3000, allow_subnormal=False) | st.just(float("nan"))


@st.composite
def tables(draw, start=0):
    """Return a table with steps of any length, and gaps anywhere."""
    steps = draw(st.lists(st.integers(1, 3 * HOUR_US), min_size=1, max_size=8))
    if draw(st.booleans()):
        steps = steps[:1] * len(steps)
    edges = to_us(NOW) + draw(st.integers(-5 * HOUR_US, 5 * HOUR_US)) + np.cumsum([start, *steps])
    columns = st.lists(intensities, min_size=len(steps), max_size=len(steps))
    values = np.array([draw(columns) for _ in PLACES]).T
    return IntensityTable(edges, PLACES, values, Provenance("watttime", "marginal"))


def same(one, other, within=0.0):
    """Return whether two series are equal: times to the last bit, values within a distance."""
    return (
        np.array_equal(one.times_us, other.times_us)
        and np.allclose(one.values, other.values, rtol=0, atol=within, equal_nan=True)
        and one.end_us == other.end_us
    )


def half_a_digit(values):
    """Return the rounding of issues: to hundredths, or to tenths where a value has three digits and more."""
    return 0.0501 if np.nanmax(values, initial=0) > 655 else 0.00501


@settings(max_examples=60)
@given(tables(), st.integers(0, 10**9))
def test_a_forecast_is_read_as_it_was_put(tmp_path_factory, made, ago_us):
    archive = Archive(tmp_path_factory.mktemp("kept"), clock=VirtualClock(NOW))
    issued_at = NOW - timedelta(microseconds=ago_us)
    archive.put(FEED, Forecast(made, issued_at))
    columns = columns_of(made)
    found = archive.newest(FEED, PLACES, NOW)
    assert set(found) == set(columns)
    for place, column in columns.items():
        assert same(found[place].series, column, half_a_digit(column.values))
    assert all(kept.issued_at == issued_at for kept in found.values())
    for past in archive.past(FEED, PLACES, NOW - DAY, NOW + DAY, HOUR):
        edges = np.union1d(past.intensity.edges_us, made.edges_us)
        kept, put = past.intensity.sampled(edges, PLACES), made.sampled(edges, PLACES)
        np.testing.assert_allclose(kept, put, rtol=0, atol=half_a_digit(put), strict=True)


@settings(max_examples=40)
@given(st.lists(tables(), min_size=1, max_size=5))
def test_new_actuals_replace_stored_ones(tmp_path_factory, told):
    archive = Archive(tmp_path_factory.mktemp("kept"), clock=VirtualClock(NOW))
    expected = told[0]
    for made in told:
        archive.put_actual(FEED, made)
        expected = made.fill(expected)
    found = archive.actual(FEED, PLACES, expected.start, expected.end)
    if not found:
        assert np.isnan(expected.values).all()
        return
    ends = {place: series.end_us for place, series in found.items()}
    read = IntensityTable.from_points({p: (s.times_us, s.values) for p, s in found.items()}, ends=ends)
    edges = np.union1d(read.edges_us, expected.edges_us)
    np.testing.assert_array_equal(read.sampled(edges, PLACES), expected.sampled(edges, PLACES))


@pytest.mark.parametrize(
    "values", [[0.0, 655.34], [3000.0, 0.1], [-5.25, 2.125], [7000.125], [12.34, np.nan, 56.78]]
)
def test_values_as_providers_write_them_are_kept_to_the_last_bit(archive, values):
    archive.put(FEED, issue(NOW, values))
    np.testing.assert_array_equal(archive.newest(FEED, ["DE"], NOW)["DE"].series.values, values)


def test_five_minute_issues_of_four_weeks_and_sixteen_places_fit_in_100_mb(archive):
    values = np.random.default_rng(0).uniform(0, 1000, 864)  # three days, and nothing that repeats
    archive.put(FEED, *(issue(NOW - k * HOUR / 4, values) for k in range(96)))
    assert archive.path.stat().st_size * 28 * 16 < 100e6


def test_actuals_of_a_period_are_whole_steps_that_touch_it(archive):
    archive.put_actual(FEED, table(NOW - 5 * HOUR, [1, 2, np.nan, 4, 5]))
    found = archive.actual(FEED, ["DE"], NOW - 4.5 * HOUR, NOW - 1.5 * HOUR)["DE"]
    assert found.values.tolist()[0] == 1
    assert columns_of(table(NOW - 5 * HOUR, [1, 2, np.nan, 4]))["DE"].end_us == found.end_us
    assert archive.actual(FEED, ["DE"], NOW - 2.9 * HOUR, NOW - 2.1 * HOUR) == {}  # a gap
    assert archive.actual(FEED, ["DE"], NOW, NOW + DAY) == {}
    assert archive.actual(FEED, ["FR"], NOW - DAY, NOW) == {}


def test_an_issue_is_kept_once_as_it_was_first_seen(archive):
    archive.put(FEED, issue(NOW, [1.0]))
    archive.put(FEED, issue(NOW, [2.0]))
    assert value_at(archive, NOW) == 1.0
    assert archive.holdings()[0].issues == 1


def test_a_last_good_forecast_is_not_stored_again(archive):
    made = table(NOW, [1.0], PLACES)
    archive.put(FEED, Forecast(made, NOW - HOUR, issued={"FR": NOW}, last_good={"DE": "answered 500"}))
    assert set(archive.newest(FEED, PLACES, NOW)) == {"FR"}
    assert archive.newest(FEED, PLACES, NOW)["FR"].issued_at == NOW


def test_feeds_are_never_mixed(archive):
    archive.put(FEED, issue(NOW, [1.0]))
    for other in (
        Feed("watttime", "average"),
        Feed("uk", "marginal"),
        Feed("watttime", "marginal", "http://b"),
    ):
        assert archive.newest(other, ["DE"], NOW) == {}
        assert archive.past(other, ["DE"], NOW - DAY, NOW + DAY, HOUR) == []
        archive.put(other, issue(NOW, [2.0]))
    assert value_at(archive, NOW) == 1.0
    assert len(archive.holdings()) == 4


# -- which issue -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20, unique=True), st.integers(-50, 50))
def test_no_issue_later_than_now_is_ever_seen(tmp_path_factory, hours, now_hour):
    archive = Archive(tmp_path_factory.mktemp("kept"), clock=VirtualClock(NOW))
    now = NOW + now_hour * HOUR
    archive.put(FEED, *(issue(NOW + hour * HOUR, [float(hour + 100)]) for hour in hours))
    seen = [hour for hour in hours if now_hour - 36 <= hour <= now_hour]
    assert value_at(archive, now) == (max(seen) + 100 if seen else None)
    past = archive.past(FEED, ["DE"], now - DAY, now, HOUR)
    assert [p.generated_at for p in past] == [
        NOW + hour * HOUR for hour in sorted(hours) if now_hour - 24 <= hour < now_hour
    ]


def test_past_returns_the_first_issue_of_each_interval(archive):
    times = [NOW - DAY + k * HOUR / 4 for k in range(96)]
    archive.put(FEED, *(issue(at, locations=PLACES if at.minute % 30 == 0 else ("FR",)) for at in times))
    past = archive.past(FEED, PLACES, NOW - DAY + 7 * HOUR, NOW, 6 * HOUR)
    assert [p.generated_at for p in past] == [NOW - 17 * HOUR, NOW - 12 * HOUR, NOW - 6 * HOUR]
    assert past[0].intensity.locations == PLACES
    assert (past[0].intensity.signal, past[0].intensity.source) == ("marginal", "watttime")


def test_past_forecasts_have_the_issue_time_of_each_location(archive):
    archive.put(FEED, issue(NOW - 5 * HOUR))
    archive.put(FEED, issue(NOW - 4 * HOUR, locations=("FR",)))
    (past,) = archive.past(FEED, PLACES, NOW - DAY, NOW, 6 * HOUR)
    assert {place: past.issued_at(place) for place in PLACES} == {
        "DE": NOW - 5 * HOUR, "FR": NOW - 4 * HOUR,
    }  # fmt: skip


# -- keeping house -----------------------------------------------------------------------------------------


def test_writing_deletes_old_data(tmp_path):
    clock = VirtualClock(NOW)
    archive = Archive(tmp_path, keep_days=3, clock=clock)
    archive.put(FEED, issue(NOW))
    archive.put_actual(FEED, table(NOW - HOUR, [5.0]))
    clock.sleep_until(NOW + 3 * DAY)
    archive.put(FEED, issue(NOW + 3 * DAY))
    assert archive.holdings()[0].issues == 2  # three days are kept
    clock.sleep_until(NOW + 3 * DAY + HOUR)
    archive.put(FEED, issue(NOW + 3 * DAY + HOUR))
    (left,) = archive.holdings()
    assert (left.issues, left.first_issued, left.actual_hours) == (2, NOW + 3 * DAY, 0.0)


def test_pruning_deletes_by_age_and_shrinks_the_file(archive):
    archive.put(FEED, *(issue(NOW - day * DAY, np.arange(2000.0) / 7, PLACES) for day in range(10)))
    archive.put_actual(FEED, table(NOW - 10 * DAY, [1.0] * 240))
    size = archive.path.stat().st_size
    assert archive.prune(4.5 * DAY) == (2 * 5, 240 - 108)
    assert archive.path.stat().st_size < 0.7 * size
    de, fr = archive.holdings()
    assert (de.issues, fr.issues, de.first_issued) == (5, 5, NOW - 4 * DAY)
    assert (de.actual_from, de.actual_until, de.actual_hours) == (NOW - 4.5 * DAY, NOW, 108.0)
    assert archive.prune(timedelta(0)) == (2 * 4, 108)  # the issue of this moment is not older
    assert archive.prune(4.5 * DAY) == (0, 0)


def test_holdings_describe_the_archived_data(archive):
    assert archive.holdings() == []
    archive.put(FEED, issue(NOW - DAY))
    archive.put(FEED, issue(NOW))
    archive.put_actual(FEED, table(NOW - DAY, [1.0, np.nan, 3.0], ["DE", "FR"]))
    de, fr = archive.holdings()
    assert (de.feed, de.location, de.issues, de.first_issued, de.last_issued) == (
        FEED,
        "DE",
        2,
        NOW - DAY,
        NOW,
    )
    assert (fr.issues, fr.first_issued, fr.actual_hours) == (0, None, 2.0)
    assert 100 < de.size_bytes < 1000


# -- other programs ----------------------------------------------------------------------------------------


def test_pandas_reads_it_and_a_trace_file_is_made_of_it(archive, tmp_path):
    archive.put(FEED, Forecast(table(NOW, [1.5, np.nan, 3.25], PLACES), NOW + timedelta(microseconds=7)))
    uneven = IntensityTable.from_points({"DE": (to_us(NOW) + np.array([0, 5, 30]), [7.0, 8.0, 9.0])})
    archive.put(FEED, Forecast(uneven, NOW - HOUR))
    archive.put_actual(FEED, table(NOW - 3 * HOUR, [1.0, np.nan, 2.0]))
    with sqlite3.connect(archive.path) as connection:
        forecasts = pd.read_sql("SELECT * FROM forecasts", connection)
        actuals = pd.read_sql("SELECT * FROM actuals", connection)
    connection.close()
    assert pd.to_datetime(forecasts["issued_at"]).max() == pd.Timestamp(NOW + timedelta(microseconds=7))
    assert set(forecasts["source"] + forecasts["signal"] + forecasts["server"]) == {"watttimemarginal"}
    forecasts.to_csv(tmp_path / "forecasts.csv", index=False)
    actuals.to_csv(tmp_path / "actuals.csv", index=False)
    replayed = Traces(tmp_path / "forecasts.csv", actual=tmp_path / "actuals.csv")
    known = replayed.forecast(PLACES, NOW + timedelta(minutes=1))
    assert known.generated_at == NOW + timedelta(microseconds=7)
    for place, series in columns_of(known.intensity).items():
        assert same(series, archive.newest(FEED, PLACES, NOW + HOUR)[place].series)
    assert replayed.forecast(["DE"], NOW).intensity.values[:3, 0].tolist() == [7.0, 8.0, 9.0]
    happened = columns_of(replayed.actual(["DE"], NOW - DAY, NOW))["DE"]
    assert same(happened, archive.actual(FEED, ["DE"], NOW - DAY, NOW)["DE"])


def test_what_the_documentation_shows_works(archive):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "archive.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    own = Archive(clock=VirtualClock(NOW))
    own.put(FEED, issue(NOW, [1.5, 2.5]))
    own.put_actual(FEED, table(NOW - HOUR, [3.5]))
    names = {}
    exec(compile(code, "archive.md", "exec"), names)
    assert names["forecasts"].set_index("time")["g_per_kwh"].dropna().to_dict() == {NOW: 1.5, NOW + HOUR: 2.5}
    assert names["actuals"]["g_per_kwh"].tolist()[:1] == [3.5]
    assert names["actuals"]["time"].dt.tz is not None


FIRST_VERSION = f"""
    CREATE TABLE series (id INTEGER PRIMARY KEY, source TEXT NOT NULL, server TEXT NOT NULL,
        signal TEXT NOT NULL, location TEXT NOT NULL, UNIQUE (source, server, signal, location));
    CREATE TABLE issues (id INTEGER PRIMARY KEY, series INTEGER NOT NULL REFERENCES series,
        issued_us INTEGER NOT NULL, first_us INTEGER NOT NULL, end_us INTEGER NOT NULL,
        step_us INTEGER, steps_us TEXT, g_per_kwh TEXT NOT NULL, UNIQUE (series, issued_us));
    CREATE TABLE steps (series INTEGER NOT NULL REFERENCES series, time_us INTEGER NOT NULL,
        end_us INTEGER NOT NULL, g_per_kwh REAL NOT NULL, PRIMARY KEY (series, time_us)) WITHOUT ROWID;
    CREATE VIEW forecasts AS SELECT 'as it was' AS g_per_kwh;
    INSERT INTO series VALUES (1, 'watttime', '', 'marginal', 'DE');
    INSERT INTO issues VALUES (1, 1, {to_us(NOW - HOUR)}, {to_us(NOW)}, {to_us(NOW + 3 * HOUR)},
        {HOUR_US}, NULL, '[1.234567,null,3000.5]');
    PRAGMA application_id = {0x10CA};
    PRAGMA user_version = 1;
"""


def test_an_archive_of_the_first_version_is_read_and_goes_on(archive):
    archive.path.parent.mkdir()
    with closing(sqlite3.connect(archive.path)) as connection:
        connection.executescript(FIRST_VERSION)
    written = [1.234567, np.nan, 3000.5]
    np.testing.assert_array_equal(archive.newest(FEED, ["DE"], NOW)["DE"].series.values, written)
    archive.put(FEED, issue(NOW, [2.5, np.nan, 0.0, 655.34]), issue(NOW + HOUR, [2999.9]))
    assert len(archive.issues(FEED, "DE")) == 3
    with closing(sqlite3.connect(archive.path)) as connection:
        rows = pd.read_sql("SELECT * FROM forecasts ORDER BY issued_at, time", connection)
    ends = [np.nan]  # of each issue
    assert rows["g_per_kwh"].tolist() == pytest.approx(
        [*written, *ends, 2.5, np.nan, 0.0, 655.34, *ends, 2999.9, *ends], rel=0, abs=0, nan_ok=True
    )


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import numpy as np
from lowcarb_scheduler.clock import VirtualClock, to_us
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.intensity import IntensityTable, Provenance

now, number = datetime(2026, 3, 2, tzinfo=UTC), int(sys.argv[2])
archive = Archive(Path(sys.argv[1]), clock=VirtualClock(now))
for k in range(25):
    at = now + timedelta(minutes=2 * k + number)
    edges = to_us(at) + np.arange(4) * 60_000_000
    made = IntensityTable(edges, ("DE",), np.full((3, 1), float(k)), Provenance("watttime", "marginal"))
    archive.put(Feed("watttime", "marginal"), Forecast(made, at))
    archive.put_actual(Feed("watttime", "marginal"), made.slice(at, at + timedelta(minutes=1)))
"""


def test_two_processes_that_write_at_once_lose_nothing(archive):
    archive.path.parent.mkdir()
    commands = [[sys.executable, "-c", WRITER, str(archive.path.parent), str(number)] for number in (0, 1)]
    writers = [subprocess.Popen(command) for command in commands]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    (left,) = archive.holdings()
    assert (left.issues, left.actual_hours) == (50, pytest.approx(50 / 60))
    assert len(archive.issues(FEED, "DE")) == 50


# -- faults ------------------------------------------------------------------------------------------------


def everything(archive):
    """Yield each thing one can do with an archive."""
    yield lambda: archive.put(FEED, issue(NOW))
    yield lambda: archive.put_actual(FEED, table(NOW, [1.0]))
    yield lambda: archive.newest(FEED, ["DE"], NOW)
    yield lambda: archive.past(FEED, ["DE"], NOW - DAY, NOW, HOUR)
    yield lambda: archive.actual(FEED, ["DE"], NOW - DAY, NOW)
    yield lambda: archive.issues(FEED, "DE")
    yield archive.holdings
    yield archive.check
    yield lambda: archive.prune(DAY)


def test_reading_makes_no_file(archive):
    assert archive.newest(FEED, ["DE"], NOW) == {}
    assert archive.holdings() == []
    assert not archive.path.parent.exists()
    archive.path.parent.mkdir()
    archive.path.touch()  # as a crash right after the first moment leaves it
    assert archive.holdings() == []
    archive.check()
    assert archive.path.stat().st_size > 0


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda path: path.write_bytes(b"# not a database, but long enough to be taken for one" * 20),
            "not a",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be used"),
        (lambda path: path.unlink() or path.mkdir(), "unable to open"),
        (lambda path: _execute(path, "PRAGMA user_version = 9"), "an archive of version 9, not 2"),
        (lambda path: path.unlink() or _execute(path, "CREATE TABLE t (x)"), "database of another program"),
    ],
    ids=["text", "cut", "folder", "version", "foreign"],
)
def test_a_file_that_is_no_archive_is_one_clear_error(archive, spoil, why):
    archive.put(FEED, issue(NOW))
    spoil(archive.path)
    seen = []
    for attempt in everything(archive):
        try:
            attempt()
        except InputError as error:
            seen.append(error)
    assert len(seen) >= 7
    for error in seen:
        assert (error.field, str(archive.path) in error.problem) == ("archive-dir", True)
        assert "LOWCARB_ARCHIVE_DIR" in error.fix
    assert any(why in error.problem for error in seen)


def _execute(path, statement):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_row_that_was_spoilt_is_an_error_too(archive):
    archive.put(FEED, issue(NOW))
    _execute(archive.path, "UPDATE issues SET g_per_kwh = 'oops'")
    with pytest.raises(InputError, match="cannot be used"):
        archive.newest(FEED, ["DE"], NOW)


LISTS = ("[]", "{}", "3", "null", '["x"]', "[[1]]", "[1e999]", "nothing")
BYTES = ("", "01", "02ABCDEF", "03ABCD")


@pytest.mark.parametrize("written", [*(f"'{text}'" for text in LISTS), *(f"x'{code}'" for code in BYTES)])
def test_an_issue_that_cannot_be_read_is_one_clear_error(archive, written):
    archive.put(FEED, issue(NOW))
    _execute(archive.path, f"UPDATE issues SET g_per_kwh = {written}")
    with pytest.raises(InputError, match="cannot be used"):
        archive.newest(FEED, ["DE"], NOW)


def test_the_wait_for_another_process_is_bounded(archive):
    archive.put(FEED, issue(NOW))
    other = sqlite3.connect(archive.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match="locked"):
        archive.within(timedelta(0)).put(FEED, issue(NOW + HOUR))
    other.close()
    archive.put(FEED, issue(NOW + HOUR))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"archive-dir: .*file.* cannot be used"):
        Archive(tmp_path / "file" / "below", clock=VirtualClock(NOW)).check()


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    for variable in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["a user of a container without an entry"])
    with pytest.raises(InputError, match="there is no home folder"):
        Archive().check()


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other folders")
def test_the_default_is_the_users_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Archive().path == tmp_path / "data" / "lowcarb-scheduler" / FILE_NAME
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # which the standard has ignored
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Archive().path == tmp_path / ".local" / "share" / "lowcarb-scheduler" / FILE_NAME
    assert Archive(Path("~/kept")).path == tmp_path / "kept" / FILE_NAME
