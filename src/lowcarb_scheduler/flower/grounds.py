"""The grounds of a plan: what it rests on. While these stand the plan stands, and does not flap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lowcarb_scheduler.clock import to_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta

    from lowcarb_scheduler.flower.profiles import Profile
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan

Reason = Literal[
    "next round", "nodes changed", "new forecast", "fresh actuals", "turns owed", "overrun", "more time"
]
Features = tuple[str, float, "timedelta | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Grounds:
    """What a plan rests on.

    Parameters
    ----------
    nodes : mapping of str to tuple
        By key, where a node is, what it draws and how long it takes.
    clients : int
        How many train in a round.
    length : timedelta
        Of a round.
    forecast, actual : IntensityTable or None
        What was known of intensity.
    """

    nodes: Mapping[str, Features]
    clients: int
    length: timedelta
    forecast: IntensityTable | None
    actual: IntensityTable | None

    @classmethod
    def of(
        cls, alive: Iterable[Profile], clients: int, length: timedelta,
        forecast: IntensityTable | None, actual: IntensityTable | None,
    ) -> Grounds:  # fmt: skip
        """Return the grounds of a plan that is made now."""
        nodes = {profile.key: (profile.place, profile.power_watts, profile.duration) for profile in alive}
        return cls(nodes, clients, length, forecast, actual)

    def memory(self, forecast: IntensityTable | None, actual: IntensityTable | None) -> dict[str, Any]:
        """Return what a checkpoint keeps, where that is what is known of intensity now."""
        return {"clients": self.clients, "length": self.length, "forecast": self.forecast is forecast,
                "actual": self.actual is actual}  # fmt: skip

    @classmethod
    def recalled(
        cls, memory: Mapping[str, Any], nodes: Mapping[str, Features],
        forecast: IntensityTable | None, actual: IntensityTable | None,
    ) -> Grounds:  # fmt: skip
        """Return the grounds that :meth:`memory` is of; what has been news then is news again."""
        return cls(
            nodes, memory["clients"], memory["length"], forecast if memory["forecast"] else None,
            actual if memory["actual"] else None,
        )  # fmt: skip

    def why_not(self, now: Grounds, start: datetime, end: datetime) -> Reason | None:
        """Return why a plan on these grounds does not stand on others; None if it does.

        A forecast that says the same between two times is no news.
        """
        if now.clients != self.clients or now.length != self.length:
            return "next round"
        if now.nodes != self.nodes:
            return "nodes changed"
        if now.forecast is not self.forecast and not _same(self.forecast, now.forecast, start, end):
            return "new forecast"
        return None if now.actual is self.actual else "fresh actuals"


def turns_as_planned(plan: Plan, rounds_done: int, turns: Mapping[str, int]) -> bool:
    """Return whether clients have completed the turns that the first rounds of a plan gave them."""
    planned = np.bincount(plan.seats[:rounds_done].ravel(), minlength=len(plan.fleet))
    done = np.array([turns[key] for key in plan.fleet.ids], dtype=np.int64)
    return bool(np.array_equal(done, plan.fleet.turns_done + planned))


def _same(one: IntensityTable | None, other: IntensityTable | None, start: datetime, end: datetime) -> bool:
    """Return whether two tables say the same of the same places between two times."""
    if one is None or other is None or set(one.locations) != set(other.locations) or start >= end:
        return False
    low, high = to_us(start), to_us(end)
    edges = np.union1d(one.edges_us, other.edges_us)
    edges = np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]])
    values, others = one.sampled(edges), other.sampled(edges, one.locations)
    return one.signal == other.signal and bool(np.array_equal(values, others, equal_nan=True))
