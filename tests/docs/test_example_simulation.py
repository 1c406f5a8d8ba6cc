"""Examples in real Flower: ``flwr run`` on a SuperLink that simulates nodes. This test waits."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("sklearn")

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.demo.federation import federation, tail
from lowcarb_scheduler.ledger import read_ledger

pytestmark = [pytest.mark.flower, pytest.mark.enable_socket]
EXAMPLES = Path(__file__).parents[2] / "examples"
APP = EXAMPLES / "sklearn-digits"
TIMEOUT_S = 240


def test_sklearn_digits_runs_as_its_readme_says(tmp_path):
    config = {"num-server-rounds": 2, "lowcarb-run-dir": str(tmp_path / "run")}
    with federation(tmp_path / "flower", nodes=3) as local:
        log = tmp_path / "run.log"
        code = local.run(APP, config, log).wait(TIMEOUT_S)
    assert code == 0, tail(log, 40)
    run = summarise(read_ledger(tmp_path / "run"))
    assert run.status == "completed"
    assert [each.nodes for each in run.rounds] == [3, 3]
    assert run.rounds[-1].metrics["accuracy"] > 0.7
    assert "accuracy on unseen digits" in log.read_text(encoding="utf-8")


def test_the_accuracy_study_scores_the_same_through_flwr_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "accuracy")
    from accuracy_study.flower_app import small_world, through_flower
    from accuracy_study.schedules import ALL
    from accuracy_study.task import TASKS

    here = ALL["defaults"].follow(small_world(100), TASKS["softmax"])
    there = through_flower(tmp_path, 100, "softmax", "defaults")
    assert there["scores"] == pytest.approx(here.scores, abs=1.0)  # sums of floats in another order
    assert there["scores"][-1] > 60
