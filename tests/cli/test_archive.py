"""``lowcarb archive``: what is kept, how it comes there, and what becomes of it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lowcarb_scheduler import clock as clocks
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.forecasts.sources.traces import Traces, read_points
from support import cli_files
from support.cli_files import opener, write_job
from support.forecast_sources import DAY, HOUR, NOW, Web

FEED = Feed("web", "average", "http://server")


class Remembering(Web):
    """A web source that keeps its past forecasts."""

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        self._begin(timeout, "past", locations, start, end)
        first = start + -(start - clocks.EPOCH) % every
        times = [first + k * every for k in range(-(-(end - first) // every))]
        return [Forecast(self._table(locations, at, at + DAY), at) for at in times]


@pytest.fixture
def web():
    return Remembering(places={"DE", "FR"})


@pytest.fixture
def sources(web):
    return {"web": web, "other": Remembering("other", places={"GB"}, value=7.0)}


@pytest.fixture
def lowcarb(capsys, sources):
    """Run a command that can open these sources, at a fixed time."""

    def run(*arguments):
        return cli_files.run(capsys, *arguments, clock=clocks.VirtualClock(NOW), open_source=opener(sources))

    return run


@pytest.fixture
def archive():
    return Archive(clock=clocks.VirtualClock(NOW))


@pytest.fixture
def archived(lowcarb):
    return partial(lowcarb, "archive")


# -- list --------------------------------------------------------------------------------------------------


def test_an_empty_archive_says_what_to_do(archived, archive):
    answer = archived("list")
    assert (answer.code, answer.err) == (0, "")
    assert str(archive.path) in answer.out
    assert "lowcarb archive fetch" in answer.out
    document = archived("list", "--json").document
    assert document == {
        "schema_version": 1, "path": str(archive.path), "size_bytes": 0, "keep_days": 60, "holdings": [],
    }  # fmt: skip
    assert not archive.path.parent.exists()


def test_what_there_is_is_listed_by_source_and_place(archived, archive, web):
    archive.put(FEED, web.forecast(["DE", "FR"], NOW - 5 * HOUR))
    archive.put(FEED, web.forecast(["DE"], NOW))
    archive.put_actual(FEED, web.actual(["DE"], NOW - 2 * DAY, NOW))
    answer = archived("list")
    *_, feed, header, de, fr = answer.out.splitlines()
    assert feed == "web, signal average, from http://server"
    utc = "(UTC)"
    titles = f"location forecasts first issue {utc} last issue {utc} history history ends {utc} size"
    assert header.split() == titles.split()
    now = ["2026-03-02", "00:00"]
    assert de.split() == ["DE", "2", "2026-03-01", "19:00", *now, "2.0", "d", *now, "0.00", "MB"]
    assert fr.split() == ["FR", "1", *["2026-03-01", "19:00"] * 2, "0.0", "d", "0.00", "MB"]
    first, second = archived("list", "--json").document["holdings"]
    assert {key: first[key] for key in ("source", "server", "signal", "location", "issues")} == {
        "source": "web", "server": "http://server", "signal": "average", "location": "DE", "issues": 2,
    }  # fmt: skip
    assert (first["first_issued"], first["actual_hours"]) == ("2026-03-01T19:00:00Z", 48.0)
    assert (second["actual_hours"], second["actual_from"], second["actual_until"]) == (0.0, None, None)


# -- fetch -------------------------------------------------------------------------------------------------


def test_the_past_is_fetched(archived, archive, web):
    answer = archived("fetch", "--source", "web", "--location", "DE", "--location", "FR", "--days", 14)
    assert (answer.code, answer.err) == (0, "")
    assert [line.split() for line in answer.out.splitlines()[-2:]] == [
        ["web", "DE", "14.0", "d", "56"], ["web", "FR", "14.0", "d", "56"],
    ]  # fmt: skip
    assert web.kinds == ["actual", "past", "past"] * 2
    (past, *_, last) = archive.past(FEED, ["DE"], NOW - 14 * DAY, NOW, 6 * HOUR)
    assert (past.generated_at, last.generated_at) == (NOW - 14 * DAY, NOW - 6 * HOUR)
    assert archive.actual(FEED, ["FR"], NOW - 14 * DAY, NOW)["FR"].spans_us() == [
        [clocks.to_us(NOW - 14 * DAY), clocks.to_us(NOW)]
    ]


def test_what_is_there_is_not_asked_for_again_and_places_need_no_naming(archived, web):
    archived("fetch", "--source", "web", "--location", "DE", "--days", 7)
    web.asked.clear()
    answer = archived("fetch", "--source", "web", "--days", 14)
    assert [line.split()[1] for line in answer.out.splitlines()[-1:]] == ["DE"]
    assert web.asked == [
        ("actual", ["DE"], NOW - 14 * DAY, NOW),
        ("past", ["DE"], NOW - 14 * DAY, NOW - 7 * DAY),
    ]


def test_what_does_not_come_is_said_and_the_rest_is_kept(archived, archive, web):
    arguments = ["fetch", "--source", "web", "--location", "DE", "--location", "Mars", "--days", 7]
    answer = archived(*arguments)
    assert answer.code == 1
    assert answer.line == "lowcarb: no data for Mars from web: it is unknown"
    assert [each.location for each in archive.holdings()] == ["DE"]
    document = archived(*arguments, "--json").document
    assert document["locations"] == [
        {"source": "web", "location": "DE", "actual_hours": 168.0, "past_forecasts": 28, "why": None},
        {
            "source": "web",
            "location": "Mars",
            "actual_hours": 0.0,
            "past_forecasts": 0,
            "why": "it is unknown",
        },
    ]
    web.down = "answered 503"
    answer = archived("fetch", "--source", "web", "--location", "DE", "--days", 14)
    assert answer.code == 0  # there is some already
    assert "answered 503" in answer.out


def test_a_source_that_keeps_no_past_forecasts_says_so(archived, sources):
    sources["web"] = Web()
    assert "not offered" in archived("fetch", "--source", "web", "--location", "DE").out
    document = archived("fetch", "--source", "web", "--location", "FR", "--json").document
    assert document["locations"][0]["past_forecasts"] is None


def test_each_source_is_asked_by_its_names_of_a_place(archived, archive, monkeypatch):
    Path("l.toml").write_text('[names.here]\nweb = "DE"\nother = "GB"', encoding="utf-8")
    monkeypatch.setenv("LOWCARB_LOCATIONS", str(Path("l.toml").absolute()))
    answer = archived("fetch", "--source", "web,other", "--location", "here", "--days", 7)
    assert answer.code == 0
    assert [(each.feed.source, each.location) for each in archive.holdings()] == [
        ("other", "GB"),
        ("web", "DE"),
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--source: no forecast source is named"),
        (["--source", "synthetic", "--location", "DE"], "--source: synthetic is not archived"),
        (["--source", "web"], "--location: is not given, and no location of web is archived"),
        (
            ["--source", "web", "--location", "DE", "--days", "61"],
            "--days: 61 is more than the archive keeps",
        ),
        (["--source", "web", "--location", "DE", "--days", "0"], "--days"),
        (["--source", "oracle", "--location", "DE"], "'oracle' is unknown"),
        (
            ["--source", "web", "--location", "DE", "--archive-dir", "none"],
            "archive-dir: is none: the archive is off",
        ),
        (["--source", "web", "--location", "DE", "--archive-dir", "file"], "cannot be used"),
    ],
)
def test_bad_input_is_exit_2(archived, web, arguments, part):
    Path("file").touch()
    answer = archived("fetch", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line
    assert web.asked == []


# -- export ------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(archive, web):
    for hour in (12, 6, 0):
        web.value = 100.0 + hour
        archive.put(FEED, web.forecast(["DE", "FR"], NOW - hour * HOUR))
    web.unknown_hours = {NOW - 3 * HOUR}
    archive.put_actual(FEED, web.actual(["DE", "FR"], NOW - DAY, NOW - HOUR / 4))
    return archive


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_exported_is_what_traces_read(archived, filled, suffix):
    forecasts, actuals = Path(f"forecasts{suffix}"), Path(f"actuals{suffix}")
    answer = archived("export", "--forecasts", forecasts, "--actuals", actuals)
    assert (answer.code, answer.err) == (0, "")
    rows = read_points(forecasts)
    assert answer.out.splitlines()[0] == f"forecasts: {len(rows)} rows of DE, FR in {forecasts}"
    traces = Traces(forecasts, actual=actuals)
    for place in ("DE", "FR"):
        past = traces.past_forecasts([place], NOW - DAY, NOW + DAY, HOUR)
        kept = filled.past(FEED, [place], NOW - DAY, NOW + DAY, HOUR)
        assert [issue.generated_at for issue in past] == [issue.generated_at for issue in kept]
        for one, other in zip(past, kept, strict=True):
            np.testing.assert_array_equal(one.intensity.values, other.intensity.values)
            np.testing.assert_array_equal(one.intensity.edges_us, other.intensity.edges_us)
    happened = traces.actual(["DE"], NOW - DAY, NOW)
    edges = happened.edges_us
    assert (happened.start, happened.end) == (NOW - DAY, NOW)
    gaps = edges[:-1][np.isnan(happened.values[:, 0])]
    assert gaps.tolist() == [clocks.to_us(NOW - 3 * HOUR), clocks.to_us(NOW - HOUR / 4)]


def test_one_place_is_exported_with_a_document(archived, filled):
    document = archived("export", "--actuals", "a.csv", "--location", "FR", "--json").document
    assert document == {
        "schema_version": 1, "actuals": {"path": "a.csv", "rows": 25, "locations": ["FR"]},
    }  # fmt: skip


def test_it_has_to_be_clear_which_numbers_are_meant(archived, filled, web):
    filled.put(Feed("other", "average", "http://b"), web.forecast(["DE"], NOW))
    answer = archived("export", "--forecasts", "f.csv")
    assert answer.code == 2
    assert answer.line.startswith("lowcarb: --source: the archive has data of several: other, web; name one")
    assert archived("export", "--forecasts", "f.csv", "--source", "web").code == 0
    assert archived("export", "--forecasts", "f.csv", "--location", "FR").code == 0
    web.places = None
    filled.put(Feed("third", "marginal", "http://c"), web.forecast(["GB"], NOW))
    answer = archived("export", "--forecasts", "f.csv", "--location", "FR", "--location", "GB")
    assert "--signal: the archive has data of several: average, marginal" in answer.line
    assert archived("export", "--forecasts", "f.csv", "--signal", "marginal").code == 0
    assert set(read_points(Path("f.csv"))["location"]) == {"GB"}
    filled.put(Feed("web", "average", "http://d"), web.forecast(["FR"], NOW))
    assert "--server" in archived("export", "--forecasts", "f.csv", "--location", "FR").line
    assert archived("export", "--forecasts", "f.csv", "--location", "FR", "--server", "http://d").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "--forecasts: no output file is given"),
        (["--forecasts", "f.xlsx"], 2, "--forecasts: f.xlsx is no trace file; end it in .csv or .parquet"),
        (["--forecasts", "no/f.csv"], 2, "--forecasts: no/f.csv cannot be written"),
        (["--actuals", "no/f.parquet"], 2, "--actuals: no/f.parquet cannot be written"),
        (["--forecasts", "f.csv", "--location", "Mars"], 1, "Mars: the archive has no data for it"),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(archived, filled, arguments, code, part):
    before = set(Path().iterdir())
    answer = archived("export", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert part in answer.line
    assert set(Path().iterdir()) == before


def test_an_empty_archive_has_nothing_to_export(archived):
    assert archived("export", "--forecasts", "f.csv").code == 1


# -- prune -------------------------------------------------------------------------------------------------


def test_prune_deletes_old_data(archived, filled):
    answer = archived("prune", "--days", 0, "--json")
    assert answer.code == 0
    document = answer.document
    assert (document["days"], document["issues"]) == (0, 4)
    assert document["actuals"] > 0
    assert [each.issues for each in filled.holdings()] == [1, 1]  # those of this moment
    answer = archived("prune")
    assert answer.out.startswith("deleted 0 forecasts and 0 actual values older than 60 days; ")


@pytest.mark.parametrize("days", [-1, 99_999_999_999])
def test_days_that_cannot_be_are_refused(archived, days):
    answer = archived("prune", "--days", days)
    assert answer.code == 2
    assert "is not in the range 0<=x<=3650" in answer.line


def test_nothing_is_made_to_be_pruned(archived, archive):
    assert archived("prune").code == 0
    assert not archive.path.exists()


# -- all of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["list"], ["export", "--forecasts", "f.csv"], ["prune"]])
def test_a_file_that_is_no_archive_is_one_line(archived, archive, command):
    archive.path.parent.mkdir(parents=True)
    archive.path.write_bytes(b"something else" * 100)
    answer = archived(*command)
    assert (answer.code, answer.out) == (2, "")
    assert str(archive.path) in answer.line
    document = archived(*command, "--json").document
    assert document["error"]["kind"] == "input"


def test_without_a_command_there_is_help(archived):
    answer = archived()
    assert answer.code == 0
    assert all(command in answer.out for command in ("list", "fetch", "export", "prune"))


# -- what plan makes of it ---------------------------------------------------------------------------------


def write(tmp_path):
    clients = [{"id": f"s{k}", "location": ("DE", "FR")[k % 2], "power_watts": 1000} for k in range(4)]
    return write_job(tmp_path, clients=clients, finish_by="72h")


@pytest.mark.parametrize("command", ["plan", "tradeoff"])
def test_a_plan_is_corrected_and_extended_by_what_is_kept(archived, lowcarb, tmp_path, command):
    job = write(tmp_path)
    answer = lowcarb(command, "--job", job, "--source", "web")
    assert answer.code == 0
    assert "28.0 days of history, 0 past forecasts" in answer.out  # asked for, and kept
    archived("fetch", "--source", "web", "--location", "DE", "--location", "FR", "--days", 7)
    answer = lowcarb(command, "--job", job, "--source", "web")
    assert (answer.code, answer.err) == (0, "")
    assert "28.0 days of history, 28 past forecasts" in answer.out
    assert "2026-03-05 00:00 UTC" in answer.out  # the forecast reaches one day, the deadline is three away
    assert re.search(r"; changes the forecast by [+-]\d+\.\d % on average; extends it by 2 d\b", answer.out)


def test_what_plan_rests_on_is_said_when_the_source_fails(archived, lowcarb, tmp_path, web):
    archived("fetch", "--source", "web", "--location", "DE", "--location", "FR", "--days", 7)
    web.issued_at = NOW - 2 * HOUR
    lowcarb("plan", "--job", write(tmp_path), "--source", "web")
    web.missing, web.issued_at = {"FR": "answered 404"}, None
    answer = lowcarb("plan", "--job", write(tmp_path), "--source", "web")
    assert answer.code == 0
    assert answer.line == "lowcarb: the forecast for FR is the last good one: answered 404"
    answer = lowcarb("plan", "--job", write(tmp_path), "--source", "web", "--json")
    assert json.loads(answer.out)["source"] == "web"


def test_history_stands_in_for_a_place_without_a_forecast(archived, lowcarb, tmp_path, web):
    archived("fetch", "--source", "web", "--location", "DE", "--location", "FR", "--days", 7)
    plain = web.forecast

    def forecast(locations, now):
        if locations == ["FR"]:
            raise ForecastUnavailableError({"FR": "answered 404"})
        known = plain(["DE"], now)
        return Forecast(known.intensity, now, {"FR": "answered 404"})

    web.forecast = forecast
    Archive().prune(timedelta(0))  # no issue stands in
    archived("fetch", "--source", "web", "--location", "DE", "--location", "FR", "--days", 20)
    answer = lowcarb("plan", "--job", write(tmp_path), "--source", "web")
    assert answer.code == 0
    assert "FR" in answer.err


def test_an_archive_that_cannot_be_used_stops_no_plan(lowcarb, tmp_path, archive):
    archive.path.parent.mkdir(parents=True)
    archive.path.write_bytes(b"something else" * 100)
    answer = lowcarb("plan", "--job", write(tmp_path), "--source", "web")
    assert answer.code == 0
    assert answer.line.startswith("lowcarb: archive: archive-dir: ")
