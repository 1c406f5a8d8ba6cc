"""Accounts of a run: its emissions, and their breakdown by cause, phase, location and client.

Four numbers: *planned* (expected when each round opened), *realised* (on actual intensity), *run-now* (as
many rounds of random clients, back-to-back) and *hindsight* (the best plan with a perfect forecast). An
unknown number is None; a partial sum never stands for a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting.emissions import known_sum, waterfall
from lowcarb_scheduler.accounting.hindsight import (
    EmissionLevels,
    Hindsight,
    Outcome,
    RunFront,
    front_of,
    hindsight_of,
    levels_of,
)
from lowcarb_scheduler.accounting.turns import emitted_g

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lowcarb_scheduler.accounting.replay import Record
    from lowcarb_scheduler.events import Turn
    from lowcarb_scheduler.intensity import Floats, IntensityTable

__all__ = ["Accounts", "Outcome", "RunFront", "Sci", "Share", "Step", "account", "natural_key"]


@dataclass(frozen=True, slots=True)
class Step:
    """Bar of the waterfall from run-now to realised.

    Parameters
    ----------
    name : str
        ``run-now``, ``choice of clients``, ``choice of time``, ``forecast error``, ``overruns`` or
        ``realised``.
    change_g : float
        Change of emissions [gCO2eq]; for the first and last bar the level itself.
    kind : {"level", "change"}
        Meaning of ``change_g``.
    """

    name: str
    change_g: float
    kind: Literal["level", "change"]


@dataclass(frozen=True, slots=True)
class Share:
    """Share of a phase, location or client in turns, energy and emissions.

    Parameters
    ----------
    name : str
        Name of the phase, location or client.
    turns : int
        Completed turns; evaluations for the phase ``evaluate``.
    energy_kwh : float
        Energy of the turns [kWh].
    emissions_g : float or None
        Emissions on actual intensity [gCO2eq]; None if it is unknown for one of the turns.
    basis : mapping of str to float
        Energy by its origin: ``measured``, ``estimated`` or ``assumed`` [kWh].
    """

    name: str
    turns: int
    energy_kwh: float
    emissions_g: float | None
    basis: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_g_per_kwh(self) -> float | None:
        """Mean intensity of the energy [gCO2eq/kWh]; None if unknown."""
        return None if self.emissions_g is None or not self.energy_kwh else self.emissions_g / self.energy_kwh


@dataclass(frozen=True, slots=True)
class Sci:
    """Terms of the Software Carbon Intensity, ``(E I + M) / R``, of training.

    Parameters
    ----------
    energy_kwh : float
        E: the energy of training [kWh].
    intensity_g_per_kwh : float or None
        I: realised emissions per energy [gCO2eq/kWh]; None if unknown.
    rounds : int
        R: the functional unit is a round.
    embodied_g : float or None
        M: the run's part of the emissions of making its hardware [gCO2eq]; None if it is not stated, and
        then not included.
    """

    energy_kwh: float
    intensity_g_per_kwh: float | None
    rounds: int
    embodied_g: float | None = None

    @property
    def g_per_round(self) -> float | None:
        """Emissions per round [gCO2eq]; None if unknown."""
        if self.intensity_g_per_kwh is None or not self.rounds:
            return None
        return (self.energy_kwh * self.intensity_g_per_kwh + (self.embodied_g or 0.0)) / self.rounds


@dataclass(frozen=True, slots=True)
class Accounts:
    """Accounts of a run. Emissions are those of training, but for the phase ``evaluate``.

    Parameters
    ----------
    run : Record
        The run, with three of the four numbers and the newest figures of its rounds.
    hindsight : Hindsight or None
        The plan behind the fourth number.
    levels : tuple of EmissionLevels
        Levels of the waterfall, by round; unknown ones are NaN.
    planned_of : str
        Rounds whose planned emissions are known, for example ``rounds 2-50``; empty if they are known for all
        rounds, or for none.
    planned_of_g : float or None
        Planned emissions of these rounds [gCO2eq].
    waterfall : tuple of Step
        Bars from run-now to realised; empty if one of the levels is unknown.
    by_phase, by_location, by_client : tuple of Share
        Shares; the last two of training alone.
    sci : Sci
        Software Carbon Intensity.
    without_actuals : int
        Number of rounds without realised emissions.
    front : RunFront or None
        Trade-off at the start; None if the initial plan was made without a forecast.
    """

    run: Record
    waterfall: tuple[Step, ...]
    by_phase: tuple[Share, ...]
    by_location: tuple[Share, ...]
    by_client: tuple[Share, ...]
    sci: Sci
    without_actuals: int
    front: RunFront | None
    hindsight: Hindsight | None = None
    levels: tuple[EmissionLevels, ...] = ()
    planned_of: str = ""
    planned_of_g: float | None = None

    @property
    def hindsight_g(self) -> float | None:
        """Emissions of the best plan with a perfect forecast [gCO2eq]; None where there is none."""
        return None if self.hindsight is None else self.hindsight.plan.emissions_g


def account(record: Record, embodied_g: float | None = None) -> Accounts:
    """Return the accounts of a run.

    All figures are computed again from the turns and the newest actual intensity, so the sums over rounds,
    locations and clients agree to the last digit.

    Parameters
    ----------
    record : Record
        The replayed ledger, see :meth:`~lowcarb_scheduler.accounting.replay.Record.of`.
    embodied_g : float, optional
        The run's part of the emissions of making its hardware [gCO2eq].
    """
    # Stored figures may be older than the newest actual intensity: all are computed again.
    run = record.with_figures(record.figures_on(record.actual))
    levels = [levels_of(worked, run.actual) for worked in run.rounds]
    trained = _Emitted.of([turn for worked in run.rounds for turn in worked.turns], run.actual)
    evaluated = _Emitted.of([turn for worked in run.rounds for turn in worked.evaluated], run.actual)
    realised_g, kwh = run.realised_g, run.energy_kwh
    # Beside unknown realised emissions a hindsight number could not be compared with anything.
    best = hindsight_of(run) if realised_g is not None else None
    # A first round of unknown length opens at once and has no planned emissions.
    is_part = run.planned_g is None and any(r.planned_g is not None for r in run.rounds)
    planned = [r for r in run.rounds if r.planned_g is not None] if is_part else []
    return Accounts(
        run=run,
        waterfall=_waterfall(levels),
        by_phase=(trained.share("train"), evaluated.share("evaluate")),
        by_location=trained.by(lambda turn: turn.place),
        by_client=trained.by(lambda turn: turn.id),
        sci=Sci(
            kwh, None if realised_g is None or not kwh else realised_g / kwh, len(run.rounds), embodied_g
        ),
        without_actuals=sum(r.realised_g is None for r in run.rounds),
        front=front_of(run),
        hindsight=best,
        levels=tuple(levels),
        planned_of=_rounds_named([r.number for r in planned]),
        planned_of_g=known_sum(r.planned_g for r in planned),
    )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return the sort key of natural order: site-2 before site-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _known(grams: float) -> float | None:
    return grams if isfinite(grams) else None


def _waterfall(levels: Sequence[EmissionLevels]) -> tuple[Step, ...]:
    """Return the bars; none if a level of a round is unknown."""
    # A waterfall of some rounds only would not add up to the numbers beside it.
    if not levels or not np.isfinite(levels).all():
        return ()
    by_level = np.array(levels).T
    names = "choice of clients", "choice of time", "forecast error", "overruns"
    changes = zip(names, waterfall(*by_level), strict=True)
    return (
        Step("run-now", float(by_level[0].sum()), "level"),
        *(Step(name, change_g, "change") for name, change_g in changes),
        Step("realised", float(by_level[-1].sum()), "level"),
    )


def _rounds_named(numbers: Sequence[int]) -> str:
    """Name rounds, for example ``rounds 2-50`` or ``rounds 1, 4-6``."""
    parts: list[list[int]] = []  # first and last number of each run of neighbours
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    named = ", ".join("-".join(map(str, part)) for part in parts)
    return f"round{'s' if len(numbers) > 1 else ''} {named}" if parts else ""


class _Emitted(NamedTuple):
    """Turns and their emissions [gCO2eq], NaN if unknown."""

    turns: Sequence[Turn]
    grams: Floats

    @classmethod
    def of(cls, turns: Sequence[Turn], actual: IntensityTable | None) -> _Emitted:
        """Compute the emissions of turns."""
        unknown = np.full(len(turns), nan)
        return cls(turns, unknown if actual is None else emitted_g(turns, actual))

    def share(self, name: str) -> Share:
        """Return the share of all turns under one name."""
        basis: dict[str, float] = {}
        for turn in self.turns:
            basis[turn.energy_basis] = basis.get(turn.energy_basis, 0.0) + turn.energy_kwh
        kwh = dict(sorted(basis.items()))
        return Share(name, len(self.turns), sum(kwh.values(), 0.0), _known(float(self.grams.sum())), kwh)

    def by(self, name_of: Callable[[Turn], str]) -> tuple[Share, ...]:
        """Return the shares of groups of turns, in natural order of their names."""
        groups: dict[str, list[int]] = {}
        for index, turn in enumerate(self.turns):
            groups.setdefault(name_of(turn), []).append(index)
        return tuple(
            _Emitted([self.turns[index] for index in group], self.grams[group]).share(name)
            for name, group in sorted(groups.items(), key=lambda item: natural_key(item[0]))
        )
