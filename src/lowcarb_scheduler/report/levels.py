"""From run-now to realised in four steps: what a round would have emitted, one thing changed at a time."""

from __future__ import annotations

from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting import emissions_g
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.flower.profiles import UNKNOWN_PLACE
from lowcarb_scheduler.flower.turns import expected_g, realised_g, stretch_of

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.report.record import Worked


class Levels(NamedTuple):
    """The five levels of a round, as :func:`~lowcarb_scheduler.accounting.waterfall` takes them [gCO2eq].

    NaN is not known. All but the first are of the energy that was really drawn.

    Parameters
    ----------
    run_now_g : float
        The same work by random clients when run-now would have done it.
    at_once_g : float
        By those who were to train, at that time.
    expected_g : float
        By them when they were to train, as expected when the round opened; on actual intensity where nothing
        was expected, so that what nobody forecast has no forecast error.
    as_planned_g : float
        The same on actual intensity; as far as turns went, where they were shorter and the rest is not known.
    realised_g : float
        By those who really trained, when they did.
    """

    run_now_g: float
    at_once_g: float
    expected_g: float
    as_planned_g: float
    realised_g: float


def levels_of(worked: Worked, actual: IntensityTable) -> Levels:
    """Return the levels of a round."""
    kwh = sum(turn.energy_kwh for turn in worked.turns)
    realised = realised_g(worked.turns, actual)
    run_now = expected_g(worked.nodes, worked.turns, actual, worked.run_now_at, worked.length)
    between = _planned_levels(worked, actual, kwh) if kwh else (0.0, 0.0, 0.0)
    return Levels(nan if run_now is None else run_now, *between, nan if realised is None else realised)


def _planned_levels(worked: Worked, actual: IntensityTable, kwh: float) -> tuple[float, float, float]:
    """Return the three levels that rest on the plan, for so much energy."""
    starts_us = np.array([to_us(member.starts_at) for member in worked.members], dtype=np.int64)
    ends_us = np.array([to_us(member.ends_at) for member in worked.members], dtype=np.int64)
    usual_watts = {turn.key: turn.power_watts for turn in worked.turns}
    usual_watts |= {key: node.power_watts for key, node in worked.nodes.items()}
    watts = np.array([usual_watts.get(member.key, nan) for member in worked.members])
    planned_kwh = float((watts / 1000 * (ends_us - starts_us)).sum() / HOUR_US)
    if not planned_kwh > 0:
        return nan, nan, nan  # energy without a power: nobody knows who was to draw how much of it
    drawn = kwh / planned_kwh
    columns = actual.columns([member.location or UNKNOWN_PLACE for member in worked.members])
    lengths_us, stretch = ends_us - starts_us, stretch_of(worked.turns, worked.nodes, worked.length)

    def within_g(opens_us: Ints, stretch: float) -> float:
        """Charge the same energy in windows of other lengths."""
        durations_us = np.maximum(np.round(lengths_us * stretch), 1).astype(np.int64)
        power_watts = watts * lengths_us / durations_us
        grams = emissions_g(actual, columns, power_watts, opens_us, opens_us + durations_us)
        return drawn * float(grams.sum())

    at_once = within_g(np.full(len(starts_us), to_us(worked.run_now_at), dtype=np.int64), stretch)
    as_planned = within_g(starts_us, 1.0)
    if isnan(as_planned) and stretch < 1:  # a run that is over early does not know how its last window ends
        as_planned = within_g(starts_us, stretch)
    expected = as_planned if worked.planned_g is None else drawn * worked.planned_g
    return at_once, expected, as_planned
