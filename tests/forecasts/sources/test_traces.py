"""Trace files: the reader, and the source that replays them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, MissingExtraError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.traces import Traces, read_points, read_table
from lowcarb_scheduler.settings import Settings

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
PLAIN = """location,time,g_per_kwh
DE,2026-03-01T00:00Z,300
DE,2026-03-01T01:00Z,
DE,2026-03-01T02:00Z,100.5
FR,2026-03-01T02:00+01:00,40
FR,2026-03-01T02:30:00Z,-5
"""
ISSUES = """location,issued_at,time,g_per_kwh
DE,2026-03-01T00:00Z,2026-03-01T00:00Z,10
DE,2026-03-01T00:00Z,2026-03-01T01:00Z,11
DE,2026-03-01T00:00Z,2026-03-01T02:00Z,12
DE,2026-03-01T01:00Z,2026-03-01T01:00Z,21
DE,2026-03-01T01:00Z,2026-03-01T02:00Z,22
DE,2026-03-01T01:00Z,2026-03-01T03:00Z,23
FR,2026-03-01T00:00Z,2026-03-01T00:00Z,50
FR,2026-03-01T00:00Z,2026-03-01T06:00Z,51
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def at(hours):
    return START + hours * HOUR


# -- the reader --------------------------------------------------------------------------------------------


def test_rows_come_in_order_with_gaps_kept(write):
    lines = PLAIN.splitlines()
    rows = read_points(write("\n".join([lines[0], *reversed(lines[1:])])))
    assert rows["location"].tolist() == ["DE", "DE", "DE", "FR", "FR"]
    assert rows["time"].tolist() == [at(0), at(1), at(2), at(1), at(2.5)]
    assert rows["g_per_kwh"].tolist()[:1] + rows["g_per_kwh"].tolist()[2:] == [300, 100.5, 40, -5]
    assert np.isnan(rows["g_per_kwh"][1])
    assert "issued_at" not in rows


def test_a_table_keeps_each_locations_own_grid(write):
    table = read_table(write(PLAIN), signal="average")
    assert (table.signal, table.source, table.synthetic) == ("average", "traces", False)
    assert table.locations == ("DE", "FR")
    assert (table.start, table.end) == (at(0), at(4))  # FR steps by 90 minutes
    frame = table.to_frame()
    assert frame["DE"].tolist()[0] == 300
    assert frame["DE"][at(1) : at(1.5)].isna().all()
    assert frame["FR"][at(1) : at(2)].eq(40).all()
    assert frame["FR"][at(2.5)] == -5


@pytest.mark.parametrize(
    "variant",
    [
        PLAIN.replace("location", "region"),
        PLAIN.replace("location,time", " location , time"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN + "\n\n",
        PLAIN.replace("location", "zone_note,location").replace("\nDE", "\nx,DE").replace("\nFR", "\n,FR"),
        "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in PLAIN.splitlines()),
    ],
    ids=["region", "spaces", "byte-order-mark", "windows", "blank-lines", "extra-column", "quoted"],
)
def test_a_csv_may_be_written_in_several_ways(write, variant):
    expected = read_points(write(PLAIN, "plain.csv"))
    pd.testing.assert_frame_equal(read_points(write(variant)), expected)


def test_parquet_gives_what_csv_gives(write, tmp_path):
    expected = read_points(write(ISSUES))
    for unit, zone in (("us", "UTC"), ("ms", "Europe/Berlin"), ("ns", "UTC")):
        frame = expected.assign(
            time=expected["time"].dt.as_unit(unit).dt.tz_convert(zone),
            g_per_kwh=expected["g_per_kwh"].astype("float32"),
        )
        path = tmp_path / f"{unit}.parquet"
        frame.rename(columns={"location": "region"}).to_parquet(path)
        pd.testing.assert_frame_equal(read_points(path), expected)
    frame.set_index("time").astype({"location": "str"}).to_parquet(path)
    pd.testing.assert_frame_equal(read_points(path), expected)
    pd.read_csv(write(ISSUES), dtype=str).to_parquet(path)
    pd.testing.assert_frame_equal(read_points(path), expected)


HEAD = "location,time,g_per_kwh\n"
ROW = "DE,2026-03-01T00:00Z,1\n"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("zone,time,g_per_kwh\nDE,2026-03-01T00:00Z,1", "location", "missing (found: zone, time, g_per_kwh)"),
        ("location,time,value\nDE,2026-03-01T00:00Z,1", "g_per_kwh", "(found: location, time, value)"),
        ("location;time;g_per_kwh\nDE;2026-03-01T00:00Z;1", "location", "(found: location;time;g_per_kwh)"),
        ("location,region,time,g_per_kwh\nDE,DE,2026-03-01T00:00Z,1", "location", "stands twice"),
        ("location,time,time,g_per_kwh\nDE,2026-03-01T00:00Z,x,1", "time", "stands twice"),
        ("issued_at," + HEAD.strip() + ",issued_at\n,DE,2026-03-01T00:00Z,1,", "issued_at", "stands twice"),
        (HEAD, "time", "the file has no rows"),
        ("", "forecast", "is not a table"),
        (HEAD + ROW + "DE,2026-03-01T01:00,1", "time", "row 2: 2026-03-01T01:00:00 has no UTC offset"),
        (HEAD + ROW + "DE,2026-03-01,1", "time", "row 2: 2026-03-01T00:00:00 has no UTC offset"),
        (HEAD + ROW + "DE,soon,1", "time", "row 2: 'soon' is not a time"),
        (HEAD + ROW + "DE,,1", "time", "row 2: '' is not a time"),
        (HEAD + "DE,9999-12-31T23:59-05:00,1", "time", "row 1: '9999-12-31T23:59:00-05:00' is out of range"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,lots", "g_per_kwh", "row 2: 'lots' is not a number"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,nan", "g_per_kwh", "row 2: 'nan' is not a number"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,n/a", "g_per_kwh", "row 2: 'n/a' is not a number"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,1_0", "g_per_kwh", "row 2: '1_0' is not a number"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,inf", "g_per_kwh", "row 2: is infinite"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,1e999", "g_per_kwh", "row 2: "),  # old pandas: no number
        (HEAD + ROW + ",2026-03-01T01:00Z,1", "location", "row 2: is empty"),
        (HEAD + ROW + ROW, "time", "row 2: 2026-03-01T00:00:00Z stands twice"),
        (HEAD + ROW + "DE,2026-03-01T01:00+01:00,2", "time", "row 2: 2026-03-01T00:00:00Z stands twice"),
        (HEAD + ROW + "DE,2026-03-01T01:00Z,1,2,3", "forecast", "is not a table"),
        (HEAD + "DE,x,2026-03-01T01:00Z,1\n", "forecast", "more cells than the header"),
        (b"\xff\xfe\x00location", "forecast", "is not a table"),
        (ISSUES.replace("2026-03-01T01:00Z,2026", "2026-03-01T01:00,2026"), "issued_at", "has no UTC offset"),
    ],
)  # fmt: skip
def test_bad_csv_is_bad_input_that_names_file_column_and_row(write, text, field, problem):
    path = write(text)
    with pytest.raises(InputError) as error:
        read_points(path)
    assert (error.value.file, error.value.field) == (str(path), field)
    assert problem in error.value.problem
    assert error.value.fix
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_bad_input(write, tmp_path):
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    cases = [
        (tmp_path / "no.csv", "cannot be read: No such file"),
        (tmp_path / "no.parquet", "cannot be read: No such file"),
        (folder, "cannot be read: Is a directory"),
        (write("{}", "trace.json"), ".json is no known format"),
        (write("{}", "trace"), "no suffix is no known format"),
        (write("location,time", "text.parquet"), "is not a table"),
    ]
    for path, problem in cases:
        with pytest.raises(InputError) as error:
            read_points(path, "history")
        assert (error.value.field, error.value.file) == ("history", str(path))
        assert error.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("time", pd.to_datetime(["2026-03-01", "2026-03-02"]), "no UTC offset"),
        ("time", pd.to_datetime(["2026-03-01", None], utc=True), "row 2: is empty"),
        (
            "time",
            [datetime(2026, 3, 1, tzinfo=UTC).date()] * 2,
            "row 1: 2026-03-01T00:00:00 has no UTC offset",
        ),
        ("time", [1, 2], "row 1: '1' is not a time"),
        ("g_per_kwh", [1.0, np.inf], "row 2: is infinite"),
        ("g_per_kwh", [True, False], "row 1: 'True' is not a number"),
        ("g_per_kwh", ["1", "nan"], "row 2: 'nan' is not a number"),
        ("location", ["DE", None], "row 2: is empty"),
        ("location", [["DE"], ["FR"]], "holds lists"),
        (
            "time",
            pd.DatetimeIndex(np.array(["2026-03-01", "9999-12-31"], "datetime64[us]"), tz="UTC"),
            "row 2: is out of range",
        ),
    ],
)
def test_bad_parquet_is_bad_input(tmp_path, column, values, problem):
    times = pd.date_range(START, periods=2, freq="h")
    frame = pd.DataFrame({"location": ["DE", "DE"], "time": times, "g_per_kwh": [1.0, 2.0]})
    frame.assign(**{column: values}).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(InputError) as error:
        read_points(tmp_path / "bad.parquet")
    assert error.value.field == column
    assert problem in error.value.problem


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lowcarb-scheduler\[parquet\]'"):
        read_points(tmp_path / "any.parquet")


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.integers(0, 3), st.integers(0, 9), st.none() | st.floats(0, 9)),
        min_size=1, max_size=30, unique_by=lambda row: row[:3],
    )
)  # fmt: skip
def test_what_is_written_is_read_in_any_order(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    frame = pd.DataFrame(rows, columns=["location", "issue", "hour", "g_per_kwh"])
    frame["issued_at"] = [format_time(at(issue)) for issue in frame["issue"]]
    frame["time"] = [format_time(at(hour)) for hour in frame["hour"]]
    frame.to_csv(path, index=False)
    read = read_points(path)
    found = [
        (row.location, row.issued_at, row.time, None if np.isnan(row.g_per_kwh) else row.g_per_kwh)
        for row in read.itertuples()
    ]
    ordered = sorted(rows, key=lambda row: row[:3])
    assert found == [(name, at(issue), at(hour), value) for name, issue, hour, value in ordered]


# -- the source --------------------------------------------------------------------------------------------


def test_a_forecast_is_the_newest_issue_known_by_now(write):
    source = Traces(write(ISSUES), "average")
    early = source.forecast(["DE"], at(0.5))
    assert early.generated_at == at(0)
    assert early.intensity.to_frame()["DE"].tolist() == [10, 11, 12]
    later = source.forecast(["DE"], at(1))
    assert later.generated_at == at(1)
    assert later.intensity.to_frame()["DE"].tolist() == [21, 22, 23]
    assert (later.intensity.start, later.intensity.end) == (at(1), at(4))
    assert (later.intensity.signal, later.intensity.source) == ("average", "traces")


def test_generated_at_is_the_oldest_of_the_locations(write):
    forecast = Traces(write(ISSUES)).forecast(["FR", "DE", "XX"], at(1))
    assert forecast.generated_at == at(0)
    assert forecast.intensity.locations == ("FR", "DE")
    assert forecast.missing == {"XX": "not in trace.csv"}


def test_what_a_forecast_cannot_say_is_explained(write):
    source = Traces(write(ISSUES))
    reasons = {
        at(-1): "the first issue is of 2026-03-01T00:00:00Z",
        at(5): "has no value after 2026-03-01T05:00:00Z",
    }
    for now, reason in reasons.items():
        with pytest.raises(ForecastUnavailableError) as error:
            source.forecast(["DE"], now)
        assert error.value.missing == {"DE": reason}
    with pytest.raises(ForecastUnavailableError, match="XX: not in"):
        source.forecast(["XX"], at(0))


def test_an_old_issue_will_do_unless_a_run_rests_on_it(write):
    path = write(ISSUES.replace("2026-03-01T06:00Z", "2026-03-05T06:00Z"))
    assert Traces(path).forecast(["FR"], at(40)).generated_at == at(0)
    assert open_source("traces", Settings.load({"traces": path})).forecast(["FR"], at(36)).generated_at == at(
        0
    )
    with pytest.raises(
        ForecastUnavailableError, match="FR: its newest forecast is 1 d 16 h old, more than 1 d 12 h"
    ):
        open_source("traces", Settings.load({"traces": path})).forecast(["FR"], at(40))


def test_a_file_without_issues_is_known_at_any_time_and_is_the_actuals_too(write):
    source = Traces(write(PLAIN))
    forecast = source.forecast(["DE", "FR"], at(0.5))
    assert forecast.generated_at == at(0.5)
    assert forecast.intensity.start == at(0)
    actual = source.actual(["DE", "FR", "XX"], at(0.5), at(2.25))
    assert (actual.start, actual.end, actual.locations) == (at(0.5), at(2.25), ("DE", "FR"))
    assert actual.to_frame()["DE"].tolist()[0] == 300
    with pytest.raises(ForecastUnavailableError, match="no value after"):
        source.forecast(["DE"], at(9))
    with pytest.raises(ForecastUnavailableError, match="no value from"):
        source.actual(["DE"], at(1.2), at(1.8))  # a gap


def test_only_a_file_that_is_forecast_and_actuals_in_one_is_certain(write):
    assert Traces(write(PLAIN)).is_certain
    assert not Traces(write(ISSUES, "issued.csv")).is_certain
    assert not Traces(write(PLAIN), actual=write(PLAIN, "actual.csv")).is_certain


def test_actuals_beside_issues_come_from_their_own_file(write):
    issues, actuals = write(ISSUES, "issues.csv"), write(PLAIN, "actuals.csv")
    with pytest.raises(ForecastUnavailableError, match=r"DE: issues\.csv holds forecasts only"):
        Traces(issues).actual(["DE"], at(0), at(1))
    assert Traces(issues, actual=actuals).actual(["DE"], at(0), at(1)).values.tolist() == [[300]]
    with pytest.raises(InputError, match="issued_at: what happened was not issued"):
        Traces(issues, actual=issues)


def test_a_table_of_several_issues_is_each_locations_newest(write):
    table = read_table(write(ISSUES))
    assert table.to_frame()["DE"][at(1)] == 21
    assert table.to_frame()["FR"][at(1)] == 50
    assert table.end == at(12)  # FR steps by six hours


def test_the_source_is_opened_by_name(write):
    source = open_source("traces", Settings.load({"traces": write(PLAIN)}))
    assert isinstance(source, Traces)
    assert source.locations == ("DE", "FR")
    assert source.signal == "unknown"
    marginal = Settings.load(
        run_config={"lowcarb-traces": str(source.path), "lowcarb-traces-signal": "marginal"}
    )
    assert open_source("traces", marginal).forecast(["DE"], at(0)).intensity.signal == "marginal"
    with pytest.raises(InputError, match="signal: 'averge' is unknown; did you mean average"):
        Traces(write(PLAIN), "averge")
    with pytest.raises(InputError, match="traces: is not set; set LOWCARB_TRACES or give --traces"):
        open_source("traces", Settings.load())


def test_pandas_is_not_needed_to_say_what_a_source_is():
    code = "import sys, lowcarb_scheduler.forecasts.base as s; print({'pandas', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
