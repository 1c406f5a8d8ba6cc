"""The accuracy study: all schedules do the same work with the same data; figures are what they say."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "accuracy"
YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC)


@pytest.fixture
def run(monkeypatch):
    """Return the study's script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in [name for name in sys.modules if name == "run" or name.startswith("accuracy_study")]:
        monkeypatch.delitem(sys.modules, name)
    import run as script

    yield script
    for name in [name for name in sys.modules if name == "run" or name.startswith("accuracy_study")]:
        del sys.modules[name]


def study(run, rounds, deadline=1.5):
    return run.Study(10, deadline, *YEAR, None, None, rounds)


def test_regions_see_few_digits_and_nobody_shares_an_image(run):
    world = study(run, 10).world(0)
    from accuracy_study import task

    region = world.case.fleet.location_index
    owned = task.split(region, np.random.default_rng(0))
    assert {len(each) for each in owned} == {len(task.load()[0]) // 100}
    seen = np.concatenate([each.pixels for each in owned])
    assert len(np.unique(seen, axis=0)) == len(seen)
    shares = [
        np.bincount(np.concatenate([owned[k].digits for k in np.flatnonzero(region == place)])).max()
        / sum(len(owned[k]) for k in np.flatnonzero(region == place))
        for place in range(16)
    ]
    assert np.mean(shares) > 0.4  # 0.1 if all saw the same


@pytest.mark.parametrize(
    "name", ["the rule of 2022", "patience 0", "patience 1, mixed", "region after region"]
)
def test_schedules_do_the_same_work(run, name):
    asked = study(run, 10)
    found = run.follow(asked, 1, name)
    assert len(found["right"]) == len(found["emissions_g"]) == 10
    assert found["fewest_turns"] == found["most_turns"] == 1
    assert found["hours"] <= 15
    assert found == run.follow(asked, 1, name)


def test_what_a_run_is_charged_is_what_its_ledger_says(run, monkeypatch):
    from accuracy_study import schedules

    said = []
    read = schedules.summarise
    monkeypatch.setattr(schedules, "summarise", lambda events: said.append(read(events)) or said[-1])
    found = run.follow(study(run, 5), 2, "patience 1")
    assert sum(found["emissions_g"]) == pytest.approx(said[0].realised_g, rel=1e-4)


def test_the_table_pairs_by_seed(run):
    from accuracy_study import evidence

    def runs(*accuracy):
        return [
            {"right": [50] * 9 + [each], "emissions_g": [5.0] * 10, "regions_a_round": 7.0,
             "fewest_turns": 1, "most_turns": 1}
            for each in accuracy
        ]  # fmt: skip

    results = {"test_images": 100, "run_now_g": [100.0] * 3,
               "schedules": {"plain FedAvg": runs(60, 70, 90), "other": runs(59, 69, 89)}}  # fmt: skip
    plain, other = evidence.rows(results)
    assert plain.difference is None
    assert plain.final.half_width > 10
    assert other.difference == (-1.0, 0.0, 0.0)
    assert other.last_difference.value == pytest.approx(-0.1)
    assert other.saving.value == pytest.approx(50.0)
    assert evidence.table(results).count("\n") == 3
