from __future__ import annotations

from pathlib import Path

import pytest

from cli_files import run
from lowcarb_scheduler.demo import runner
from lowcarb_scheduler.errors import MissingExtraError


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
