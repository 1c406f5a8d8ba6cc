from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from lowcarb_scheduler.demo import runner
from lowcarb_scheduler.errors import MissingExtraError
from support.cli_files import run
from support.report_ledger import run_events, write_ledger


@pytest.fixture
def started(monkeypatch):
    """What the demo was started with; it prints a line and answers at once."""
    folders = []

    def run_demo(console, run_dir):
        folders.append(run_dir)
        console.print("round [1/20]")
        return {"schema_version": 1, "saving": 0.25}

    monkeypatch.setattr(runner, "run_demo", run_demo)
    return folders


def test_the_demo_prints_as_it_goes(capsys, started):
    answer = run(capsys, "demo")
    assert (answer.code, answer.out, answer.err) == (0, "round [1/20]\n", "")
    assert started == [Path("runs/demo")]


def test_with_json_stdout_holds_the_document_alone(capsys, started):
    answer = run(capsys, "demo", "--json", "--run-dir", "elsewhere")
    assert answer.document == {"schema_version": 1, "saving": 0.25}
    assert answer.line == "round [1/20]"
    assert started == [Path("elsewhere")]


def test_a_missing_extra_names_the_command_that_brings_it(capsys, monkeypatch):
    def run_demo(_console, _run_dir):
        raise MissingExtraError("ray", "demo")

    monkeypatch.setattr(runner, "run_demo", run_demo)
    answer = run(capsys, "demo")
    assert answer.code == 2
    assert "pip install 'lowcarb-scheduler[demo]'" in answer.line
    assert run(capsys, "demo", "--json").document["error"]["kind"] == "missing_extra"


def test_a_simulation_that_breaks_off_is_one_line_with_its_log(capsys, monkeypatch):
    class Broken:
        """Like ``flwr run`` of a simulation that could not start: it exits with 0 all the same."""

        def run(self, _app, config, log):
            write_ledger(Path(config["lowcarb-run-dir"]), run_events()[:1])
            log.parent.mkdir(exist_ok=True)
            log.write_text("Exit Code: 700\n", encoding="utf-8")
            return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(runner, "federation", lambda *_: nullcontext(Broken()))
    answer = run(capsys, "demo")
    assert answer.code == 1
    assert "the simulation did not complete (unfinished)" in answer.line
    assert answer.line.endswith("carbon-aware.log: Exit Code: 700")
