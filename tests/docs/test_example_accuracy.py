"""The accuracy study: all schedules do the same work with the same data, and tables say what was found."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.ledger import read_ledger

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "accuracy"
YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC)


@pytest.fixture
def run(monkeypatch):
    """Return the study's script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    forget(monkeypatch)
    import run as script

    yield script
    forget(monkeypatch)


def forget(monkeypatch):
    for name in [name for name in sys.modules if name == "run" or name.startswith("accuracy_study")]:
        monkeypatch.delitem(sys.modules, name)


def study(run, rounds=10):
    return run.Study((100, 101), run.Intensities(*YEAR), rounds=rounds)


def world_of(run, rounds=10, deadline=1.5, **skew):
    world = study(run, rounds).world(run.Run(101, "main", "softmax", "plain"))
    setting = replace(world.setting, deadline=deadline, skew=replace(world.setting.skew, **skew))
    return replace(world, setting=setting)


def dealt(run, task, **skew):
    from accuracy_study.data import split

    world = world_of(run, **skew)
    region = world.case.fleet.location_index
    return region, split(run.TASKS[task].data(), world.setting.skew, region, np.random.default_rng(0))


@pytest.mark.parametrize("task", ["softmax", "tumours", "diabetes"])
def test_nobody_shares_an_example_and_all_have_equally_many(run, task):
    _, owned = dealt(run, task)
    data = run.TASKS[task].data()
    assert {len(each) for each in owned} == {len(data.train) // 100}
    seen = np.concatenate([np.hstack([each.inputs, each.targets]) for each in owned])
    distinct = np.unique(np.hstack([data.train.inputs, data.train.targets]), axis=0)
    assert len(np.unique(seen, axis=0)) >= len(seen) - (len(data.train) - len(distinct))


def largest_share(owned, who):
    """Return the mean part of the commonest digit in the images of groups of clients."""
    counts = [sum(owned[k].targets.sum(axis=0) for k in clients) for clients in who]
    return np.mean([count.max() / count.sum() for count in counts])


def test_regions_see_few_digits_unless_all_data_are_alike(run):
    region, owned = dealt(run, "softmax")
    places = [np.flatnonzero(region == place) for place in range(16)]
    assert largest_share(owned, places) > 0.4  # 0.1 if all saw the same
    _, alike = dealt(run, "softmax", concentration=float("inf"))
    assert largest_share(alike, places) < 0.25
    _, by_client = dealt(run, "softmax", by="client")
    assert largest_share(by_client, places) < largest_share(by_client, [[k] for k in range(100)]) - 0.1


def test_sizes_differ_up_to_ten_times(run):
    region, owned = dealt(run, "softmax", sizes=10.0)
    sizes = np.array([len(each) for each in owned])
    assert 5 < sizes.max() / sizes.min() <= 13  # whole examples
    region, owned = dealt(run, "softmax", sizes=10.0, sizes_by="region")
    assert all(len({len(owned[k]) for k in np.flatnonzero(region == place)}) == 1 for place in range(16))


@pytest.mark.parametrize("task", ["softmax", "network", "tumours", "diabetes"])
def test_gradients_are_those_of_the_loss(run, task):
    task = run.TASKS[task]
    rng = np.random.default_rng(1)
    weights = [layer + 0.1 * rng.standard_normal(layer.shape) for layer in task.new_weights(0)]
    batch = task.data().train[np.arange(5)]
    for slope, moved in zip(task.gradient(weights, batch), range(len(weights)), strict=True):
        step, place = 1e-5, (0,) * slope.ndim
        sides = []
        for sign in (1, -1):
            nudged = [layer.copy() for layer in weights]
            nudged[moved][place] += sign * step
            sides.append(task.loss(nudged, batch))
        assert slope[place] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("task", ["softmax", "network", "tumours", "diabetes"])
def test_tasks_can_be_learnt(run, task):
    task = run.TASKS[task]
    weights, rng = task.new_weights(0), np.random.default_rng(0)
    before = task.score(weights)
    for _ in range(6):
        weights = task.train(weights, task.data().train, rng)
    assert task.score(weights) > max(before + 20, 40)


@pytest.mark.parametrize("name", ["rule-2022", "free", "defaults", "region-after-region"])
def test_schedules_do_the_same_work(run, name):
    world, task = world_of(run), run.TASKS["softmax"]
    schedule = run.SCHEDULES[name]
    found = schedule.follow(world, task).entry(world)
    assert len(found["scores"]) == 10
    assert found["hours"] <= 15
    if name != "defaults":
        assert found["fewest_turns"] == found["most_turns"] == 1
    assert found == schedule.follow(world, task).entry(world)


def test_plans_from_memory_change_nothing(run):
    from accuracy_study.schedules import remembered_plans

    world, schedule = world_of(run, rounds=5), run.SCHEDULES["free-off"]
    planned = schedule.follow(world, run.TASKS["diabetes"])
    with remembered_plans():
        for task in ("softmax", "diabetes"):
            found = schedule.follow(world, run.TASKS[task])
    assert found.entry(world) == planned.entry(world)


def test_what_a_run_is_charged_is_what_its_ledger_says(run, tmp_path):
    from accuracy_study.schedules import scheduled

    world = world_of(run, rounds=5)
    found = scheduled(world, run.TASKS["tumours"], tmp_path, **run.SCHEDULES["free"].settings).entry(world)
    said = summarise(read_ledger(tmp_path / "run"))
    assert found["emissions_g"] == pytest.approx(said.realised_g, rel=1e-4)


def test_a_study_that_was_ended_goes_on(run, tmp_path, capsys):
    part = replace(study(run, rounds=4), tasks=("tumours",), schedules=("plain", "region-after-region"))
    kept = tmp_path / "runs.jsonl"
    whole = run.conduct(part, 1, kept)
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(lines[:3]), encoding="utf-8")
    assert run.conduct(part, 1, kept, resume=True) == whole
    assert sorted(kept.read_text(encoding="utf-8").splitlines(keepends=True)) == sorted(lines)
    assert "1 of 1" in capsys.readouterr().err.splitlines()[-1]  # only the missing run


def entries(*scores, emissions=50.0, jain=1.0):
    return [
        {"final": score, "last_ten": score - 1, "all_rounds": score, "emissions_g": emissions, "hours": 10.0,
         "regions_a_round": 7.0, "jain": jain, "fewest_turns": 1, "most_turns": 1}
        for score in scores
    ]  # fmt: skip


@pytest.fixture
def results():
    """Return results of two tasks in which the defaults lose one point, and save as much as a free plan."""
    one = {"plain": entries(60, 70, 90, emissions=100.0), "plain-corrected": entries(61, 71, 91),
           "free-off": entries(50, 60, 80), "free": entries(60, 70, 90),
           "defaults": entries(59, 69, 89)}  # fmt: skip
    return {"settings": {"main": {"softmax": one, "network": one}}, "run_now_g": {"main": [100.0] * 3},
            "seeds": [100, 101, 102], "intensity": "synthetic"}  # fmt: skip


def test_differences_are_paired_by_seed(run, results):
    from accuracy_study.evidence import Found

    found = Found.of(results, "main")
    assert found.difference("softmax", "defaults", "final") == (-1.0, 0.0, 0.0)
    assert found.difference("network", "free", "final", "plain-corrected") == (-1.0, 0.0, 0.0)
    assert found.saving("defaults") == (50.0, 0.0, 0.0)
    assert found.saving("plain").value == 0.0


def test_tables_have_a_row_a_schedule(run, results):
    from accuracy_study import evidence

    table = evidence.table(results)
    assert table.count("\n") == 6
    assert "73.3, 72.3 (accuracy, %)" in table  # of plain FedAvg itself
    row = "| **defaults**: balanced, turns that differ, corrected | 50.0 ± 0.0 | 1 to 1; 1.00 |"
    assert f"{row} -1.0 ± 0.0, -1.0 ± 0.0 |" in table
    assert set(evidence.tables(results)) == {
        "Dirichlet 0.1 by region, against plain FedAvg",
        "Dirichlet 0.1 by region, against plain FedAvg with the correction",
    }


def test_the_verdict_falls_with_accuracy_and_saving(run, results):
    from accuracy_study import evidence

    assert evidence.verdict(results).startswith("the defaults hold: at worst -1.0 ± 0.0 points")
    of_task = results["settings"]["main"]["network"]
    of_task["defaults"] = entries(58.5, 68.5, 88.5)
    assert evidence.verdict(results).startswith("the defaults DO NOT HOLD: at worst -1.5")
    for task in results["settings"]["main"].values():
        task["defaults"] = entries(60, 70, 90, emissions=56.0)
    assert "DO NOT HOLD" in evidence.verdict(results)
    assert "88% of the free plan's saving" in evidence.verdict(results)


def test_the_picture_pairs_plans_with_and_without_the_correction(run, results):
    from accuracy_study.picture import draw

    figure = draw(results)
    panels = [panel for panel in figure.axes if panel.get_title(loc="left")]
    assert [panel.get_title(loc="left").split(" (")[0] for panel in panels] == [
        "digits, softmax", "digits, network of 32"
    ]  # fmt: skip
    points = {tuple(line.get_xydata()[0]) for line in panels[0].lines if len(line.get_xydata()) == 1}
    assert {(0.0, 0.0), (50.0, -10.0), (50.0, 0.0)} <= points
