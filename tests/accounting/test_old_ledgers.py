"""Ledgers that earlier versions wrote: their figures stay as the version that wrote them gave them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.accounting.replay import Record, summarise
from lowcarb_scheduler.documents import to_plain
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from support.cli_files import run
from support.ledgers import rounds_shown

LEDGERS = Path(__file__).parents[1] / "fixtures" / "ledgers"
NUMBERS = ("planned_g", "realised_g", "run_now_g", "saving")
SUMMARY = (*NUMBERS, "energy_kwh", "evaluation_energy_kwh", "evaluation_g", "finish", "jain")
ACCOUNTS = ("hindsight_g", "without_actuals", "planned_of", "planned_of_g")
SHARES = "by_phase", "by_location", "by_client"


@pytest.fixture(params=["demo", "killed-and-resumed", "staggered-with-gaps"])
def old_run(request, tmp_path):
    """Return the folder of an old run, and the figures it had."""
    run_dir = tmp_path / "old"
    run_dir.mkdir()
    text = (LEDGERS / f"{request.param}.jsonl").read_text(encoding="utf-8")
    (run_dir / FILE_NAME).write_text(text, encoding="utf-8")
    return run_dir, json.loads((LEDGERS / f"{request.param}.figures.json").read_text(encoding="utf-8"))


def assert_same(found, expected, path="$"):
    """Compare documents; floats to 1e-12."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for place, value in enumerate(expected):
            assert_same(found[place], value, f"{path}[{place}]")
    elif isinstance(expected, float):
        assert found is not None, path
        assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-9), (path, found, expected)
    else:
        assert found == expected, path


def test_the_summary_is_the_same(old_run):
    run_dir, expected = old_run
    summary = summarise(read_ledger(run_dir))
    found = {
        "rounds": rounds_shown(summary),
        "turns": dict(summary.turns),
        "status": summary.status,
        "resumed": summary.resumed,
        "energy_by_basis": dict(summary.energy_by_basis),
        **{name: getattr(summary, name) for name in SUMMARY},
    }
    assert_same(to_plain(found), expected["summary"])


def test_the_accounts_are_the_same(old_run):
    run_dir, expected = old_run
    accounts = account(Record.of(read_ledger(run_dir)))
    found = {
        **{name: getattr(accounts.run, name) for name in NUMBERS},
        **{name: getattr(accounts, name) for name in ACCOUNTS},
        "waterfall": [asdict(step) for step in accounts.waterfall],
        "levels": [list(levels) for levels in accounts.levels],
        **{name: [asdict(share) for share in getattr(accounts, name)] for name in SHARES},
        "rounds": rounds_shown(accounts.run),
    }
    assert_same(to_plain(found), expected["accounts"])


def test_the_report_is_the_same(old_run, capsys):
    run_dir, expected = old_run
    answer = run(capsys, "report", run_dir, "--json")
    document = json.loads(answer.out)
    # Later versions may tell more.
    assert_same({key: document[key] for key in expected["report"]}, expected["report"])


def test_the_status_is_the_same(old_run, capsys):
    run_dir, expected = old_run
    document = json.loads(run(capsys, "status", run_dir, "--json").out)
    del document["run_dir"]
    # What later versions show beside it may be more.
    assert_same({key: document[key] for key in expected["status"]}, expected["status"])
