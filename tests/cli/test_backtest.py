"""``lowcarb backtest``: the table, the document, the picture, and what it refuses."""

from __future__ import annotations

import csv
import re

import pytest

from lowcarb_scheduler.backtest import METHODS
from lowcarb_scheduler.clock import format_time
from support.backtest_world import BEGIN, DAY, trace_rows
from support.cli_files import run

SETTING = """
locations = ["DE", "FR", "GB"]
clients = 6
clients_per_round = 2
rounds = 6
round_duration_minutes = 60
"""
SCORE_KEYS = [
    "method", "emissions_g", "reduction", "reduction_se", "difference", "difference_se", "capture", "jain",
    "min_turns", "max_turns", "plan_seconds",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a setting and traces."""
    folder = tmp_path_factory.mktemp("traces")
    actual, forecast = trace_rows()
    write(folder / "actual.csv", actual)
    write(folder / "forecast.csv", forecast)
    (folder / "tiny.toml").write_text(SETTING, encoding="utf-8")
    return folder


def write(path, rows, **texts):
    """Write rows of a trace; ``texts`` replaces columns."""
    times = [name for name in rows.columns if name in ("time", "issued_at")]
    shown = rows.assign(**{name: [format_time(when) for when in rows[name]] for name in times}, **texts)
    shown.to_csv(path, index=False)
    return path


@pytest.fixture
def backtest(files, capsys):
    """Run it on the traces, in this process; an option given again replaces the first."""

    def run_backtest(*options):
        given = {
            "--actual": files / "actual.csv", "--forecast": files / "forecast.csv",
            "--scenario": files / "tiny.toml", "--seeds": 2, "--deadlines": "1,2", "--jobs": 1,
            "--methods": "scheduler,one-shot",
        }  # fmt: skip
        flags = [option for option in options if option in ("--json", "--full")]
        rest = [option for option in options if option not in flags]
        given.update(zip(rest[::2], rest[1::2], strict=True))
        words = [word for pair in given.items() if pair[1] is not None for word in pair]
        return run(capsys, "backtest", *words, *flags)

    return run_backtest


def test_the_document_says_what_was_replayed_and_what_it_came_to(backtest):
    document = backtest("--json", "--methods", "", "--signal", "average", "--delay", "2h").document
    assert document["schema_version"] == 1
    assert (document["source"], document["signal"], document["synthetic"]) == ("traces", "average", False)
    assert (document["actual"], document["forecast"]) == ("actual.csv", "forecast.csv")
    assert document["setting"] == {
        "name": "tiny", "locations": ["DE", "FR", "GB"], "clients": 6, "clients_per_round": 2, "rounds": 6,
        "round_duration_minutes": 60.0,
    }  # fmt: skip
    assert (document["from"], document["to"]) == ("2026-01-29T00:00:00Z", "2026-02-13T00:00:00Z")
    assert (document["seeds"], document["cadence_hours"], document["delay_hours"]) == (2, 6.0, 2.0)
    assert document["baseline"] == "run-now"
    assert [each["deadline"] for each in document["deadlines"]] == [1.0, 2.0]
    for each in document["deadlines"]:
        assert [score["method"] for score in each["methods"]] == list(METHODS)
        by_method = {score["method"]: score for score in each["methods"]}
        assert all(list(score) == SCORE_KEYS for score in each["methods"])
        assert by_method["bound"]["capture"] == 1.0
        assert by_method["scheduler"]["difference"] == 0.0
        assert by_method["run-now"]["reduction"] == 0.0
        assert by_method["bound"]["reduction"] == max(score["reduction"] for score in each["methods"])


def test_equal_input_gives_equal_answers(backtest):
    first, second = (re.sub(r'"plan_seconds": [^,}]*', "", backtest("--json").out) for _ in range(2))
    assert first == second


def test_people_read_a_sentence_a_deadline_first(backtest):
    answer = backtest("--signal", "average")
    assert answer.err == ""
    first, second, title, *facts, last = answer.out.splitlines()
    by_deadline = backtest("--json").document["deadlines"]
    (ours,) = (score for score in by_deadline[1]["methods"] if score["method"] == "scheduler")
    wide = 12.7062 * ours["reduction_se"]  # two starts: Student's t with one degree of freedom
    assert second == (
        f"2x the time: {100 * ours['reduction']:.0f} % +- {100 * wide:.0f} less CO2eq"
        " than random clients back-to-back (run-now)"
    )
    assert first.startswith("1x the time: ")
    assert title.startswith("tiny: 6 rounds")
    assert "95 % interval" in "".join(facts)
    assert "--full" in last
    assert "rolling" not in answer.out


def test_a_file_needs_no_scenario(backtest, tmp_path):
    document = backtest("--json", "--scenario", None, "--deadlines", "2", "--methods", "scheduler").document
    setting = document["setting"]
    assert (setting["name"], setting["locations"]) == ("own places", ["DE", "FR", "GB"])
    assert (setting["clients"], setting["clients_per_round"], setting["rounds"]) == (20, 5, 20)
    assert document["left_out"] == []


def test_places_with_gaps_are_left_out_and_short_files_replayed(backtest, tmp_path):
    actual, _ = trace_rows(days=9)
    hole = (actual["location"] == "FR") & (actual["time"] == BEGIN + 6 * DAY)
    actual.loc[hole, "g_per_kwh"] = float("nan")
    file = write(tmp_path / "short.csv", actual)
    answer = backtest("--actual", file, "--forecast", None, "--scenario", None, "--methods", "one-shot")
    assert answer.code == 0
    assert "FR: values are missing" in answer.out
    assert "2 locations" in answer.out


def test_all_missing_places_are_named_at_once(backtest):
    line = backtest("--scenario", "small").line
    assert "location: NL, ES, PL, IT, SE are missing in the actual" in line


def test_people_read_a_row_a_method_and_deadline(backtest):
    answer = backtest("--signal", "average", "--full")
    assert answer.err == ""
    *_, title, head = answer.out.splitlines()[:4]
    lines = answer.out.splitlines()[4:]
    assert title == "tiny: 6 rounds of 2 of 6, 3 locations; 2 starts by deadline"
    assert re.split(r"  +", head.strip()) == [
        "deadline", "method", "reduction (se), %", "against scheduler (se), points", "capture", "Jain",
        "turns", "plan CPU s",
    ]  # fmt: skip
    rows = [line.split() for line in lines if line.lstrip().startswith(("1x", "2x"))]
    assert [row[1] for row in rows] == ["run-now", "one-shot", "scheduler", "bound"] * 2
    document = backtest("--json").document
    for row, score in zip(rows, [s for d in document["deadlines"] for s in d["methods"]], strict=True):
        assert float(row[2]) == pytest.approx(100 * score["reduction"], abs=0.0051)
    facts = dict(line.split("  ", 1) for line in lines if "  " in line)
    assert "average grid intensity" in facts["intensity"]
    assert "a ratio of means" in facts["capture"]
    assert "2026-01-29 00:00 to 2026-02-13 00:00 UTC" in facts["period"]
    assert not any(line.endswith(" ") for line in answer.out.splitlines())


@pytest.mark.parametrize("kind", ["climatology", "persistence"])
def test_actuals_alone_are_enough(backtest, kind):
    document = backtest("--json", "--forecast", kind, "--deadlines", "2x").document
    assert document["forecast"] == f"{kind} of the past of the same file"
    (each,) = document["deadlines"]
    scores = {score["method"]: score for score in each["methods"]}
    assert 0 < scores["scheduler"]["reduction"] < scores["bound"]["reduction"]


def test_without_a_forecast_climatology_is_taken(backtest):
    assert backtest("--json", "--forecast", None).document["forecast"].startswith("climatology")


def test_it_is_drawn(backtest, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "backtest.svg"
    answer = backtest("--plot", picture, "--methods", "")
    assert answer.code == 0
    assert f"chart: {picture}" in answer.out
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_a_period_may_be_days_or_times(backtest):
    document = backtest("--json", "--from", "2026-02-01", "--to", "2026-02-05T12:00+02:00").document
    assert (document["from"], document["to"]) == ("2026-02-01T00:00:00Z", "2026-02-05T10:00:00Z")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--scenario", "mian"], "--scenario: 'mian' is unknown; did you mean main?"),
        (["--scenario", "main"], "location: NL, ES, PL, IT, SE, US-CAL-CISO"),
        (["--scenario", "gone.toml"], "--scenario: gone.toml cannot be read"),
        (["--methods", "scheduler,rollin"], "--methods: 'rollin' is unknown; did you mean rolling?"),
        (["--forecast", "climatologie"], "--forecast: 'climatologie' is unknown; did you mean climatology?"),
        (["--forecast", "gone.csv"], "--forecast: cannot be read"),
        (["--actual", "gone.csv"], "--actual: cannot be read"),
        (["--deadlines", "0.5"], "--deadlines: '0.5' is not a list of multiples"),
        (["--deadlines", "soon"], "--deadlines: 'soon' is not a list of multiples"),
        (["--deadlines", "nan"], "--deadlines: 'nan' is not a list of multiples"),
        (["--deadlines", "200"], "--to: from 2026-01-29T00:00:00Z there are 15 d, and a deadline of 200"),
        (["--from", "2025-12-01"], "--from: 2025-12-01T00:00:00Z is before anything was known"),
        (["--to", "2027-01-01"], "--to: 2027-01-01T00:00:00Z is after the last forecast ends"),
        (["--to", "2026-01-01"], "--to: from 2026-01-29T00:00:00Z there are 0 s"),
        (["--from", "yesterday"], "--from: 'yesterday' is not a time"),
        (["--replan-every", "90m"], "--replan-every: '90m' is not a number of whole hours"),
        (["--delay", "late"], "--delay: 'late' is not a duration"),
        (["--signal", "averge"], "signal: 'averge' is unknown; did you mean average?"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--plot", "picture.gif"], "--plot: picture.gif is not a chart file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_field(backtest, options, line):
    answer = backtest(*options)
    assert answer.code == 2
    assert line in answer.line
    assert answer.out == ""


def test_forecasts_have_to_say_when_they_were_made(backtest, files):
    answer = backtest("--forecast", files / "actual.csv")
    assert answer.code == 2
    assert "issued_at: is missing" in answer.line
    assert "climatology" in answer.line


def test_what_happened_was_not_issued(backtest, files):
    answer = backtest("--actual", files / "forecast.csv")
    assert answer.code == 2
    assert "issued_at: is a column of forecasts" in answer.line


def test_a_gap_in_what_is_charged_is_named(backtest, tmp_path):
    actual, _ = trace_rows()
    when = BEGIN + 35 * DAY
    actual.loc[(actual["location"] == "FR") & (actual["time"] == when), "g_per_kwh"] = float("nan")
    answer = backtest("--actual", write(tmp_path / "holes.csv", actual))
    assert answer.code == 2
    assert "g_per_kwh: FR has no value at 2026-02-05T00:00:00Z" in answer.line
    # Where no instance reaches, a gap may be.
    assert backtest("--actual", tmp_path / "holes.csv", "--from", "2026-02-06").code == 0


def test_a_place_that_is_meant_is_named(backtest, tmp_path):
    setting = tmp_path / "near.toml"
    setting.write_text(SETTING.replace('"GB"', '"GBR"'), encoding="utf-8")
    assert (
        "GBR is missing in the actual; did you mean GB instead of GBR?"
        in backtest("--scenario", setting).line
    )


@pytest.mark.parametrize(
    ("was", "becomes", "line"),
    [
        ("clients = 6", "clients = 1", "clients_per_round: 2 is more than the 1 clients"),
        ("clients = 6", "clients = 0", "clients: 0 is not a whole number"),
        ("clients = 6", "clients = true", "clients: True is not a whole number"),
        ("clients = 6", "client = 6", "client: 'client' is unknown; did you mean clients?"),
        ("clients = 6", "", "clients: is missing"),
        ("= 60", "= 90", "round_duration_minutes: 1:30:00 is not a whole number of hours"),
        ("_minutes = 60", ' = "90m"', "round_duration: 1:30:00 is not a whole number of hours"),
        ("_minutes = 60", " = 60", "round_duration: 60 is not a duration"),
        ("round_duration_minutes = 60", "", "round_duration: is missing"),
        ('["DE", "FR", "GB"]', '"DE"', "locations: is not a list of names"),
        ('["DE", "FR", "GB"]', '["DE", "DE"]', "locations: has a name twice"),
        ('["DE", "FR", "GB"]', "[]", "locations: is empty"),
        ('["DE", "FR", "GB"]', "[", "is not TOML"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(backtest, tmp_path, was, becomes, line):
    setting = tmp_path / "wrong.toml"
    setting.write_text(SETTING.replace(was, becomes), encoding="utf-8")
    answer = backtest("--scenario", setting)
    assert answer.code == 2
    assert line in answer.line
    assert "wrong.toml" in answer.line


def test_an_error_is_a_document_too(backtest):
    document = backtest("--json", "--scenario", "mian").document
    assert document["error"]["kind"] == "input"
    assert document["error"]["field"] == "--scenario"


def test_traces_may_be_parquet(backtest, files, tmp_path):
    pytest.importorskip("pyarrow")
    actual, forecast = trace_rows()
    actual.to_parquet(tmp_path / "actual.parquet")
    forecast.to_parquet(tmp_path / "forecast.parquet")
    same = backtest(
        "--json", "--actual", tmp_path / "actual.parquet", "--forecast", tmp_path / "forecast.parquet"
    )
    read = [s["reduction"] for each in same.document["deadlines"] for s in each["methods"]]
    plain = [s["reduction"] for each in backtest("--json").document["deadlines"] for s in each["methods"]]
    assert read == pytest.approx(plain)


def test_the_traces_of_this_test_are_what_people_have(files):
    with (files / "forecast.csv").open(encoding="utf-8") as stream:
        assert set(next(csv.reader(stream))) == {"location", "time", "g_per_kwh", "issued_at"}
