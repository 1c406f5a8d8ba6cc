"""No input makes the command line print a traceback, or work for long."""

from __future__ import annotations

import json
import time
from random import Random

import pytest

from lowcarb_scheduler.cli import main
from support.cli_fuzz import make_case
from support.report_ledger import run_events, write_ledger

MOST_CPU_S = 5.0  # of one input


@pytest.fixture(scope="module", autouse=True)
def _warmed_up(tmp_path_factory):
    """Write a report once: the first one also imports matplotlib and reads the fonts."""
    run_dir = write_ledger(tmp_path_factory.mktemp("first") / "run", run_events())
    assert main(["report", str(run_dir)]) == 0


def check(seed, folder, capsys, monkeypatch):
    """Run the case of a seed, and check what it says."""
    took = run_case(seed, folder, capsys, monkeypatch)
    if took >= MOST_CPU_S:  # on a busy machine CPU time grows, too: what is slow is slow twice
        took = run_case(seed, folder.with_name(f"{seed}-again"), capsys, monkeypatch)
    assert took < MOST_CPU_S, f"seed {seed} took {took:.1f} s"


def run_case(seed, folder, capsys, monkeypatch):
    """Run the case of a seed in a new folder, and return the CPU time that it took [s]."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    case = make_case(Random(seed), folder)
    what = f"seed {seed}: {case.changes} {str(case.arguments)[:1000]}"
    began = time.process_time()
    code = main(case.arguments)
    took = time.process_time() - began
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), what
    assert "Internal error" not in out + err, f"{what}\n{(out + err)[:2000]}"
    assert "Traceback" not in out + err, what
    if "--json" in case.arguments and out:
        json.loads(out)
    if code and "--json" not in case.arguments and "doctor" not in case.arguments:
        assert err.strip(), what
    return took


@pytest.mark.parametrize("group", range(10))
def test_no_input_ends_in_a_traceback(group, tmp_path, capsys, monkeypatch):
    for seed in range(20 * group, 20 * group + 20):
        check(seed, tmp_path / str(seed), capsys, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("group", range(20))
def test_no_input_of_many_ends_in_a_traceback(group, tmp_path, capsys, monkeypatch):
    for seed in range(1000 + 100 * group, 1100 + 100 * group):
        check(seed, tmp_path / str(seed), capsys, monkeypatch)
