"""Figures: what stands on pages is what their files say, and what scripts say again."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "figures").glob("*.json"))


@pytest.fixture
def figures(monkeypatch):
    """Return the script as a module."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith("accuracy_study")]:
        del sys.modules[name]


@pytest.fixture
def study(monkeypatch):
    """Return the script of the accuracy study as a module."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "accuracy")
    for name in [name for name in sys.modules if name == "run" or name.startswith("accuracy_study")]:
        monkeypatch.delitem(sys.modules, name)
    import run

    yield run
    for name in [name for name in sys.modules if name == "run" or name.startswith("accuracy_study")]:
        del sys.modules[name]


def test_tables_are_what_the_numbers_say(figures):
    for page in figures.pages():
        text = page.read_text(encoding="utf-8")
        assert figures.rewritten(text) == text, (
            f"{page.name}: make figures, or benchmarks/figures.py --tables"
        )


def test_pages_show_tables_that_are_known(figures):
    text = "".join(page.read_text(encoding="utf-8") for page in figures.pages())
    shown = {match[2] for match in figures.BLOCK.finditer(text)}
    assert shown <= set(figures.TABLES)
    assert {"savings", "accuracy", "forecast-skill"} <= shown


def test_a_number_that_was_changed_is_noticed(figures):
    page = ROOT / "examples" / "accuracy" / "README.md"
    text = page.read_text(encoding="utf-8")
    wrong = text.replace("| plain FedAvg |", "| plain FedAvg | 99.9")
    assert wrong != text
    assert figures.rewritten(wrong) == text


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_file_says_what_it_rests_on_and_how_it_was_made(figures, file):
    found = json.loads(file.read_text(encoding="utf-8"))
    (figure,) = [each for each in figures.ALL if each.name == file.stem]
    assert (found["figure"], found["rests_on"]) == (figure.name, figure.rests_on)
    assert found["command"].split()[0] in ("python", "lowcarb")
    assert not any(folder in file.read_text(encoding="utf-8") for folder in ("/home", "/tmp", "/work"))
    if figure.rests_on == figures.REAL:
        assert "DATA" in found["command"]


def test_without_data_figures_on_real_traces_are_left_as_they_are(figures, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figures.py", "--only", "backtest", "capture"])
    with pytest.raises(SystemExit) as exit_:
        figures.main()
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["backtest", "capture"]
    assert all("skipped" in line and "DATA" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "schedule"),
    [
        ("softmax", "plain"),
        ("network", "plain-corrected"),
        ("diabetes", "region-after-region"),
        ("tumours", "rule-2022"),
    ],
)
def test_the_accuracy_study_comes_out_again(study, task, schedule):
    said = json.loads((ROOT / "docs" / "figures" / "accuracy.json").read_text(encoding="utf-8"))
    period = (datetime.fromisoformat(said[key]) for key in ("from", "to"))
    asked = study.Study(tuple(said["seeds"]), study.Intensities(*period), rounds=said["rounds"])
    run = study.Run(said["seeds"][0], "main", task, schedule)
    found, then = study.follow(asked, run), said["settings"]["main"][task][schedule][0]
    assert found["emissions_g"] == pytest.approx(then["emissions_g"], abs=0.1)
    for score in ("final", "last_ten"):  # sums of floats differ between machines
        assert found[score] == pytest.approx(then[score], abs=1.0)
