"""The notebooks run, and what was committed with them is what they say today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="needs the extra notebooks")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_000_000  # of all of them

spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_was_committed(path):
    committed = execute.texts(execute.read(path))
    said = execute.texts(execute.execute(execute.read(path)))
    assert said == committed, f"run: make notebooks  # and look at what has changed in {path.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_pictures_and_no_warnings(path):
    shown = [text for cell in execute.texts(execute.read(path)) for text in cell]
    assert shown.count("a picture") >= 3
    assert not [text for text in shown if text.startswith("stderr")]


def test_all_notebooks_together_are_small():
    assert len(NOTEBOOKS) == 4
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES


def test_what_means_nothing_is_not_kept():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert '"execution"' not in text
        assert str(Path.home()) not in text
