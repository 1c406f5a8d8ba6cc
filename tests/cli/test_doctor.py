from __future__ import annotations

import io
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from support import cli_files

NOW = datetime(2026, 3, 2, tzinfo=UTC)
STATES = {"ok", "warning", "fault"}


def run(capsys, *arguments, **outside):
    return cli_files.run(capsys, *arguments, clock=VirtualClock(NOW), **outside)


def checks(answer):
    return {check["check"]: check for check in answer.document["checks"]}


def test_the_document_is_a_list_of_checks(capsys):
    answer = run(capsys, "doctor", "--source", "synthetic", "--location", "DE", "--json")
    assert answer.code == 0
    assert set(answer.document) == {"schema_version", "checks"}
    for check in answer.document["checks"]:
        assert set(check) == {"check", "state", "detail", "fix"}
        assert check["state"] in STATES
        assert check["fix"] if check["state"] == "fault" else True
    assert checks(answer)["locations"]["detail"] == "DE (1 of 1 have a forecast)"


def test_every_check_is_documented(capsys, monkeypatch):
    monkeypatch.setenv("LOWCARB_FINISH_BY", "2026-03-01T00:00Z")
    arguments = ["--location", "DE", "--location", "Mars", "--json"]
    answers = [run(capsys, "doctor", *arguments), run(capsys, "doctor", "--source", "synthetic", *arguments)]
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md").read_text(encoding="utf-8")
    documented = re.findall(r"`([a-z-]+)(?: \.\.\.)?`", page)
    for name in {name for answer in answers for name in checks(answer)}:
        assert name.split()[0] in documented


def test_a_newcomer_is_told_that_nothing_will_wait(capsys):
    answer = run(capsys, "doctor")
    assert answer.code == 0
    (warning,) = [line for line in answer.out.splitlines() if line.startswith("warning source")]
    assert "not set: rounds start immediately and never wait; set LOWCARB_SOURCE" in warning


def test_in_a_pipe_each_check_is_one_plain_line_with_its_fix(capsys):
    answer = run(capsys, "doctor", "--source", "synthetic", "--location", "DE", "--location", "Germanny")
    assert answer.code == 1
    *lines, verdict = answer.out.splitlines()
    assert {line.split()[0] for line in lines} == STATES
    assert "\x1b" not in answer.out
    (fault,) = [line for line in lines if line.startswith("fault")]
    assert fault.split(None, 3)[1:3] == ["location", "Germanny"]
    assert fault.endswith("does not know it; did you mean germanynorth?")
    assert verdict == "1 blocking problem, 2 warnings"


def test_on_a_terminal_each_check_has_a_sign(capsys):
    for no_colour in (False, True):
        paper = io.StringIO()
        screen = Console(file=paper, force_terminal=True, width=80, markup=False, no_color=no_colour)
        arguments = ["doctor", "--source", "synthetic", "--location", "Mars"]
        assert run(capsys, *arguments, console=lambda stderr=False, screen=screen: screen).code == 1
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", paper.getvalue())
        for sign, name in (("✓", "python"), ("!", "source synthetic"), ("✗", "location Mars")):
            assert re.search(rf"{sign} +{name} ", shown)
        assert ("\x1b[31m" in paper.getvalue()) == (not no_colour)


def test_every_check_is_made_although_others_fail(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWCARB_PATIENCE", "7")
    monkeypatch.setenv("LOWCARB_RUN_DIR", str(tmp_path / "file" / "run"))
    monkeypatch.setenv("LOWCARB_ARCHIVE_DIR", str(tmp_path / "file" / "archive"))
    monkeypatch.setenv("LOWCARB_LOCATIONS", "nowhere.toml")
    monkeypatch.setenv("LOWCARB_FINISH_BY", "2026-03-01T00:00Z")
    (tmp_path / "file").write_text("", encoding="utf-8")
    answer = run(capsys, "doctor", "--source", "traces,carbon-aware-sdk", "--location", "DE", "--json")
    assert answer.code == 1
    faults = [name for name, check in checks(answer).items() if check["state"] == "fault"]
    assert faults == [
        "setting patience", "run-dir", "archive", "finish-by", "locations", "source traces",
        "source carbon-aware-sdk",
    ]  # fmt: skip


def test_a_deadline_is_compared_with_the_clock(capsys, monkeypatch):
    monkeypatch.setenv("LOWCARB_FINISH_BY", "2099-01-01T00:00Z")
    for year, states in ((2098, set()), (2100, {"fault"})):
        answer = cli_files.run(capsys, "doctor", "--json", clock=VirtualClock(NOW.replace(year=year)))
        assert {check["state"] for name, check in checks(answer).items() if name == "finish-by"} == states


def test_settings_that_cannot_be_read_do_not_hide_the_installation(capsys, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff")
    answer = run(capsys, "doctor", "--json")
    assert answer.code == 1
    assert checks(answer)["settings"]["state"] == "fault"
    assert checks(answer)["python"]["state"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--sdk-signal", "loud"], "--sdk-signal: 'loud'"), (["--sauce", "x"], "No such option")],
)
def test_bad_input_is_exit_2(capsys, arguments, part):
    answer = run(capsys, "doctor", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line


@pytest.mark.parametrize(
    ("source", "part"),
    [("oracle", "is unknown"), ("synthetic,traces", "never mixed"), ("traces,traces", "stands twice"),
     ("watttime", "LOWCARB_WATTTIME_USER")],
)  # fmt: skip
def test_a_source_that_cannot_be_opened_is_a_fault(capsys, source, part):
    answer = run(capsys, "doctor", "--source", source, "--location", "DE")
    assert answer.code == 1
    (fault,) = [line for line in answer.out.splitlines() if line.startswith("fault")]
    assert part in fault


def test_no_secret_is_shown_though_a_server_echoes_it(capsys, monkeypatch):
    def answer(request):
        return httpx.Response(401, text=f"bad token {request.headers['auth-token']}")

    monkeypatch.setenv("LOWCARB_ELECTRICITY_MAPS_TOKEN", "hush-hush-hush")

    def echoing(_name, settings):
        token, transport = settings.electricity_maps_token, httpx.MockTransport(answer)
        return ElectricityMaps(token, transport=transport, clock=VirtualClock(NOW))

    arguments = ["doctor", "--source", "electricity-maps", "--location", "DE"]
    for json in ([], ["--json"]):
        shown = run(capsys, *arguments, *json, open_source=echoing)
        assert shown.code == 1
        assert "bad token" in shown.out
        assert "hush" not in shown.out + shown.err
        assert "set (environment)" in shown.out


def test_everything_is_asked_at_once_so_that_it_takes_as_long_as_one_look_up(capsys):
    together, asked = threading.Barrier(4, timeout=20), []  # two calls to each of two sources

    class Silent(ForecastSource):
        actual = None

        def forecast(self, locations, now, *, timeout=None):
            asked.append(together.wait())
            raise ForecastUnavailableError(dict.fromkeys(locations, "no answer within 30 s"))

        def known_locations(self, *, timeout=None):
            asked.append(together.wait())
            return {}

    silent = cli_files.opener({"a": Silent(), "b": Silent()})
    assert run(capsys, "doctor", "--source", "a,b", "--location", "DE", open_source=silent).code == 1
    assert sorted(asked) == [0, 1, 2, 3]
