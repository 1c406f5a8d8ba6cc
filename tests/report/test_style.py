from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from lowcarb_scheduler.report.style import day, new_figure, time_axis
from support.report_ledger import START

SPANS = [timedelta(minutes=1), timedelta(minutes=90), timedelta(hours=13), timedelta(hours=47),
         *(timedelta(days=d) for d in (3, 7, 8, 10, 11, 15, 16, 31, 365, 3650))]  # fmt: skip


def labels(start, span):
    """Return the labels of an axis, and the room each takes [pixels], by line."""
    figure = new_figure(2.0)
    axes = figure.subplots()
    axes.set_xlim(day(start), day(start + span))
    time_axis(axes, start, start + span)
    figure.draw_without_rendering()
    return [(label.get_text(), label.get_window_extent()) for label in axes.get_xticklabels()]


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("off", [timedelta(0), timedelta(hours=22, minutes=41)], ids=["midnight", "late"])
def test_no_label_meets_the_next_at_any_length(span, off):
    shown = labels(START + off, span)
    assert shown
    for (_, one), (_, other) in pairwise(shown):
        assert one.x1 + 2 < other.x0


def test_days_are_named_at_their_midnight():
    names = [name for name, _ in labels(START + timedelta(hours=1), timedelta(hours=47))]
    assert names[0] == "06:00\nMon 2 Mar"
    assert names.count("Tue 3 Mar") == 1
