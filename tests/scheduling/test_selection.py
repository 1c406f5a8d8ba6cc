"""The line-up of a round: the plan's, and in gaps and extra places the best of those who owe turns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, IntensityTable, Job, plan
from lowcarb_scheduler.clock import HOUR_US, from_us, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.scheduling.selection import UpcomingRound, select_clients

NOW, HOUR = datetime(2026, 3, 2, tzinfo=UTC), timedelta(hours=1)
INTENSITY = {"DE": 500.0, "FR": 50.0, "GB": 200.0}


def table(hours=24, **curves):
    columns = {place: np.full(hours, level) for place, level in INTENSITY.items()} | curves
    edges = to_us(NOW) + np.arange(hours + 1, dtype=np.int64) * HOUR_US
    values = np.stack([np.asarray(column, dtype=float) for column in columns.values()], axis=1)
    return IntensityTable(edges, tuple(columns), values, Provenance("test", "average"))


@pytest.fixture
def planned():
    """Two rounds of two out of six, two in each place."""
    frame = pd.DataFrame(
        {"id": [f"{place}-{k}" for place in INTENSITY for k in (1, 2)],
         "location": np.repeat([*INTENSITY], 2), "power_watts": 1000.0}
    )  # fmt: skip
    job = Job(Fleet.from_frame(frame), NOW, NOW + 24 * HOUR, 2, 2, HOUR)
    return plan(job, table())


def ids(made, selection):
    return sorted(str(name) for name in made.fleet.ids[selection.clients])


def owed(made, index=0):
    return {str(name) for name in made.fleet.ids[made.seats[index + 1 :].ravel()]}


def lined(made, there=None, wanted=2, share=1.0, known=None, opens_at=None, index=0):
    there = [str(name) for name in made.fleet.ids] if there is None else there
    opens_at = opens_at or from_us(made.opens_us[index])
    return select_clients(UpcomingRound(made, index), known or table(), opens_at, there, wanted, share)


def test_it_is_the_plans_where_nothing_has_changed(planned):
    for index in range(2):
        selection = lined(planned, index=index)
        assert selection.clients.tolist() == planned.seats[index].tolist()
        assert selection.starts_us.tolist() == planned.starts_us[index].tolist()
        assert selection.ends_us.tolist() == planned.ends_us[index].tolist()
        assert selection.emissions_g == pytest.approx(planned.client_emissions_g[index].sum())


def test_a_gap_goes_to_the_cleanest_of_those_who_owe_a_turn(planned):
    there = [str(name) for name in planned.fleet.ids]
    gone = there.pop(int(planned.seats[0][0]))
    selection = lined(planned, there)
    (joined,) = set(ids(planned, selection)) - {str(n) for n in planned.fleet.ids[planned.seats[0]]}
    level = {name: INTENSITY[name.split("-")[0]] for name in there}
    assert joined in owed(planned)
    assert level[joined] == min(level[name] for name in owed(planned) - {gone})
    expected = sum(level[name] for name in ids(planned, selection))
    assert selection.emissions_g == pytest.approx(expected)


def test_extra_places_go_to_those_who_owe_turns_first(planned):
    selection = lined(planned, wanted=4)
    assert set(ids(planned, selection)) == {str(n) for n in planned.fleet.ids[planned.seats[0]]} | owed(
        planned
    )
    assert (selection.starts_us == planned.opens_us[0]).all()
    assert (selection.ends_us == planned.opens_us[0] + HOUR_US).all()
    assert len(lined(planned, wanted=99).clients) == 6  # there are no more


def test_fewer_are_lined_up_where_there_are_no_more(planned):
    there = [str(planned.fleet.ids[planned.seats[0][0]])]
    assert ids(planned, lined(planned, there)) == there


@pytest.mark.parametrize(("wanted", "share", "most"), [(3, 0.34, 1), (4, 0.5, 2), (6, 0.34, 2)])
def test_a_cap_on_locations_is_kept_where_it_can_be(planned, wanted, share, most):
    selection = lined(planned, wanted=wanted, share=share)
    places = planned.fleet.location_index[selection.clients]
    already = int(np.bincount(planned.fleet.location_index[planned.seats[0]]).max())
    assert np.bincount(places).max() <= max(most, already)
    assert len(selection.clients) == wanted


def test_a_cap_leaves_no_place_empty(planned):
    there = [name for name in map(str, planned.fleet.ids) if name.startswith("DE")]
    assert ids(planned, lined(planned, there, wanted=2, share=0.5)) == ["DE-1", "DE-2"]


def test_a_round_that_opens_at_another_time_is_accounted_for_then(planned):
    known = table(DE=np.linspace(100, 500, 24), FR=np.linspace(10, 50, 24), GB=np.linspace(9, 99, 24))
    late = from_us(planned.opens_us[0]) + 5 * HOUR
    selection = lined(planned, known=known, opens_at=late)
    assert (selection.starts_us == to_us(late)).all()
    assert selection.emissions_g == pytest.approx(UpcomingRound(planned, 0).emissions_g(known, late))
    assert selection.emissions_g != pytest.approx(planned.client_emissions_g[0].sum())


def test_what_is_not_known_is_not_claimed(planned):
    opens_at = from_us(planned.opens_us[0])
    there = [str(name) for name in planned.fleet.ids[2:]]
    assert select_clients(UpcomingRound(planned, 0), None, opens_at, there, 2, 1.0).emissions_g is None
    assert lined(planned, opens_at=NOW + 23.5 * HOUR).emissions_g is None  # the forecast ends before
    assert UpcomingRound(planned, 0).emissions_g(None, opens_at) is None


def test_the_cleanest_opening_is_found_between_the_hours_too(planned):
    curve = np.full(24, 500.0)
    curve[[3, 4]] = 100.0, 200.0
    known, upcoming = table(DE=curve, FR=curve, GB=curve), UpcomingRound(planned, 0)
    assert upcoming.cleanest_opening(known, NOW, NOW + 10 * HOUR) == NOW + 3 * HOUR
    assert upcoming.cleanest_opening(known, NOW, NOW + 2.5 * HOUR) == NOW + 2.5 * HOUR
    assert upcoming.cleanest_opening(known, NOW + 3.25 * HOUR, NOW + 9 * HOUR) == NOW + 3.25 * HOUR
    assert upcoming.cleanest_opening(known, NOW + 6 * HOUR, NOW + 9 * HOUR) == NOW + 6 * HOUR


def test_where_nothing_is_known_the_earliest_opening_is_the_best(planned):
    upcoming = UpcomingRound(planned, 0)
    assert upcoming.cleanest_opening(None, NOW, NOW + HOUR) == NOW
    assert upcoming.cleanest_opening(table(), NOW + 50 * HOUR, NOW + 60 * HOUR) == NOW + 50 * HOUR


def test_a_gap_is_filled_so_that_balance_is_kept_among_those_who_owe_turns():
    """Two of each place owe one turn each; FR, the cleanest, has had its share of the first round already."""
    frame = pd.DataFrame(
        {"id": [f"{place}-{k}" for place in INTENSITY for k in range(4)],
         "location": np.repeat([*INTENSITY], 4), "power_watts": 1000.0}
    )  # fmt: skip
    made = plan(Job(Fleet.from_frame(frame), NOW, NOW + 24 * HOUR, 4, 3, HOUR), table())
    there = [str(name) for name in made.fleet.ids]
    there = [name for name in there if name not in {str(made.fleet.ids[k]) for k in made.seats[0]}]
    opens_at = from_us(made.opens_us[0])

    def places(balance_turns):
        chosen = select_clients(UpcomingRound(made, 0), table(), opens_at, there, 3, 1.0, balance_turns)
        return np.bincount(made.fleet.location_index[chosen.clients], minlength=3).tolist()

    fr = made.fleet.locations.index("FR")
    assert places(None)[fr] == min(3, sum(name.startswith("FR") for name in there))
    assert max(places(0.5)) == 1
    assert max(places(1.0)) == 2


def test_one_who_joins_a_round_that_opens_late_starts_then_and_takes_its_own_time(planned):
    there = [str(name) for name in planned.fleet.ids]
    there.pop(int(planned.seats[0][0]))
    late_us = int(planned.opens_us[0]) + HOUR_US // 2
    selection = lined(planned, there, opens_at=from_us(late_us))
    assert selection.starts_us.tolist() == [late_us, late_us]
    assert selection.ends_us.tolist() == [late_us + HOUR_US] * 2
