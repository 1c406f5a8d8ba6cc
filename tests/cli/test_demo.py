from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from support.cli_files import run
from support.report_ledger import run_events, write_ledger


class Simulated:
    """A federation whose runs are over at once: each writes its results, and one with a ledger its events."""

    def __init__(self, events, log="", accuracy=0.9):
        self.events, self.log, self.accuracy = events, log, accuracy

    def run(self, _app, config, log):
        log.parent.mkdir(exist_ok=True)
        log.write_text(self.log, encoding="utf-8")
        if "lowcarb-run-dir" in config and self.events:
            write_ledger(Path(config["lowcarb-run-dir"]), self.events)
        results = {"accuracy": {"1": 0.1, "3": self.accuracy}}
        Path(config["results-file"]).write_text(json.dumps(results), encoding="utf-8")
        return subprocess.Popen([sys.executable, "-c", ""])


@pytest.fixture
def demo(capsys):
    """Run ``lowcarb demo`` on a simulation that writes these events."""

    def run_demo(*options, **simulated):
        federation = Simulated(**{"events": run_events(), **simulated})
        return run(capsys, "demo", *options, federation=lambda *_: nullcontext(federation))

    return run_demo


def test_the_demo_prints_its_rounds_and_the_table(demo):
    answer = demo()
    assert (answer.code, answer.err) == (0, "")
    rounds = [line for line in answer.out.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in rounds] == ["1/3", "2/3", "3/3"]
    assert "90.0%" in answer.out
    report = Path("runs/demo/report.html").absolute()
    *_, path, after = answer.out.splitlines()
    assert path == f"Report: {report}"
    assert after == f"next: lowcarb report {report.parent} --open"
    assert report.is_file()


class SlowStart(Simulated):
    """A federation whose run has opened its ledger, and takes a moment to write the first line."""

    def run(self, app, config, log):
        process = super().run(app, config, log)
        if "lowcarb-run-dir" not in config:
            return process
        process.wait()
        ledger = Path(config["lowcarb-run-dir"]) / "ledger.jsonl"
        written = ledger.rename(ledger.with_suffix(".written"))
        ledger.touch()
        code = "import pathlib, sys; pathlib.Path(sys.argv[1]).replace(sys.argv[2])"
        return subprocess.Popen([sys.executable, "-c", code, str(written), str(ledger)])


def test_a_ledger_without_its_first_line_is_no_fault(capsys):
    simulated = SlowStart(run_events())
    answer = run(capsys, "demo", federation=lambda *_: nullcontext(simulated))
    assert (answer.code, answer.err) == (0, "")
    assert len([line for line in answer.out.splitlines() if line.startswith("round ")]) == 3


def test_with_json_stdout_holds_the_document_alone(demo):
    answer = demo("--json", "--run-dir", "elsewhere")
    assert answer.document["schema_version"] == 1
    assert answer.document["run_dir"] == str(Path("elsewhere").absolute())
    assert (answer.document["rounds"], answer.document["accuracy"]) == (3, 0.9)
    assert "round  1/3" in answer.err


def test_a_missing_extra_names_the_command_that_brings_it(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    answer = demo()
    assert answer.code == 2
    assert "pip install 'lowcarb-scheduler[demo]'" in answer.line
    assert demo("--json").document["error"]["kind"] == "missing_extra"


def test_a_setting_that_would_end_the_simulation_is_one_line(demo, monkeypatch):
    monkeypatch.setenv("LOWCARB_LEARN_DURATIONS", "maybe")
    answer = demo()
    assert (answer.code, answer.out) == (2, "")
    assert answer.line.startswith("lowcarb: LOWCARB_LEARN_DURATIONS: 'maybe': give true or false; it is ")


def test_a_simulation_that_does_not_begin_is_one_line_with_its_cause(demo):
    cause = "lowcarb_scheduler.errors.InputError: lowcarb-patience: 3: is too large"
    answer = demo(events=[], log=f"Traceback ...\n{cause}\nERROR: Exit Code: 700\n\nFor more, visit: <...>\n")
    assert answer.code == 1
    assert "the simulation did not complete (it did not begin)" in answer.line
    assert answer.line.endswith(f"carbon-aware.log: {cause}")


def test_a_simulation_that_breaks_off_is_one_line_with_its_log(demo):
    # ``flwr run`` of a simulation that could not start exits with 0 all the same.
    answer = demo(events=run_events()[:1], log="Exit Code: 700\n")
    assert answer.code == 1
    assert "the simulation did not complete (unfinished)" in answer.line
    assert answer.line.endswith("carbon-aware.log: Exit Code: 700")
