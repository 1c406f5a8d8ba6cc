from __future__ import annotations

import pytest

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.report.figure import save
from lowcarb_scheduler.report.rounds import picture_of_run
from support.figures import svg, words
from support.ledgers import replayed
from support.report_ledger import run_events


def run_picture():
    return picture_of_run(replayed(run_events())).figure()


def test_a_run_is_drawn_with_rounds_locations_and_deadline():
    shown = words(run_picture())
    for part in (
        "FR",
        "DE",
        "3 rounds by time and location",
        "deadline 2026-03-02 06:00",
        "dashed: initial plan",
    ):
        assert part in shown


def test_equal_runs_give_equal_bytes():
    assert svg(run_picture()) == svg(run_picture())


def test_names_are_neither_formulas_nor_markup():
    events = run_events()
    for event in events:
        for node in event.get("nodes", []):
            node["location"] = r"$\frac{<script>\n" + "x" * 10_000
    picture = svg(picture_of_run(replayed(events)).figure())
    assert "<script>" not in picture
    assert len(picture) < 300_000


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_pictures_are_saved_by_suffix(tmp_path, kind):
    file = tmp_path / f"run.{kind}"
    save(run_picture(), file)
    first = file.read_bytes()
    save(run_picture(), file)
    assert file.read_bytes() == first


def test_a_file_that_cannot_be_written_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save(run_picture(), tmp_path / "none" / "run.png")
