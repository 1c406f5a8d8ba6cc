from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.output import Column, right
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times
from support.cli_files import run, write_forecast, write_job

BERLIN, SYDNEY = Times(ZoneInfo("Europe/Berlin")), Times(ZoneInfo("Australia/Sydney"))
WINTER = datetime(2026, 3, 2, 1, tzinfo=UTC)
CLOCKS_CHANGE = datetime(2026, 10, 25, 1, tzinfo=UTC)  # from CEST to CET; 02:00 to 03:00 comes twice
BERLIN_BY_RULE = "CET-1CEST,M3.5.0,M10.5.0/3"  # needs no data base of zones


@pytest.fixture
def in_berlin(monkeypatch):
    """Set the zone of this process, and set it back."""
    monkeypatch.setenv("TZ", BERLIN_BY_RULE)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_time_alone_says_its_zone():
    assert BERLIN.instant(WINTER) == "2026-03-02 02:00 CET"
    assert SYDNEY.instant(WINTER) == "2026-03-02 12:00 AEDT"
    assert Times.of(utc=True).instant(WINTER) == "2026-03-02 01:00 UTC"
    assert Times(ZoneInfo("America/Sao_Paulo")).instant(WINTER) == "2026-03-01 22:00 UTC-03"
    assert BERLIN.instant(None) == "unknown"


def test_a_column_says_its_zone_once():
    head, cells = BERLIN.column("opens", [WINTER, None, WINTER + timedelta(hours=1)])
    assert (head, cells) == ("opens (CET)", ["2026-03-02 02:00", "", "2026-03-02 03:00"])
    assert BERLIN.column("opens", []) == ("opens", [])


def test_where_the_clocks_change_no_two_times_look_the_same():
    hours = [CLOCKS_CHANGE + timedelta(hours=k) for k in range(-2, 3)]
    head, cells = BERLIN.column("opens", hours)
    assert head == "opens"
    assert cells[1:3] == ["2026-10-25 02:00 CEST", "2026-10-25 02:00 CET"]
    assert len(set(cells)) == len(hours)
    assert BERLIN.names(hours[0], hours[-1]) == "CEST, then CET"
    assert BERLIN.names(hours[2], hours[-1]) == "CET"


def test_a_time_that_is_near_is_told_by_its_weekday_there():
    assert BERLIN.weekday(datetime(2026, 3, 2, 23, tzinfo=UTC), WINTER) == "Tue 00:00"
    assert BERLIN.weekday(datetime(2026, 3, 9, 23, tzinfo=UTC), WINTER) == "10 Mar 00:00"


@pytest.mark.usefixtures("in_berlin")
def test_a_plan_is_told_in_the_zone_of_the_machine_unless_utc_is_asked_for(capsys, tmp_path, monkeypatch):
    asked = ["plan", "--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path)]
    here, utc = run(capsys, *asked), run(capsys, *asked, "--utc")
    assert "opens (CET)" in here.out
    assert "deadline       2026-03-03 01:00 CET" in here.out
    assert "opens (UTC)" in utc.out
    assert "deadline       2026-03-03 00:00 UTC" in utc.out
    monkeypatch.setenv("LOWCARB_UTC", "1")
    assert run(capsys, *asked).out == utc.out
    document = run(capsys, *asked, "--json").document
    assert document["finish"].endswith("Z")


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("command", ["plan", "tradeoff"])
def test_every_table_names_its_zone(capsys, tmp_path, command):
    asked = [command, "--job", write_job(tmp_path), "--forecast", write_forecast(tmp_path)]
    assert "(CET)" in run(capsys, *asked).out
    assert "UTC" not in run(capsys, *asked).out


@pytest.mark.usefixtures("in_berlin")
def test_a_forecast_says_the_zone_of_its_times(capsys):
    answer = run(capsys, "forecast", "--location", "DE", "--source", "synthetic")
    zone = answer.out.split("times are ")[1].splitlines()[0]
    assert set(zone.split(", then ")) <= {"CET", "CEST"}


def test_a_new_process_takes_the_zone_from_the_variable(tmp_path):
    code = "import sys\nfrom lowcarb_scheduler.cli import main\nsys.exit(main(sys.argv[1:]))"
    asked = ["plan", "--job", str(write_job(tmp_path)), "--forecast", str(write_forecast(tmp_path))]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, check=True,
        env={**os.environ, "TZ": "AEST-10"},
    )  # fmt: skip
    assert "deadline       2026-03-03 10:00 AEST" in done.stdout


# -- Narrow terminals --------------------------------------------------------------------------------------


def drawn(columns, rows, width=80):
    """Return the lines of a table on a terminal."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, markup=False)
    output.print_table(screen, columns, rows)
    return screen.file.getvalue().splitlines()


def test_heads_break_no_words_and_take_two_lines_at_most():
    columns = (
        right("patience", whole=True), Column("finish (UTC)", whole=True), right("hours later"),
        right("CO2eq", whole=True), right("saving"), right("gap"), right("saved per extra hour"), "",
    )  # fmt: skip
    row = "0.25", "2026-06-15 12:00", "0.0", "1.369 kg", "12.6 %", "0.00 %", "28.7 g", "knee"
    above = itertools.takewhile(lambda line: "───" not in line, drawn(columns, [row]))
    head = [line for line in above if line.strip()]
    assert len(head) == 2
    words = " ".join(head).split()
    assert sorted(words) == sorted(" ".join(str(Column(c).title if isinstance(c, str) else c.title)
                                            for c in columns).split())  # fmt: skip
    lines = drawn(columns, [row])
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert lines[-1].split()[-1] == "knee"


def test_where_heads_do_not_fit_nothing_is_cut_off():
    columns = [right("considerable length") for _ in range(8)]
    text = "".join(drawn(columns, [[f"value{k}" for k in range(8)]], width=60))
    assert all(str(k) in text for k in range(8))


def test_a_round_of_everybody_is_short_and_a_long_list_is_cut():
    fleet = dict.fromkeys(("DE", "ES", "FR", "PL", "SE"), 1)
    assert formatting.seats(fleet, fleet) == "all 5"
    assert formatting.seats({"DE": 1, "FR": 2}, fleet) == "FR 2, DE 1"
    many = {f"L{k}": 1 for k in range(9)}
    assert formatting.seats(many, fleet) == "L0 1, L1 1, L2 1, L3 1, L4 1, and 4 more"


def test_patience_has_no_digits_too_many():
    found = [formatting.patience(value) for value in (0.0, 0.1, 0.30000000000000004, 1 / 11, 1.0)]
    assert found == ["0.0", "0.1", "0.3", "0.091", "1.0"]


def test_bars_of_several_places_can_have_one_scale():
    assert formatting.sparkline([10.0, 20.0], (0.0, 100.0)) == "▂▂"
    assert formatting.sparkline([90.0, 100.0], (0.0, 100.0)) == "▇█"


def test_help_tells_what_an_argument_is(capsys):
    for words in (["report"], ["status"], ["runs"], ["release"], ["archive", "import"]):
        shown = run(capsys, *words, "--help").out
        described = shown.split("Arguments:\n")[1].split("\n\n")[0]
        assert "older" in described or "Files" in described, words
        assert "Positional" not in shown
