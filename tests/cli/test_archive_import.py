"""``lowcarb archive import``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import VirtualClock, parse_time
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.sources.traces import read_points
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from support import cli_files

HEADER = "Datetime (UTC),Zone id,Carbon intensity gCO₂eq/kWh (direct)"


@pytest.fixture
def portal(tmp_path):
    """Return a file of two hours in Germany, and one of the same in France."""
    files = []
    for zone, value in (("DE", 300), ("FR", 40)):
        path = tmp_path / f"{zone}.csv"
        rows = [f"2023-01-01 0{k}:00:00,{zone},{value + k}" for k in range(2)]
        path.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
        files.append(path)
    return files


@pytest.fixture
def britain(tmp_path):
    path = tmp_path / "gb.csv"
    header = "Datetime (UTC),Actual Carbon Intensity (gCO2/kWh),Forecast Carbon Intensity (gCO2/kWh),Index"
    path.write_text(f"{header}\n2026-03-01T00:00Z,60,62,low\n2026-03-01T00:30Z,61,62,low\n", encoding="utf-8")
    return path


def run(capsys, *arguments):
    return cli_files.run(capsys, *arguments, clock=VirtualClock(parse_time("2026-03-02T00:00Z", "now")))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_several_files_become_one_trace(capsys, tmp_path, portal, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    trace = tmp_path / f"actual.{suffix}"
    document = run(capsys, "archive", "import", *portal, "--to", trace, "--json").document
    assert document["path"] == str(trace)
    assert document["locations"][0] == {
        "location": "DE", "source": "electricity-maps", "signal": "average", "first": "2023-01-01T00:00:00Z",
        "last": "2023-01-01T02:00:00Z", "hours": 2.0,
    }  # fmt: skip
    rows = read_points(trace)
    assert rows["location"].tolist() == ["DE", "DE", "FR", "FR"]
    assert rows["g_per_kwh"].tolist() == [300.0, 301.0, 40.0, 41.0]


def test_people_read_a_row_a_place(capsys, tmp_path, portal):
    answer = run(capsys, "archive", "import", *portal, "--to", tmp_path / "actual.csv")
    assert answer.code == 0
    title, head, *rows = answer.out.splitlines()
    assert title == f"Stored in {tmp_path / 'actual.csv'}"
    assert head.split("  ")[0] == "location"
    assert [row.split()[0] for row in rows] == ["DE", "FR"]
    assert "2023-01-01 00:00" in rows[0]


def test_what_britain_did_is_history_of_its_source(capsys, tmp_path, britain):
    folder = tmp_path / "archive"
    assert run(capsys, "archive", "import", britain, "--archive-dir", folder).code == 0
    feed = Feed("uk-carbon-intensity", "average", UkCarbonIntensity().server)
    start = parse_time("2026-03-01T00:00Z", "start")
    found = Archive(folder).actual(feed, ["GB"], start, start + timedelta(hours=1))
    assert found["GB"].values.tolist() == [60.0, 61.0]


def test_what_the_archive_would_drop_at_once_is_refused(capsys, tmp_path, portal):
    answer = run(capsys, "archive", "import", *portal, "--archive-dir", tmp_path / "archive")
    assert answer.code == 2
    assert "--to: ends 2023-01-01, and the archive keeps 60 days; give --to FILE" in answer.line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["gone.csv"], "gone.csv: file: cannot be read"),
        (["DE.csv", "--factor", "dirct"], "--factor: 'dirct' is unknown; did you mean direct?"),
        (["DE.csv", "--factor", "lifecycle"], "has no column for lifecycle intensity"),
        (["DE.csv", "--to", "actual.txt"], "--to: actual.txt is no trace file"),
        (["DE.csv", "--signal", "x"], "signal: 'x' is unknown"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, portal, options, line):
    monkeypatch.chdir(tmp_path)
    answer = run(capsys, "archive", "import", *options)
    assert answer.code == 2
    assert line in answer.line


def test_signals_are_not_mixed(capsys, tmp_path, portal):
    trace = tmp_path / "marginal.csv"
    trace.write_text("location,time,g_per_kwh\nXX,2023-01-01T00:00Z,5\n", encoding="utf-8")
    answer = run(
        capsys, "archive", "import", *portal, trace, "--signal", "marginal", "--to", tmp_path / "a.csv"
    )
    assert answer.code == 2
    assert "signal: average does not mix with marginal" in answer.line
