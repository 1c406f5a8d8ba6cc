"""Forecasts of several sources, put together as one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.source import Forecast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import IntensityTable, Signal

_NO_REASON: Final = "no source gave a reason"


class Labels(NamedTuple):
    """What numbers are, of which two kinds are never mixed."""

    signal: Signal
    synthetic: bool


class Gathering:
    """What comes together, source by source.

    Parameters
    ----------
    places : sequence of str
        What is wanted.
    since : datetime
        Holes that are over by then do not matter.
    """

    def __init__(self, places: Sequence[str], since: datetime) -> None:
        self._places, self._since_us = places, to_us(since)
        self._fresh: list[Forecast] = []
        self._stand_ins: list[Forecast] = []
        self._why: dict[str, list[str]] = defaultdict(list)

    @property
    def labels(self) -> Labels | None:
        """What the numbers are, once there are some."""
        for part in (*self._fresh, *self._stand_ins):
            return Labels(part.intensity.signal, part.intensity.synthetic)
        return None

    def lacking(self) -> list[str]:
        """Return the places without a fresh forecast, or with a hole inside it."""
        whole: set[str] = set()
        if self._fresh:
            table = _joined([part.intensity for part in self._fresh])
            known, counts = ~np.isnan(table.values), (table.edges_us[1:] > self._since_us)[:, None]
            holes = (_inside(known) & ~known & counts).any(axis=0)
            complete = np.flatnonzero((known & counts).any(axis=0) & ~holes)
            whole = {table.locations[column] for column in complete}
        return [place for place in self._places if place not in whole]

    def take(self, answer: Forecast, names: Mapping[str, str]) -> None:
        """Take what a source said of places, by its names of them."""
        fresh = {place: name for place, name in names.items() if name not in answer.last_good}
        stand_ins = {place: name for place, name in names.items() if name in answer.last_good}
        self._fresh += [part for part in (told(answer, fresh),) if part]
        self._stand_ins += [part for part in (told(answer, stand_ins),) if part]

    def explain(self, names: Mapping[str, str], reasons: Mapping[str, str], by: str) -> None:
        """Take why a source has nothing of places, by its names of them."""
        for place, name in names.items():
            if name in reasons:
                self._why[place].append(by + reasons[name])

    def forecast(self) -> Forecast:
        """Return all of it: of each place what came first, a last good forecast only where nothing is fresh.

        Raises
        ------
        ForecastUnavailableError
            If there is nothing.
        """
        parts = list(self._fresh)
        for stand_in in self._stand_ins:
            there = {place for part in parts for place in part.intensity.locations}
            rest = {place: place for place in stand_in.intensity.locations if place not in there}
            parts += [part for part in (told(stand_in, rest),) if part]
        issued: dict[str, datetime] = {}
        last_good: dict[str, str] = {}
        for part in reversed(parts):
            for place in part.intensity.locations:
                issued[place] = part.issued_at(place)
            last_good.update(part.last_good)
        missing = {p: "; ".join(self._why[p]) or _NO_REASON for p in self._places if p not in issued}
        if not parts:
            raise ForecastUnavailableError(missing)
        table = _joined([part.intensity for part in parts]).align([p for p in self._places if p in issued])
        sources = "+".join(dict.fromkeys(part.intensity.source for part in parts))
        oldest = min(issued.values())
        others = {place: at for place, at in issued.items() if at != oldest}
        return Forecast(replace(table, source=sources), oldest, missing, others, last_good)


def told(answer: Forecast, names: Mapping[str, str]) -> Forecast | None:
    """Return what a source said of places, by its names of them; None if that is nothing."""
    known = {place: name for place, name in names.items() if name in answer.intensity.locations}
    if not known:
        return None
    table = answer.intensity
    columns = table.columns(list(known.values()))  # two places may have one name
    return Forecast(
        table.relaid(table.edges_us, tuple(known), table.values[:, columns]),
        answer.generated_at,
        issued={place: answer.issued_at(name) for place, name in known.items()},
        last_good={
            place: answer.last_good[name] for place, name in known.items() if name in answer.last_good
        },
    )


def _joined(tables: Sequence[IntensityTable]) -> IntensityTable:
    """Return tables as one: of each place the first column, holes inside it filled from those after it."""
    joined = tables[0]
    for table in tables[1:]:
        locations = tuple(dict.fromkeys(joined.locations + table.locations))
        edges = np.union1d(joined.edges_us, table.edges_us)
        own, others = joined.sampled(edges, locations), table.sampled(edges, locations)
        known = ~np.isnan(own)
        open_to = ~known & (_inside(known) | ~known.any(axis=0))
        joined = joined.relaid(edges, locations, np.where(open_to, others, own))
    return joined


def _inside(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which steps lie between the first and the last known one of their column."""
    begun = np.logical_or.accumulate(known, axis=0)
    not_over = np.logical_or.accumulate(known[::-1], axis=0)[::-1]
    return begun & not_over
