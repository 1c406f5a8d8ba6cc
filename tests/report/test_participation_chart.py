from __future__ import annotations

import pytest

from lowcarb_scheduler.report.charts import MOST_CLIENTS, picture_of_turns


def drawn(turns):
    axes = picture_of_turns(turns, "made up").draw(4.2).axes[0]
    return axes, [bar for group in axes.containers for bar in group]


def test_clients_are_in_natural_order():
    axes, bars = drawn({"s-10": 1, "10": 2, "9": 3, "s-2": 0, "٣": 4})
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names.index("9") < names.index("10")
    assert names.index("s-2") < names.index("s-10")
    assert dict(zip(names, (bar.get_width() for bar in bars), strict=True))["9"] == 3


def test_a_large_fleet_is_shown_by_turns():
    turns = {f"c{k}": 3 if k else 1 for k in range(MOST_CLIENTS + 1)}
    _, bars = drawn(turns)
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars] == [
        (1, 1), (2, 0), (3, MOST_CLIENTS),
    ]  # fmt: skip


@pytest.mark.parametrize("turns", [{"a": 0}, {"a": 0, "b": 0}, dict.fromkeys(map(str, range(99)), 0)])
def test_a_fleet_without_turns_has_a_chart(turns):
    assert "completed 0 turns" in picture_of_turns(turns, "made up").title
    assert drawn(turns)


def test_the_title_counts():
    assert picture_of_turns({"a": 2}, "").title == "1 client completed 2 turns"
    assert picture_of_turns({"a": 1, "b": 1}, "").title == "2 clients completed 1 turn each"
    assert picture_of_turns({"a": 1, "b": 3}, "").title == "2 clients completed 1 to 3 turns each"


def test_without_clients_there_is_no_picture():
    assert picture_of_turns({}, "made up") is None
