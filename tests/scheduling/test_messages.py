"""Log of a run before its first hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, Job, Synthetic, plan
from lowcarb_scheduler.scheduling.messages import plan_lines
from lowcarb_scheduler.scheduling.policy import Decision
from lowcarb_scheduler.scheduling.schedule import Schedule

NOW, HOUR = datetime(2026, 6, 15, tzinfo=UTC), timedelta(hours=1)
PLACES = ("DE", "US-CAL-CISO", "AU-NSW", "KR")
WARNING = "if data differ by location"


def lines(quiet=False, places=PLACES, **rules):
    rows = {"id": [f"c{k:02}" for k in range(24)], "location": [places[k % len(places)] for k in range(24)]}
    fleet = Fleet.from_frame(pd.DataFrame(rows))
    job = Job(fleet, NOW, NOW + 60 * HOUR, 20, 6, HOUR, **rules)
    planned = plan(job, Synthetic().actual(places, NOW, NOW + 72 * HOUR))
    schedule = Schedule.settle(NOW, 20, HOUR, 60 * HOUR, 1.0)
    said = plan_lines(Decision(planned, on_forecast=True), schedule, None, quiet)
    return planned, [line for line in said if WARNING in line]


def test_rounds_of_few_locations_are_pointed_out():
    planned, warnings = lines()
    places = planned.fleet.location_index
    heard = np.mean([len(set(places[seats])) for seats in planned.seats])
    random = np.random.default_rng(0)
    drawn = [len(set(places[random.choice(24, 6, replace=False)])) for _ in range(4000)]
    (warning,) = warnings
    assert f"clients from {heard:.1f} locations" in warning
    said = float(warning.split("a random one from ")[1].split(";")[0])
    assert said == pytest.approx(np.mean(drawn), abs=0.1)


@pytest.mark.parametrize("quiet", [{"quiet": True}, {"max_location_share": 0.34}, {"places": ("DE",)}])
def test_else_nothing_is_said_of_it(quiet):
    assert not lines(**quiet)[1]
