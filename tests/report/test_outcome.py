from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.accounting.attribution import Outcome, RunFront
from lowcarb_scheduler.planning.pareto import Frontier, FrontierPoint
from lowcarb_scheduler.report.pareto import picture_of_outcome
from lowcarb_scheduler.report.style import day
from support.report_ledger import START

DEADLINE = START + timedelta(hours=24)


def front(*stands):
    points = tuple(
        FrontierPoint(k / 2, START + timedelta(hours=hours), grams, grams, None)
        for k, (hours, grams) in enumerate([(4, 1800.0), (8, 1300.0), (16, 1200.0)])
    )
    return RunFront(
        Frontier(points, 2000.0), tuple(Outcome(name, START + timedelta(hours=h), g) for name, h, g in stands)
    )


STANDS = ("run-now", 4, 2000.0), ("planned", 16, 1210.0), ("realised", 17, 1250.0)


def test_front_outcomes_and_deadline_are_inside_the_axes():
    axes = picture_of_outcome(front(*STANDS), DEADLINE, "made up").draw(11.0).axes[0]
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    for line in axes.lines[:-1]:
        assert (low < line.get_ydata()).all()
        assert (line.get_ydata() < high).all()
        assert (left < line.get_xdata()).all()
        assert (line.get_xdata() < right).all()
    assert axes.lines[-1].get_xdata()[0] == day(DEADLINE) < right
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [
        "plans at the start", "run-now: 2.00 kg", "planned, for the energy really drawn: 1.21 kg",
        "realised: 1.25 kg",
    ]  # fmt: skip


@pytest.mark.parametrize("stands", [(), STANDS[:1], STANDS[1:2]])
def test_an_unfinished_run_has_a_front(stands):
    picture = picture_of_outcome(front(*stands), None, "made up")
    assert len(picture.draw(4.2).axes[0].lines) == 1 + len(stands)
    assert "deadline" not in picture.caption
