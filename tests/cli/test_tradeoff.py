from __future__ import annotations

import io
import re
import shlex
from itertools import pairwise

import pytest
from rich.console import Console

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.clock import parse_time
from support.cli_files import INTENSITY, clients, forecast_rows, run, write_forecast, write_job

KEYS = {"schema_version", "source", "signal", "synthetic", "run_now_emissions_g", "points", "knee"}
POINT_KEYS = ["patience", "finish", "emissions_g", "lower_bound_g", "saving"]
RUN_NOW_G, CLEANEST_G = 4 * (500 + 60), 4 * (300 + 40)
LIE = "[red]<script>\n=cmd\x1b[31m"


@pytest.fixture
def tradeoff(tmp_path, capsys):
    """Run ``lowcarb tradeoff`` on a job with changes and a forecast of two days."""

    def run_tradeoff(*options, outside=(), **changes):
        files = ["--job", write_job(tmp_path, **changes), "--forecast", write_forecast(tmp_path)]
        return run(capsys, "tradeoff", *files, *options, **dict(outside))

    return run_tradeoff


def table(answer):
    """Return the words of each row for people."""
    _title, head, *lines = answer.out.splitlines()
    titles = ["patience", "finish (UTC)", "hours later", "CO2eq", "saving", "gap", "saved per extra hour"]
    assert re.split(r"  +", head) == titles
    last = next(k for k, line in enumerate(lines) if line.startswith("run-now"))
    return [line.split() for line in lines[:last]]


def facts(answer):
    return dict(line.split("  ", 1) for line in answer.out.splitlines() if "  " in line)


# -- answers ---------------------------------------------------------------------------------------------


def test_the_document_has_the_keys_of_the_contract(tradeoff):
    document = tradeoff("--json").document
    assert set(document) == KEYS
    assert document["schema_version"] == 1
    assert (document["source"], document["signal"], document["synthetic"]) == ("traces", "unknown", False)
    assert all(list(point) == POINT_KEYS for point in document["points"])
    assert document["knee"] in document["points"]
    assert document["run_now_emissions_g"] == pytest.approx(RUN_NOW_G)


def test_the_front_reaches_from_the_earliest_finish_to_the_cleanest_plan(tradeoff):
    points = tradeoff("--json").document["points"]
    assert (points[0]["patience"], points[0]["finish"]) == (0.0, "2026-03-02T04:00:00Z")
    assert points[-1]["emissions_g"] == pytest.approx(CLEANEST_G)
    assert points[-1]["saving"] == pytest.approx(1 - CLEANEST_G / RUN_NOW_G)


def test_waiting_longer_is_always_cleaner(tradeoff):
    points = tradeoff("--json", "--points", "25").document["points"]
    assert len(points) > 3
    for early, late in pairwise(points):
        assert early["patience"] < late["patience"]
        assert early["finish"] < late["finish"]
        assert early["emissions_g"] > late["emissions_g"]
        assert early["lower_bound_g"] >= late["lower_bound_g"]
    assert all(point["lower_bound_g"] <= point["emissions_g"] for point in points)


def test_the_points_are_those_that_were_asked_for(tradeoff):
    steps = {point["patience"] for point in tradeoff("--json", "--points", "5").document["points"]}
    assert steps <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_equal_input_gives_equal_bytes(tradeoff):
    assert tradeoff("--json", "--saving", "20%").out == tradeoff("--json", "--saving", "20%").out
    assert tradeoff().out == tradeoff().out


@pytest.mark.parametrize("wish", ["20%", "20 %", "0.2"])
def test_the_earliest_finish_that_saves_enough_is_the_answer(tradeoff, wish):
    document = tradeoff("--json", "--saving", wish).document
    assert set(document) == KEYS | {"answer"}
    enough = [point for point in document["points"] if point["saving"] >= 0.2]
    assert document["answer"] == enough[0]


def test_people_read_a_row_a_point_and_the_knee_is_marked(tradeoff):
    answer, document = tradeoff(), tradeoff("--json").document
    rows = table(answer)
    assert [row[2] for row in rows] == [p["finish"][11:16] for p in document["points"]]
    (knee,) = (k for k, row in enumerate(rows) if row[-1] == "knee")
    assert document["points"][knee] == document["knee"]
    assert rows[0][3] == "0.0"
    assert float(rows[-1][3]) == _hours(document["points"])
    assert "straight line" in facts(answer)["knee"]
    assert not any(line.endswith(" ") for line in answer.out.splitlines())


def _hours(points):
    first, last = (parse_time(points[k]["finish"], "finish") for k in (0, -1))
    return (last - first).total_seconds() / 3600


def test_the_hour_after_a_point_buys_what_the_way_to_the_next_one_does(tradeoff):
    rows = table(tradeoff("--points", "21", finish_by="12h"))  # steps of 24 minutes, so one an hour
    grams = [1000 * float(row[4]) for row in rows]
    hours = [float(row[3]) for row in rows]
    bought = [float(row[10]) if row[11] == "g" else 1000 * float(row[10]) for row in rows[:-1]]
    for k, grams_an_hour in enumerate(bought):
        assert hours[k + 1] - hours[k] >= 1
        assert grams_an_hour == pytest.approx((grams[k] - grams[k + 1]) / (hours[k + 1] - hours[k]), abs=1.5)
    assert len(rows[-1]) == 10 + (rows[-1][-1] == "knee")  # past the deadline nothing is for sale


def test_people_read_the_answer_in_one_line(tradeoff):
    answer, document = tradeoff("--saving", "20%"), tradeoff("--saving", "20%", "--json").document
    asked = facts(answer)["asked"].strip()
    finish = document["answer"]["finish"].replace("T", " ")[:16]
    assert asked.startswith(f"the earliest finish that saves at least 20 %: {finish} UTC (patience ")
    (row,) = (row for row in table(answer) if "asked" in row[-1])
    assert row[2] == finish[11:]


@pytest.mark.parametrize("options", [(), ("--saving", "20%")])
def test_the_next_command_plans_the_point(tradeoff, capsys, options):
    last = tradeoff(*options).out.splitlines()[-1]
    point = tradeoff(*options, "--json").document["answer" if options else "knee"]
    name, *arguments = shlex.split(last.removeprefix("next: "))
    assert name == "lowcarb"
    planned = run(capsys, *arguments, "--json").document
    assert planned["emissions_g"] == pytest.approx(point["emissions_g"])
    assert planned["finish"] == point["finish"]


def test_waiting_buys_nothing_where_the_intensity_is_flat(tmp_path, capsys):
    rows = forecast_rows()
    for night, day in INTENSITY.values():
        rows = [row.replace(f",{day}", f",{night}") for row in rows]
    files = ["--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path, rows)]
    answer = run(capsys, "tradeoff", *files)
    assert len(table(answer)) == 1
    assert "waiting longer saves nothing" in facts(answer)["knee"]
    assert run(capsys, "tradeoff", *files, "--plot", tmp_path / "front.png").code == 0


def test_names_from_outside_are_never_markup(tmp_path, capsys, tradeoff):
    assert tradeoff(clients=clients(id=LIE)).code == 0
    assert "[red]<script>\\n=cmd\\x1b[31m" in tradeoff(clients=clients(location=LIE)).line
    folder = tmp_path / "[red] $x \x1b[31m"
    folder.mkdir()
    files = ["--job", write_job(folder), "--forecast", write_forecast(folder)]
    shown = run(capsys, "tradeoff", *files).out.splitlines()[-1]
    assert "[red] $x \\x1b[31m" in shown


def test_a_front_is_drawn(tradeoff, tmp_path):
    assert "chart" in facts(tradeoff("--plot", tmp_path / "front.png"))
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_history_extends_the_forecast_and_the_bound_stays_certified(tmp_path, capsys):
    job_file = write_job(tmp_path, now="2026-03-07T00:00:00Z", finish_by="2026-03-07T20:00:00Z")
    history = write_forecast(tmp_path, forecast_rows(hours=120)).rename(tmp_path / "history.csv")
    short = [row.replace("2026-03-02", "2026-03-07") for row in forecast_rows(hours=6)]
    files = ["--job", job_file, "--forecast", write_forecast(tmp_path, short), "--history", history]
    points = run(capsys, "tradeoff", *files, "--json").document["points"]
    assert points[-1]["finish"] >= "2026-03-07T12"
    planned = run(capsys, "plan", *files, "--json").document
    assert planned["emissions_g"] == pytest.approx(points[-1]["emissions_g"]) == pytest.approx(CLEANEST_G)
    assert planned["lower_bound_g"] == pytest.approx(CLEANEST_G)


def test_a_source_stands_in_for_a_file(tmp_path, capsys):
    answer = run(capsys, "tradeoff", "--job", write_job(tmp_path), "--source", "synthetic", "--json")
    assert (answer.document["source"], answer.document["synthetic"]) == ("synthetic", True)


def test_progress_is_for_a_terminal_and_leaves_stdout_alone(tradeoff):
    assert tradeoff().err == ""
    seen = io.StringIO()
    screen = Console(file=seen, force_terminal=True, width=80)
    console = {"console": lambda stderr=False: screen if stderr else output.console()}
    assert tradeoff("--json", outside=console).document["points"]
    assert "11/11" in seen.getvalue()


# -- the answer is no ------------------------------------------------------------------------------------


def test_a_saving_that_no_plan_reaches_is_exit_1_with_the_largest_there_is(tradeoff):
    answer = tradeoff("--saving", "50%")
    assert (answer.code, answer.out) == (1, "")
    assert "(needed 50 %, available 39.2857 %)" in answer.line
    error = tradeoff("--saving", "50%", "--json").document["error"]
    assert error["kind"] == "saving_unreachable"
    assert (error["needed"], error["finish_by"]) == (0.5, "2026-03-03T00:00:00Z")
    assert error["available"] == pytest.approx(1 - CLEANEST_G / RUN_NOW_G)


def test_a_saving_of_nothing_known_is_exit_1(tmp_path, capsys):
    rows = [row.rpartition(",")[0] + "," if "T01:00" in row else row for row in forecast_rows()]
    files = ["--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path, rows)]
    document = run(capsys, "tradeoff", *files, "--json").document
    assert {point["saving"] for point in document["points"]} == {None}
    answer = run(capsys, "tradeoff", *files, "--saving", "20%")
    assert (answer.code, "available unknown" in answer.line) == (1, True)
    assert "unknown" in run(capsys, "tradeoff", *files).out
    assert run(capsys, "tradeoff", *files, "--plot", tmp_path / "front.svg").code == 0


@pytest.mark.parametrize("command", ["plan", "tradeoff"])
@pytest.mark.parametrize("finish_by", ["2026-03-01T00:00:00Z", "3h"])
def test_a_deadline_that_cannot_be_met_is_exit_1_with_history_too(tmp_path, capsys, command, finish_by):
    history = write_forecast(tmp_path).rename(tmp_path / "history.csv")
    files = ["--job", write_job(tmp_path, finish_by=finish_by), "--forecast", write_forecast(tmp_path)]
    for options in [(), ("--history", history)]:
        answer = run(capsys, command, *files, *options)
        assert (answer.code, answer.out) == (1, "")
        assert "available" in answer.line


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["20", "1.5", "150%", "-3%", "nan", "inf%", "x", "%", "", "20%%", LIE])
def test_a_saving_that_is_no_part_is_exit_2(tradeoff, wish):
    answer = tradeoff(f"--saving={wish}")
    assert (answer.code, answer.out) == (2, "")
    assert answer.line.endswith("give for example 20% or 0.2")
    assert tradeoff(f"--saving={wish}", "--json").document["error"]["field"] == "--saving"


@pytest.mark.parametrize("number", ["1", "0", "-3", "1001", "99999999999999999999", "2.5", "x", ""])
def test_points_that_are_no_number_from_2_to_1000_are_exit_2(tradeoff, number):
    answer = tradeoff(f"--points={number}")
    assert (answer.code, answer.out) == (2, "")
    assert "--points" in answer.line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--plot", "front.txt"], "--plot: front.txt is not a chart file"),
        (["--forecast", "none.csv"], "none.csv: --forecast: cannot be read"),
        (["--history", "none.csv"], "none.csv: --history: cannot be read"),
    ],
)
def test_a_bad_option_is_exit_2(tradeoff, options, part):
    answer = tradeoff(*options)
    assert answer.code == 2
    assert part in answer.line


def test_history_needs_a_forecast_and_a_source_has_to_be_named(tmp_path, capsys):
    job_file = write_job(tmp_path)
    assert "--history" in run(capsys, "tradeoff", "--job", job_file, "--history", "h.csv").line
    assert "no forecast source is named" in run(capsys, "tradeoff", "--job", job_file).line


def test_a_bad_job_names_its_file(tradeoff, tmp_path):
    answer = tradeoff(rounds=0)
    assert answer.code == 2
    assert f"{tmp_path / 'job.json'}: rounds: " in answer.line


def test_where_waiting_pays_to_the_end_there_is_no_knee_and_the_end_is_advised(tmp_path, capsys):
    rows = [f"DE,2026-03-02T{hour:02}:00Z,{500 - 10 * hour}" for hour in range(24)]
    job = write_job(
        tmp_path, clients=[{"id": f"s{k}", "location": "DE", "power_watts": 1000} for k in range(4)]
    )
    answer = run(capsys, "tradeoff", "--job", job, "--forecast", write_forecast(tmp_path, rows))
    assert "knee" not in [row[-1] for row in table(answer)]
    assert facts(answer)["knee"].strip().startswith("none: later hours save as much")
    assert answer.out.splitlines()[-1].endswith("--patience 1.0")


def test_with_balance_the_cost_of_variety_is_shown_beside_the_front(tradeoff, tmp_path):
    document = tradeoff("--balance", "--json", "--plot", str(tmp_path / "front.png")).document
    names = [option["option"] for option in document["balance"]]
    assert names[:4] == ["free", "1.2", "0.8", "0.4"]
    assert set(document) == KEYS | {"balance", "turns"}
    cleanest = [option["points"][-1]["emissions_g"] for option in document["balance"]]
    assert cleanest == sorted(cleanest)  # less freedom never emits less
    assert document["turns"][0]["option"] == "equal"
    assert (tmp_path / "front.png").stat().st_size > 1000
    shown = tradeoff("--balance").out
    assert re.search(r"^balance +free +[\d.]+ %", shown, flags=re.MULTILINE)
