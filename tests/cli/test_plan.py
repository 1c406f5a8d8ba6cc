from __future__ import annotations

import json
from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import VirtualClock
from support.cli_files import NOW, clients, forecast_rows, job, run, write_forecast, write_job

KEYS = {
    "schema_version", "source", "signal", "synthetic", "forecast_until", "emissions_g", "lower_bound_g",
    "gap", "run_now_emissions_g", "saving", "finish", "power_assumed", "jain", "min_turns", "max_turns",
    "rounds",
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, capsys):
    """Run ``lowcarb plan`` on a job with changes and a forecast of two days."""

    def run_plan(*options, **changes):
        files = ["--job", write_job(tmp_path, **changes), "--forecast", write_forecast(tmp_path)]
        return run(capsys, "plan", *files, *options)

    return run_plan


# -- answers ---------------------------------------------------------------------------------------------


def test_the_document_has_the_keys_of_the_contract(plan):
    document = plan("--json").document
    assert set(document) == KEYS
    assert document["schema_version"] == 1
    (first, *_), rounds = document["rounds"], document["rounds"]
    assert [r["round"] for r in rounds] == [1, 2, 3, 4]
    assert set(first) == {"round", "opens_at", "closes_at", "emissions_g", "clients"}
    assert set(first["clients"][0]) == {"id", "location", "starts_at", "ends_at", "emissions_g"}
    assert (document["source"], document["signal"], document["synthetic"]) == ("traces", "unknown", False)
    assert document["forecast_until"] == "2026-03-04T00:00:00Z"
    assert document["power_assumed"] is False


def test_the_plan_waits_for_the_day(plan):
    document = plan("--json").document
    assert document["emissions_g"] == pytest.approx(4 * (300 + 40))
    assert document["run_now_emissions_g"] == pytest.approx(4 * (500 + 60))
    assert document["rounds"][0]["opens_at"] == "2026-03-02T08:00:00Z"


def test_equal_input_gives_equal_bytes(plan):
    assert plan("--json").out == plan("--json").out
    assert plan().out == plan().out


def test_people_read_facts_and_a_row_a_round(plan):
    lines = plan().out.splitlines()
    facts = dict(line.split("  ", 1) for line in lines[1:11])
    assert facts["emissions"].strip() == "1.36 kg CO2eq expected"
    assert facts["saving"].strip() == "39.3 %"
    assert facts["turns"].strip() == "2 to 2 per client, Jain's index 1.000"
    assert facts["intensity"].strip() == ("data from traces; average or marginal: not stated by the source")
    rows = [line.split() for line in lines[12:-1]]
    assert [row[:5] for row in rows] == [
        [str(k), "2026-03-02", f"{k + 7:02}:00", "2026-03-02", f"{k + 8:02}:00"] for k in (1, 2, 3, 4)
    ]
    seated = {"DE 1, FR 1 340 g", "DE 2 600 g", "FR 2 80.0 g"}
    assert all(" ".join(row[5:]) in seated for row in rows)
    assert not any(line.endswith(" ") for line in lines)


def test_the_next_command_reads_the_same_inputs(plan, tmp_path):
    files = f"--job {tmp_path}/job.json --forecast {tmp_path}/forecast.csv"
    assert plan().out.splitlines()[-1] == f"next: lowcarb tradeoff {files}"
    assert plan("--patience", "0.5").out.splitlines()[-1] == "next: lowcarb doctor"


def test_patience_of_the_option_comes_before_that_of_the_job(plan):
    at_once = plan("--json", "--patience", "0", patience=1.0).document
    assert at_once["finish"] == "2026-03-02T04:00:00Z"
    assert plan("--json", patience=0).document == at_once


def test_names_from_outside_are_never_markup(plan):
    lie = "[red]<script>\n=cmd\x1b[31m"
    answer = plan(clients=[{"id": lie, "location": "DE"}, *clients()], rounds=1, clients_per_round=5)
    assert answer.code == 0
    assert plan("--json", clients=clients(id=lie)).code == 0
    answer = plan(clients=clients(location=lie))
    assert "[red]<script>\\n=cmd\\x1b[31m" in answer.line


def test_a_plan_is_drawn(plan, tmp_path):
    assert plan("--plot", tmp_path / "plan.png").code == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_history_extends_the_forecast_past_its_end(tmp_path, capsys):
    job_file = write_job(tmp_path, now="2026-03-07T00:00:00Z", finish_by="2026-03-07T20:00:00Z")
    history = write_forecast(tmp_path, forecast_rows(hours=120)).rename(tmp_path / "history.csv")
    short = [row.replace("2026-03-02", "2026-03-07") for row in forecast_rows(hours=6)]
    files = ["--job", job_file, "--forecast", write_forecast(tmp_path, short)]
    alone = run(capsys, "plan", *files, "--json").document
    extended = run(capsys, "plan", *files, "--history", history, "--json").document
    assert alone["forecast_until"] == "2026-03-07T06:00:00Z"
    assert extended["forecast_until"] == "2026-03-07T20:00:00Z"
    assert extended["rounds"][0]["opens_at"] >= "2026-03-07T08"
    drawn = run(capsys, "plan", *files, "--history", history, "--plot", tmp_path / "plan.svg")
    assert drawn.code == 0


def test_history_stands_in_for_a_location_without_a_forecast(tmp_path, capsys):
    job_file = write_job(tmp_path, now="2026-03-07T00:00:00Z", finish_by="2026-03-07T20:00:00Z")
    history = write_forecast(tmp_path, forecast_rows(hours=120)).rename(tmp_path / "history.csv")
    only_de = [row.replace("2026-03-02", "2026-03-07") for row in forecast_rows(hours=24)[:24]]
    files = ["--job", job_file, "--forecast", write_forecast(tmp_path, only_de)]
    assert run(capsys, "plan", *files).code == 2
    document = run(capsys, "plan", *files, "--history", history, "--json").document
    assert document["emissions_g"] == pytest.approx(4 * (300 + 40))


def test_of_several_issues_the_newest_before_now_counts(tmp_path, capsys):
    header = "location,time,g_per_kwh,issued_at"
    old, new, later = (f"2026-03-{day}T00:00:00Z" for day in ("01", "02", "03"))
    rows = forecast_rows(issued_at=new)
    rows += [row.replace(",40,", ",1,") for row in forecast_rows(issued_at=old)]
    rows += [row.replace(",60,", ",2,") for row in forecast_rows(issued_at=later)]
    files = ["--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path, rows, header)]
    assert run(capsys, "plan", *files, "--json").document["emissions_g"] == pytest.approx(4 * 340)


def test_a_source_stands_in_for_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOWCARB_SOURCE", "synthetic")
    document = run(capsys, "plan", "--job", write_job(tmp_path), "--json").document
    assert (document["source"], document["synthetic"]) == ("synthetic", True)
    assert run(capsys, "plan", "--job", write_job(tmp_path), "--json").document == document


# -- the answer is no ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"clients_per_round": 5}, "needed 5"),
        ({"finish_by": "2026-03-01T00:00:00Z"}, "needed"),
        ({"finish_by": "3h"}, "needed 2026-03-02T04"),
        ({"rounds": 49, "finish_by": "5d"}, "needed 49"),
        ({"participation": [3, 4]}, "needed"),
        ({"rounds": 10**6}, "needed"),
    ],
)
def test_no_plan_is_exit_1_and_says_what_is_needed(plan, changes, needed):
    answer = plan(**changes)
    assert (answer.code, answer.out) == (1, "")
    assert needed in answer.line
    assert "available" in answer.line
    error = plan("--json", **changes).document["error"]
    assert error["kind"] == "plan_infeasible"
    assert {"message", "reason", "needed", "available", "finish_by"} <= set(error)


def test_no_window_without_a_gap_is_exit_1(tmp_path, capsys):
    rows = [row if row.startswith("DE") else row.rpartition(",")[0] + "," for row in forecast_rows()]
    kept = [row for row in rows if row.startswith("DE")] + rows[48:]
    files = ["--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path, kept)]
    assert run(capsys, "plan", *files).code == 1


def test_without_now_the_plan_starts_at_the_clock(tmp_path, capsys):
    files = ["--job", write_job(tmp_path, now=None), "--forecast", write_forecast(tmp_path), "--json"]
    late = VirtualClock(NOW + timedelta(hours=12))
    document = run(capsys, "plan", *files, "--patience", 0, clock=late).document
    assert document["rounds"][0]["opens_at"] == "2026-03-02T12:00:00Z"


def test_a_forecast_that_is_over_says_so_and_names_now(tmp_path, capsys):
    files = ["--job", write_job(tmp_path, now=None), "--forecast", write_forecast(tmp_path)]
    answer = run(capsys, "plan", *files, "--json", clock=VirtualClock(NOW + timedelta(days=9)))
    assert answer.code == 1
    assert answer.document["error"]["kind"] == "forecast_unavailable"
    assert set(answer.document["error"]["missing"]) == {"DE", "FR"}
    assert "set now in the job" in answer.document["error"]["message"]


# -- bad input -------------------------------------------------------------------------------------------

BAD_JOBS = [
    ({"finish_by": None}, "finish_by", "is missing"),
    ({"rounds": None}, "rounds", "is missing"),
    ({"clients_per_round": None}, "clients_per_round", "is missing"),
    ({"clients": None}, "clients", "is missing, and so is fleet"),
    ({"fleet": "fleet.csv"}, "clients", "stands beside fleet"),
    ({"round_duration_minutes": None}, "round_duration", "is not given"),
    ({"round_duration": "60m"}, "round_duration_minutes", "is given beside round_duration"),
    ({"round_duration": 60, "round_duration_minutes": None}, "round_duration", "60 is not a duration"),
    ({"start_step": "-5m"}, "start_step", "is not a duration"),
    ({"finish_bye": "48h"}, "finish_bye", "did you mean finish_by?"),
    ({"finish_by": "2026-03-03T00:00:00"}, "finish_by", "has no UTC offset"),
    ({"now": "2026-03-02T00:00:00"}, "now", "has no UTC offset"),
    ({"now": 5}, "now", "is not a time"),
    ({"finish_by": 48}, "finish_by", "neither a time nor a duration"),
    ({"finish_by": "soon"}, "finish_by", "is not a duration"),
    ({"finish_by": "999999999d"}, "finish_by", "is too long"),
    ({"rounds": 0}, "rounds", "is not a whole number"),
    ({"rounds": 2.5}, "rounds", "is not a whole number"),
    ({"rounds": True}, "rounds", "is not a whole number"),
    ({"clients_per_round": float("nan")}, "clients_per_round", "is not a whole number"),
    ({"round_duration_minutes": -5}, "round_duration_minutes", "is not a number of minutes"),
    ({"round_duration_minutes": float("nan")}, "round_duration_minutes", "is not a number of minutes"),
    ({"start_step_minutes": float("inf")}, "start_step_minutes", "is not a number of minutes"),
    ({"patience": 1.5}, "patience", "1.5 is not"),
    ({"patience": float("nan")}, "patience", "nan is not"),
    ({"participation": "some"}, "participation", "is not understood"),
    ({"participation": [2, 1]}, "participation", "is not understood"),
    ({"stagger": "yes"}, "stagger", "is neither true nor false"),
    ({"max_location_share": 0}, "max_location_share", "is not above 0"),
    ({"fleet": 3, "clients": None}, "fleet", "is no path"),
    ({"fleet": "none.csv", "clients": None}, "fleet", "none.csv cannot be read"),
    ({"clients": {}}, "clients", "is not a list"),
    ({"clients": []}, "clients", "the fleet is empty"),
    ({"clients": ["a"]}, "clients[0]", "is not a table"),
    ({"clients": clients(id=None)}, "clients[3].id", "is empty or missing"),
    ({"clients": clients(id="")}, "clients[3].id", "is empty or missing"),
    ({"clients": clients(id="site-0")}, "clients[3].id", "stands twice"),
    ({"clients": clients(id=True)}, "clients[3].id", "is not a name"),
    ({"clients": clients(location=["DE"])}, "clients[3].location", "is not a name"),
    ({"clients": clients(location=None)}, "clients[3].location", "is empty or missing"),
    ({"clients": clients(location="XX")}, "clients[3].location", "'XX' is unknown; there are DE, FR"),
    ({"clients": clients(power_watts=-1)}, "clients[3].power_watts", "-1 is negative"),
    ({"clients": clients(power_watts=float("nan"))}, "clients[3].power_watts", "nan is not a number"),
    ({"clients": clients(power_watts="300")}, "clients[3].power_watts", "'300' is not a number"),
    ({"clients": clients(power_watts=True)}, "clients[3].power_watts", "True is not a number"),
    ({"clients": clients(power_watts=1e12)}, "clients[3].power_watts", "is more than"),
    ({"clients": clients(power_watts=10**400)}, "clients[3].power_watts", "is not a number"),
    ({"clients": clients(duration_minutes=0)}, "clients[3].duration_minutes", "is not positive"),
    ({"clients": clients(duration_minutes=61)}, "clients[3].duration_minutes", "longer than the round"),
    ({"clients": clients(duration="61m")}, "clients[3].duration", "longer than the round"),
    ({"clients": clients(duration=20)}, "clients[3].duration", "20 is not a duration"),
    ({"clients": clients(duration="20m", duration_minutes=20)}, "clients[3].duration_minutes", "beside"),
    ({"clients": clients(turns_done=0.5)}, "clients[3].turns_done", "is not whole"),
    ({"clients": clients(turns_done=-1)}, "clients[3].turns_done", "is negative"),
    ({"clients": clients(power_wats=5)}, "clients[3].power_wats", "did you mean power_watts?"),
]


@pytest.mark.parametrize(("changes", "field", "part"), BAD_JOBS)
def test_a_bad_job_is_exit_2_with_file_field_and_fix(plan, tmp_path, changes, field, part):
    answer = plan(**changes)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line
    assert f"{tmp_path / 'job.json'}: {field}: " in answer.line or part.endswith("cannot be read")
    error = plan("--json", **changes).document["error"]
    assert (error["kind"], error["field"]) == ("input", field)
    assert error["fix"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "finish_by: is missing"),
        ("rounds =", "is not TOML"),
        ("{", "is not JSON"),
        ('{"rounds": 1, "rounds": 2}', "the key 'rounds' stands twice"),
        ("finish_by = 2026-03-03\nrounds = 1\nclients_per_round = 1", "finish_by: 2026-03-03 is neither"),
        (
            "finish_by = 2026-03-03T00:00:00\nrounds = 1\nclients_per_round = 1",
            "finish_by: 2026-03-03T00:00:00 has no",
        ),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("[" * 100_000, "is not TOML"),
    ],
)
def test_a_job_that_cannot_be_read_is_exit_2(tmp_path, capsys, text, part):
    path = tmp_path / "job"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = run(capsys, "plan", "--job", path)
    assert answer.code == 2
    assert part in answer.line


@pytest.mark.parametrize("path", ["none.toml", "."])
def test_a_job_that_is_not_there_is_exit_2(capsys, path):
    answer = run(capsys, "plan", "--job", path)
    assert answer.code == 2
    assert f"--job: {path} cannot be read" in answer.line


@pytest.mark.parametrize(
    ("header", "row", "part"),
    [
        ("location,time,g", "DE,2026-03-02T00:00Z,1", "g_per_kwh"),
        ("location,time,g_per_kwh", "DE,2026-03-02T00:00,1", "has no UTC offset"),
        ("location,time,g_per_kwh", "DE,2026-03-02T00:00Z,nan", "is not a number"),
        ("location,time,g_per_kwh", "DE,2026-03-02T00:00Z,inf", "infinite"),
    ],
)
def test_a_bad_forecast_is_exit_2(tmp_path, capsys, header, row, part):
    path = write_forecast(tmp_path, [row], header)
    answer = run(capsys, "plan", "--job", write_job(tmp_path), "--forecast", path)
    assert answer.code == 2
    assert str(path) in answer.line
    assert part in answer.line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--patience", "1.5"], "--patience: 1.5 is not from 0 to 1"),
        (["--patience", "nan"], "--patience: nan is not from 0 to 1"),
        (["--plot", "plan.txt"], "--plot: plan.txt is not a chart file"),
        (["--plot", "none/plan.png"], "--plot: none/plan.png cannot be written"),
        (["--forecast", "none.csv"], "none.csv: --forecast: cannot be read"),
        (["--forecast", "f.xls"], "f.xls: --forecast: .xls is no known format"),
    ],
)
def test_a_bad_option_is_exit_2(plan, options, part):
    answer = plan(*options)
    assert answer.code == 2
    assert part in answer.line


def test_history_needs_a_forecast(tmp_path, capsys):
    answer = run(capsys, "plan", "--job", write_job(tmp_path), "--history", "h.csv")
    assert (answer.code, "--history" in answer.line) == (2, True)


def test_without_a_forecast_a_source_has_to_be_named(tmp_path, capsys):
    answer = run(capsys, "plan", "--job", write_job(tmp_path))
    assert answer.code == 2
    assert "--source: no forecast source is named; give --source or set LOWCARB_SOURCE" in answer.line


def test_an_unknown_place_of_a_source_names_the_job(tmp_path, capsys):
    path = write_job(tmp_path, clients=clients(location="Mars"))
    answer = run(capsys, "plan", "--job", path, "--source", "synthetic")
    assert answer.code == 2
    assert answer.line.startswith(f"lowcarb: {path}: location: 'Mars' is unknown")


def test_a_source_whose_forecast_is_short_plans_the_rounds_that_it_covers(tmp_path, capsys):
    rows = [row for row in forecast_rows() if row.split(",")[1] < "2026-03-02T03"]
    short = write_forecast(tmp_path, rows)
    given = ["--job", write_job(tmp_path), "--source", "traces", "--traces", short]
    answer = run(capsys, "plan", *given, "--json")
    assert answer.code == 0
    assert answer.document["forecast_origin"] == {"forecast": 0.75, "default": 0.25}
    assert "the forecast ends 2026-03-02T03:00:00Z; later rounds are planned with each" in answer.err
    # A file is taken as it is, and only where it reaches.
    assert run(capsys, "plan", "--job", write_job(tmp_path), "--forecast", short).code == 1


def test_an_implausible_value_of_a_source_counts_as_unknown(tmp_path, capsys):
    rows = forecast_rows()
    rows[0] = ",".join([*rows[0].split(",")[:2], "1e4"])
    given = ["--job", write_job(tmp_path), "--source", "traces", "--traces", write_forecast(tmp_path, rows)]
    answer = run(capsys, "plan", *given, "--json")
    assert answer.code == 0
    assert answer.document["run_now_emissions_g"] is None  # its first hour is unknown
    assert "values that are not from 0 to 3,000 g/kWh count as unknown" in answer.err


def test_the_job_in_these_tests_is_one(plan):
    assert json.loads(json.dumps(job()))["now"] == f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
    assert plan().code == 0


# -- Plausible numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["1e4", "-0.5", "3000.1"])
@pytest.mark.parametrize("option", ["--forecast", "--history"])
def test_a_number_that_no_grid_has_is_refused_unless_it_is_meant(capsys, tmp_path, cell, option):
    rows = forecast_rows()
    rows[6] = ",".join([*rows[6].split(",")[:2], cell])
    wrong = write_forecast(tmp_path, rows).rename(tmp_path / "wrong.csv")
    files = {"--forecast": write_forecast(tmp_path), "--history": write_forecast(tmp_path)} | {option: wrong}
    given = ["--job", write_job(tmp_path), *(part for pair in files.items() for part in pair)]
    for command in ("plan", "tradeoff"):
        answer = run(capsys, command, *given)
        assert answer.code == 2
        assert f"g_per_kwh: row 7: {float(cell):g} is not from 0 to 3,000 g/kWh" in answer.line
        assert run(capsys, command, *given, "--allow-implausible").code == 0
