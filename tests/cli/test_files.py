from __future__ import annotations

import os
import re
import time
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from lowcarb_scheduler.cli.files import read_job
from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import InputError
from support.cli_files import HEADER, clients, job, run, write_forecast, write_job

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TOML = """
now = 2026-03-02T13:00:00+01:00
finish_by = "36h"
rounds = 3
clients_per_round = 2
round_duration_minutes = 30
start_step_minutes = 15
patience = 0.5
participation = [0, 3]
stagger = true
max_location_share = 0.5

[[clients]]
id = "b"
location = "FR"
power_watts = 450.5
duration_minutes = 20
turns_done = 2

[[clients]]
id = 7
location = "DE"
"""


@pytest.fixture
def read(tmp_path):
    def read_text(text, name="job.toml", clock=NOON):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_job(path, VirtualClock(clock)).job

    return read_text


@pytest.fixture
def fleet(tmp_path):
    def read_fleet(text):
        (tmp_path / "sites").mkdir(exist_ok=True)
        (tmp_path / "sites" / "fleet.csv").write_text(text, encoding="utf-8")
        path = write_job(tmp_path, clients=None, fleet="sites/fleet.csv")
        return read_job(path, VirtualClock(NOON)).job.fleet

    return read_fleet


def test_toml_with_every_key(read):
    read_job = read(TOML)
    assert read_job.now == NOON
    assert read_job.finish_by == NOON + timedelta(hours=36)
    assert (read_job.rounds, read_job.clients_per_round, read_job.patience) == (3, 2, 0.5)
    assert (read_job.round_duration, read_job.start_step) == (timedelta(minutes=30), timedelta(minutes=15))
    assert (read_job.participation, read_job.stagger, read_job.max_location_share) == ((0, 3), True, 0.5)
    fleet = read_job.fleet
    assert list(fleet.ids) == ["7", "b"]
    assert [fleet.locations[k] for k in fleet.location_index] == ["DE", "FR"]
    np.testing.assert_array_equal(fleet.power_watts, [300, 450.5])
    np.testing.assert_array_equal(fleet.power_assumed, [True, False])
    np.testing.assert_array_equal(fleet.durations_us, [0, 20 * 60 * 1_000_000])
    np.testing.assert_array_equal(fleet.turns_done, [0, 2])


def test_durations_with_a_unit_read_like_minutes(read):
    text = re.sub(r"(\w*(?:duration|step))_minutes = (\d+)", r'\1 = "\2m"', TOML)
    assert "_minutes" not in text
    job, same = read(text), read(TOML)
    assert (job.round_duration, job.start_step) == (same.round_duration, same.start_step)
    np.testing.assert_array_equal(job.fleet.durations_us, same.fleet.durations_us)


def test_a_toml_time_is_as_good_as_text(read):
    text = TOML.replace('"36h"', "2026-03-04T00:00:00Z")
    assert read(text).finish_by == read(TOML).finish_by


def test_without_now_it_is_the_next_minute_of_the_clock(read):
    text = TOML.replace("now = 2026-03-02T13:00:00+01:00", "")
    assert read(text).now == NOON
    late = read(text, clock=NOON + timedelta(seconds=1))
    assert late.now == NOON + timedelta(minutes=1)
    assert late.finish_by == late.now + timedelta(hours=36)


def test_the_round_lasts_as_long_as_the_longest_client_where_it_is_not_given(read):
    text = TOML.replace("round_duration_minutes = 30", "")
    assert read(text).round_duration == timedelta(minutes=20)


def test_json_is_known_by_its_name_or_its_beginning(read, tmp_path):
    text = write_job(tmp_path).read_text(encoding="utf-8")
    assert read(text, "job.json").rounds == read("\ufeff" + text, "job").rounds == job()["rounds"]


def test_null_is_not_given(read):
    text = """{"finish_by": "9h", "rounds": 1, "clients_per_round": 1, "round_duration_minutes": 5,
        "patience": null, "clients": [{"id": "a", "location": "DE", "power_watts": null}]}"""
    assert bool(read(text).fleet.power_assumed[0])


def test_a_fleet_file_beside_the_job(fleet):
    read = fleet("location,id,power_watts,turns_done,duration\nFR, b,450.5,,\nDE,a,,3,30m\n")
    assert list(read.ids) == ["a", "b"]
    np.testing.assert_array_equal(read.power_watts, [300, 450.5])
    np.testing.assert_array_equal(read.power_assumed, [True, False])
    np.testing.assert_array_equal(read.turns_done, [3, 0])
    np.testing.assert_array_equal(read.durations_us, [30 * 60 * 1_000_000, 0])


@pytest.mark.parametrize(
    ("text", "field", "part"),
    [
        ("", "fleet", "is not readable CSV"),
        ("id,location\n", "clients", "the fleet is empty"),
        ("id\na\n", "location", "the column is missing"),
        ("id,location,power\na,DE,1\n", "power", "did you mean power_watts?"),
        ("id,location\na,DE\nb,\n", "row 2, location", "is empty"),
        ("id,location\na,DE\na,FR\n", "row 2, id", "'a' stands twice"),
        ("id,location,power_watts\na,DE,1\nb,FR,nan\n", "row 2, power_watts", "'nan' is not a number"),
        ("id,location,power_watts\na,DE,inf\n", "row 1, power_watts", "'inf' is not a number"),
        ("id,location,power_watts\na,DE,3 kW\n", "row 1, power_watts", "'3 kW' is not a number"),
        ("id,location,power_watts\na,DE,-5\n", "row 1, power_watts", "-5 is negative"),
        ("id,location,duration_minutes\na,DE,61\n", "row 1, duration_minutes", "longer than the round"),
        ("id,location,duration\na,DE,30m\nb,DE,20\n", "row 2, duration", "'20' is not a duration"),
        ("id,location,duration\na,DE,2h\n", "row 1, duration", "longer than the round"),
        ("id,location,turns_done\na,DE,1.5\n", "row 1, turns_done", "is not whole"),
        ("id,location\na,DE,5\n", "fleet", "is not readable CSV"),
        ('id,location\n"a,DE\n', "fleet", "is not readable CSV"),
        ("id,id,location\na,a,DE\n", "id.1", "is unknown"),
    ],
)
def test_a_bad_fleet_file_names_file_row_and_column(fleet, text, field, part):
    with pytest.raises(InputError) as caught:
        fleet(text)
    assert caught.value.file.endswith("fleet.csv")
    assert caught.value.field == field
    assert part in str(caught.value)


def test_a_hundred_thousand_clients_are_read_as_columns(fleet):
    rows = "\n".join(f"c{k},DE,{k % 9},30" for k in range(100_000))
    read = fleet(f"id,location,power_watts,duration_minutes\n{rows}\n")
    assert len(read) == 100_000


def test_rounds_may_be_mixed(read):
    assert read(TOML).mix_rounds is None
    assert read(TOML.replace("participation = [0, 3]", "mix_rounds = 2")).mix_rounds == 2


# -- Absurd files ------------------------------------------------------------------------------------------


def plan(capsys, folder, rows=None, header=HEADER, **changes):
    forecast = write_forecast(folder, rows, header)
    return run(capsys, "plan", "--job", write_job(folder, **changes), "--forecast", forecast)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"finish_by": "9999-12-31T23:59:59-12:00"},
            "finish_by: '9999-12-31T23:59:59-12:00' is out of range",
        ),
        (
            {"finish_by": "9999-12-31T23:00Z"},
            "finish_by: 9999-12-31T23:00:00Z is not of the years 1970 to 2200",
        ),
        ({"finish_by": "900000d"}, "finish_by: is too long"),
        ({"now": "0100-01-01T00:00Z"}, "now: 0100-01-01T00:00:00Z is not of the years 1970 to 2200"),
        ({"clients": clients(id="\ud800")}, r"clients[3].id: '\ud800' holds half of a surrogate pair"),
        (
            {"clients": clients(location="a\udfff")},
            r"clients[3].location: 'a\udfff' holds half of a surrogate",
        ),
    ],
)
def test_a_job_that_no_machine_can_plan_is_refused(capsys, tmp_path, changes, problem):
    answer = plan(capsys, tmp_path, **changes)
    assert answer.code == 2
    assert problem in answer.line


def test_a_time_of_toml_that_leads_out_of_all_years_is_refused(capsys, tmp_path):
    path = tmp_path / "job.toml"
    path.write_text("finish_by = 9999-12-31T23:59:59-12:00\nrounds = 1\nclients_per_round = 1\n", "utf-8")
    answer = run(capsys, "plan", "--job", path)
    assert (answer.code, "finish_by: '9999-12-31T23:59:59-12:00' is out of range" in answer.line) == (2, True)


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        (["DE,9999-12-31T23:00Z,1"], HEADER, "time: row 1: 9999-12-31T23:00:00Z is not of the years"),
        (["DE,0100-01-01T00:00Z,1", "DE,9000-01-01T00:00Z,2"], HEADER, "row 1: 0100-01-01T00:00:00Z is not"),
        (["DE,2026-03-02T00:00Z,1e308"], HEADER, "g_per_kwh: row 1: 1e+308 is no intensity in any unit"),
        (["1,2"], ",".join(["location"] * 100_000), "it has more than 1000 columns"),
    ],
)
def test_a_trace_that_no_machine_can_hold_is_refused_at_once(capsys, tmp_path, rows, header, problem):
    began = time.process_time()
    answer = plan(capsys, tmp_path, rows, header)
    assert answer.code == 2
    assert problem in answer.line
    assert time.process_time() - began < 5


def test_rows_a_microsecond_apart_make_no_more_openings_than_minutes(capsys, tmp_path):
    fine = [f"{place},2026-03-02T00:00:00.{k:06d}Z,{k % 7}" for place in ("DE", "FR") for k in range(2000)]
    rows = [*fine, "DE,2026-03-04T00:00Z,1", "FR,2026-03-04T00:00Z,1"]
    tracemalloc.start()
    try:
        assert plan(capsys, tmp_path, rows).code == 0
        history = write_forecast(tmp_path, rows).rename(tmp_path / "history.csv")
        forecast, job = write_forecast(tmp_path), write_job(tmp_path)
        assert run(capsys, "plan", "--job", job, "--forecast", forecast, "--history", history).code == 0
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("option", ["--job", "--forecast", "--history"])
def test_a_pipe_is_refused_and_not_waited_for(capsys, tmp_path, option):
    given = {"--job": write_job(tmp_path), "--forecast": write_forecast(tmp_path),
             "--history": write_forecast(tmp_path)}  # fmt: skip
    given[option] = tmp_path / "pipe.csv"
    os.mkfifo(given[option])
    answer = run(capsys, "plan", *(part for pair in given.items() for part in pair))
    assert answer.code == 2
    assert "it is no regular file" in answer.line


@pytest.mark.parametrize("count", [2**70, 10**400])
@pytest.mark.parametrize("field", ["rounds", "clients_per_round"])
def test_a_number_that_nobody_can_count_to_is_refused(capsys, tmp_path, field, count):
    answer = plan(capsys, tmp_path, **{field: count})
    assert answer.code == 2
    assert f"{field}: is more than 1,000,000,000" in answer.line


def test_rounds_of_centuries_are_refused(capsys, tmp_path):
    history = write_forecast(tmp_path).rename(tmp_path / "history.csv")
    given = ["--job", write_job(tmp_path, rounds=10**9, round_duration_minutes=5_000_000)]
    answer = run(capsys, "plan", *given, "--forecast", write_forecast(tmp_path), "--history", history)
    assert answer.code == 2
    assert "rounds: 1,000,000,000 of 3472 d 5 h take over 200 years" in answer.line


def test_an_argument_that_no_shell_passes_is_a_usage_error(capsys):
    assert run(capsys, "archive", "import", "a\0b").line == "lowcarb: An argument contains a NUL character"
    answer = run(capsys, "archive", "import", "a\ud800b")
    assert (answer.code, answer.line) == (2, "lowcarb: An argument contains half of a surrogate pair")
