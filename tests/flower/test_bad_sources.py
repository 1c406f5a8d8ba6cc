"""Faulty sources: the training still finishes by its deadline, and one warning names the fault."""

from __future__ import annotations

from itertools import count, repeat

import numpy as np
import pytest

from lowcarb_scheduler import Forecast, ForecastSource, IntensityTable
from lowcarb_scheduler.clock import HOUR_US, parse_time, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import make_app, node_configs, takes
from support.clocks import Machine
from support.forecast_sources import DAY, HOUR, NOW
from support.runs import named, run

HALF = "uksouth\ud800"  # half of a surrogate pair, which no file takes as UTF-8
TURNED = "DE\u202eFED"  # shown from right to left
PLACES = ("DE", "FR")
DECLARED = ("name", "signal", "locations", "issued_every", "server", "faults")
METHODS = ("forecast", "actual", "past_forecasts", "known_locations")


class Tide(ForecastSource):
    """A good source, which has everything a source may have: the night is dirty and the day is clean."""

    name, signal, locations = "tide", "average", None

    def table(self, locations, start, end):
        edges = np.arange(to_us(start) // HOUR_US, to_us(end) // HOUR_US + 2) * HOUR_US
        hours = edges[:-1] // HOUR_US % 24
        values = np.where((hours < 6) | (hours >= 18), 400.0, 100.0)[:, None] + np.zeros(len(locations))
        return IntensityTable(edges, tuple(locations), values, Provenance("tide", "average"))

    def forecast(self, locations, now, *, timeout=None):
        return Forecast(self.table(locations, now, now + 2 * DAY), now)

    def actual(self, locations, start, end, *, timeout=None):
        return self.table(locations, start, end)

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        return [Forecast(self.table(locations, end - DAY, end + DAY), end - DAY)]

    def known_locations(self, *, timeout=None):
        return dict.fromkeys(PLACES, (50.0, 10.0))


class Hostile:
    """An object that cannot be compared, counted, shown or hashed."""

    def _refuse(self, *arguments):
        raise RuntimeError("hands off")

    __eq__ = __hash__ = __str__ = __repr__ = __len__ = __iter__ = __bool__ = _refuse


class LowError(BaseException):
    """An error that ``except Exception`` does not catch."""


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(error):
    def act(*arguments, **options):
        raise error

    return act


def gives(value):
    return lambda *arguments, **options: value


ACTS = {
    "raises": raises(RuntimeError("boom")),
    "raises what is no Exception": raises(LowError("boom")),
    "raises an error without text": raises(MuteError()),
    "raises half a pair": raises(ForecastUnavailableError({HALF: HALF})),
    "gives an object": gives(Hostile()),
    "gives no end": lambda *arguments, **options: repeat(Hostile()),
    "gives a mapping": gives({7: Hostile(), HALF: None, TURNED: (1, 2)}),
    "gives names": gives([HALF, TURNED, "a" * 10_000, "", None, "DE", "FR"]),
}
# Each act at once, and two of them after good uses, as in the middle of a run.
CASES = [(act, 0) for act in ACTS] + [("raises what is no Exception", 2), ("gives an object", 2)]
ONCE = ("name", "signal", "issued_every", "server", "past_forecasts", "known_locations")  # read at the start


def faulty(attribute, act, good_uses):
    """Return a source whose attribute goes wrong after a number of good uses."""
    uses = count()

    class Faulty(Tide):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name != attribute or next(uses) < good_uses:
                return value
            return act if name in METHODS else act()

    return Faulty()


def train(source, rounds=2, default_location="DE"):
    """Run rounds of exactly an hour, check that all are in time, and return the warnings."""
    clock, finish_by = Machine(NOW), NOW + 9 * HOUR
    app = make_app(on_train=takes(clock, lambda _: HOUR))
    settings = {"round_duration": HOUR, "finish_by": finish_by, "default_location": default_location}
    events = run(InMemoryGrid(app, node_configs(4, PLACES)), clock, rounds, source=source, **settings)
    closed = named(events, "round_closed")
    assert len(closed) == rounds
    assert parse_time(closed[-1]["closes_at"], "closes_at") <= finish_by
    assert named(events, "run_finished")[0]["status"] == "completed"
    warnings = [f"{each['what']}: {each['why']}; {each['consequence']}" for each in named(events, "degraded")]
    assert all(line.isprintable() and len(line) < 600 for line in warnings)
    return warnings


def test_a_good_source_gives_no_warning():
    assert train(Tide()) == []


@pytest.mark.parametrize(("act", "good_uses"), CASES)
@pytest.mark.parametrize("attribute", DECLARED + METHODS)
def test_no_attribute_of_a_source_stops_a_training(attribute, act, good_uses):
    warnings = train(faulty(attribute, ACTS[act], good_uses))
    if good_uses and attribute in ONCE:
        assert warnings == []
        return
    if attribute == "forecast" and not good_uses:  # and what that means for the plan
        assert warnings.pop() == "plan: no location has a forecast; the next round opens at once"
    assert len(warnings) == 1


def test_a_location_that_no_file_can_take_is_refused_before_anything_trains():
    for name in (HALF, TURNED, "DE\n"):
        with pytest.raises(InputError, match="default_location"):
            train(Tide(), default_location=name)


def test_values_that_no_grid_has_count_as_unknown():
    class Absurd(Tide):
        def table(self, locations, start, end):
            table = super().table(locations, start, end)
            values = table.values.copy()
            values[::3, 0] = 1e9
            return table.relaid(table.edges_us, table.locations, values)

    warnings = train(Absurd())
    problem = "some of the values are not from 0 to 3,000 g/kWh; they count as unknown"
    assert warnings == [f"forecast of DE: {problem}", f"actual intensity of DE: {problem}"]
