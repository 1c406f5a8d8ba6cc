"""The examples: apps that train and wait, and jobs that have a plan."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.app import Context, MessageType, RecordDict

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.cli import main
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid

EXAMPLES = Path(__file__).parents[2] / "examples"
JOBS = sorted([EXAMPLES / "job.toml", *(EXAMPLES / "jobs").glob("*.toml")])
APPS = [
    pytest.param("sklearn-digits", "sklearn_digits", id="sklearn"),
    pytest.param(
        "pytorch",
        "pytorch_digits",
        id="pytorch",
        marks=pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
    ),
]
PLACES = ("DE", "FR", "GB", "ES")


@pytest.fixture
def load(monkeypatch):
    """Return a function that loads the apps of an example."""

    def apps(folder, package):
        monkeypatch.syspath_prepend(EXAMPLES / folder)
        return [importlib.import_module(f"{package}.{side}_app").app for side in ("server", "client")]

    yield apps
    for name in [name for name in sys.modules if name.split(".")[0] in ("sklearn_digits", "pytorch_digits")]:
        del sys.modules[name]


def config_of(folder):
    document = tomllib.loads((EXAMPLES / folder / "pyproject.toml").read_text(encoding="utf-8"))
    return document["tool"]["flwr"]["app"]["config"]


@pytest.mark.parametrize(("folder", "package"), APPS)
def test_an_app_learns_and_waits(load, folder, package, capsys):
    server, client = load(folder, package)
    config = config_of(folder) | {
        "lowcarb-clock": "virtual:2026-06-15T06:00:00Z", "lowcarb-clients-per-round": 4,
        "lowcarb-run-dir": "run",
    }  # fmt: skip
    nodes = [{"partition-id": k, "num-partitions": 8, "location": PLACES[k % 4]} for k in range(8)]
    grid = InMemoryGrid(client, nodes, config)
    server(grid, Context(1, 0, {}, RecordDict(), config))
    accuracy = float(re.search(r"accuracy on unseen digits: (\d+\.\d)%", capsys.readouterr().out)[1])
    assert accuracy > 80
    trained = [m for m in grid.sent if m.metadata.message_type == MessageType.TRAIN]
    assert len(trained) == 5 * 4
    run = summarise(read_ledger(Path("run")))
    assert run.status == "completed"
    assert any(each.held for each in run.rounds)
    assert run.saving > 0
    assert run.rounds[-1].metrics["accuracy"] > run.rounds[0].metrics["accuracy"]
    assert not run.degraded


@pytest.mark.parametrize("folder", ["quickstart-numpy", "sklearn-digits", "pytorch"])
def test_the_settings_of_an_app_are_settings(folder):
    settings = Settings.load(run_config=config_of(folder))
    assert settings.source == "synthetic"


@pytest.mark.parametrize("folder", [each.name for each in EXAMPLES.iterdir() if each.is_dir()])
def test_an_example_explains_itself(folder):
    text = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (EXAMPLES / folder / link).exists(), link


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_a_job_has_a_plan_that_saves(job, capsys):
    command = next(line for line in job.read_text(encoding="utf-8").splitlines() if "lowcarb plan" in line)
    assert command.split()[-3:] == [f"examples/{job.relative_to(EXAMPLES)}", "--source", "synthetic"]
    assert main(["plan", "--job", str(job), "--source", "synthetic", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    asked = tomllib.loads(job.read_text(encoding="utf-8"))
    assert len(planned["rounds"]) == asked["rounds"]
    assert planned["saving"] > 0
