"""The accounts of a run: what its ledger says of emissions, and why they are what they are.

Four numbers: *planned* (expected when each round opened), *realised* (on actual intensity), *run-now* (as
many rounds of random clients, back-to-back) and *hindsight* (the best plan of somebody who knew). What is not
known is None, never a part dressed as the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting.emissions import known_sum, saving, waterfall
from lowcarb_scheduler.accounting.hindsight import (
    EmissionLevels,
    Hindsight,
    Outcome,
    Rules,
    RunFront,
    front_of,
    hindsight_of,
    levels_of,
)
from lowcarb_scheduler.accounting.turns import emitted_g

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lowcarb_scheduler.accounting.replay import Record, RoundRecord, RunSummary
    from lowcarb_scheduler.events import Turn
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Provenance

__all__ = ["Accounts", "Outcome", "RunFront", "Sci", "Share", "Step", "account"]


@dataclass(frozen=True, slots=True)
class Step:
    """A bar of the waterfall from run-now to realised.

    Parameters
    ----------
    name : str
        ``run-now``, ``choice of clients``, ``choice of time``, ``forecast error``, ``overruns`` or
        ``realised``.
    change_g : float
        What it adds [gCO2eq]; of the first and the last the level itself.
    kind : {"level", "change"}
        Which of the two it is.
    """

    name: str
    change_g: float
    kind: Literal["level", "change"]


@dataclass(frozen=True, slots=True)
class Share:
    """What a phase, a location or a client has of the whole.

    Parameters
    ----------
    name : str
        Whose it is.
    turns : int
        Turns completed; of the phase ``evaluate``, times a client has evaluated.
    energy_kwh : float
        Energy of them [kWh].
    emissions_g : float or None
        On actual intensity [gCO2eq]; None where that is not known of one of them.
    basis : mapping of str to float
        The energy by what it rests on, ``measured``, ``estimated`` or ``assumed`` [kWh].
    """

    name: str
    turns: int
    energy_kwh: float
    emissions_g: float | None
    basis: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_g_per_kwh(self) -> float | None:
        """Intensity that the energy was drawn at, on average [gCO2eq/kWh]; None where it is not known."""
        return None if self.emissions_g is None or not self.energy_kwh else self.emissions_g / self.energy_kwh


@dataclass(frozen=True, slots=True)
class Sci:
    """The terms of the Software Carbon Intensity, ``(E I + M) / R``, of the training; M is not counted.

    Parameters
    ----------
    energy_kwh : float
        E: the energy of training [kWh].
    intensity_g_per_kwh : float or None
        I: realised emissions over that energy [gCO2eq/kWh]; None where they are not known.
    rounds : int
        R: the functional unit is a round.
    """

    energy_kwh: float
    intensity_g_per_kwh: float | None
    rounds: int

    @property
    def g_per_round(self) -> float | None:
        """Operational emissions of a round [gCO2eq]; None where they are not known."""
        if self.intensity_g_per_kwh is None or not self.rounds:
            return None
        return self.energy_kwh * self.intensity_g_per_kwh / self.rounds


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of a run. Emissions are of training unless a phase says otherwise.

    Parameters
    ----------
    run : RunSummary
        What the run did.
    provenance : Provenance
        What its intensities are.
    planned_g, realised_g, run_now_g, hindsight_g : float or None
        The four numbers [gCO2eq].
    hindsight : Hindsight or None
        The plan behind that number.
    levels : tuple of EmissionLevels
        What the waterfall rests on, a round each; NaN is not known.
    planned_of : str
        The rounds of which the planned emissions are known, for example ``rounds 2-50``; empty where they
        are known of all, or of none.
    planned_of_g : float or None
        The planned emissions of these [gCO2eq].
    waterfall : tuple of Step
        From run-now to realised; empty where one of its levels is not known.
    by_phase, by_location, by_client : tuple of Share
        Who emitted what; the last two of training.
    sci : Sci
        The terms of the Software Carbon Intensity.
    without_actuals : int
        Rounds without a realised number.
    front : RunFront or None
        None where no plan at the start rested on a forecast.
    """

    run: RunSummary
    provenance: Provenance
    planned_g: float | None
    realised_g: float | None
    run_now_g: float | None
    hindsight_g: float | None
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
    def saving(self) -> float | None:
        """Part of the run-now emissions that was avoided."""
        return saving(self.realised_g, self.run_now_g)


def account(record: Record) -> Accounts:
    """Return the accounts of a run.

    All figures are computed again from the turns and the newest actual intensity of the ledger, so those of
    rounds, locations and clients agree with each other to the last digit.

    Parameters
    ----------
    record : Record
        The replayed ledger, see :meth:`~lowcarb_scheduler.accounting.replay.Record.of`.
    """
    run = record.summary
    levels = [_levels(worked, record.actual) for worked in record.rounds]
    evaluation = [_Emitted.of(worked.evaluated, record.actual) for worked in record.rounds]
    run = replace(run, rounds=tuple(
        replace(r, realised_g=_known(own.realised_g), run_now_g=_known(own.run_now_g),
                evaluation_g=_known(float(emitted.grams.sum())))
        for r, own, emitted in zip(run.rounds, levels, evaluation, strict=True)
    ))  # fmt: skip
    trained = _Emitted.of([turn for worked in record.rounds for turn in worked.turns], record.actual)
    evaluated = _Emitted.of([turn for worked in record.rounds for turn in worked.evaluated], record.actual)
    rules = Rules.of(record) if record.rounds else None
    realised_g, kwh = run.realised_g, run.energy_kwh
    best = hindsight_of(record) if realised_g is not None else None
    is_part = run.planned_g is None and any(r.planned_g is not None for r in run.rounds)
    planned = [r for r in run.rounds if r.planned_g is not None] if is_part else []
    return Accounts(
        run=run,
        provenance=record.provenance,
        planned_g=run.planned_g,
        realised_g=realised_g,
        run_now_g=run.run_now_g,
        hindsight_g=None if best is None else best.emissions_g,
        waterfall=_waterfall(levels),
        by_phase=(trained.share("train"), evaluated.share("evaluate")),
        by_location=trained.by(lambda turn: turn.place),
        by_client=trained.by(lambda turn: turn.id),
        sci=Sci(kwh, None if realised_g is None or not kwh else realised_g / kwh, len(run.rounds)),
        without_actuals=sum(r.realised_g is None for r in run.rounds),
        front=None
        if rules is None
        else front_of(record, rules, {r.number: r.realised_g for r in run.rounds}),
        hindsight=best,
        levels=tuple(levels),
        planned_of=_rounds_named([r.number for r in planned]),
        planned_of_g=known_sum(r.planned_g for r in planned),
    )


def _levels(worked: RoundRecord, actual: IntensityTable | None) -> EmissionLevels:
    return EmissionLevels(nan, nan, nan, nan, nan) if actual is None else levels_of(worked, actual)


def _known(grams: float) -> float | None:
    return grams if isfinite(grams) else None


def _waterfall(levels: Sequence[EmissionLevels]) -> tuple[Step, ...]:
    """Return the bars; none where a level of a round is not known."""
    if not levels or not np.isfinite(levels).all():
        return ()
    by_level = np.array(levels).T
    change = waterfall(*by_level)
    run_now_g, realised_g = float(by_level[0].sum()), float(by_level[-1].sum())
    return (
        Step("run-now", run_now_g, "level"),
        Step("choice of clients", change.choice_of_clients_g, "change"),
        Step("choice of time", change.choice_of_time_g, "change"),
        Step("forecast error", change.forecast_error_g, "change"),
        Step("overruns", change.overruns_g, "change"),
        Step("realised", realised_g, "level"),
    )


def _rounds_named(numbers: Sequence[int]) -> str:
    """Name rounds, for example ``rounds 2-50`` or ``rounds 1, 4-6``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    named = ", ".join("-".join(map(str, part)) for part in parts)
    return f"round{'s' if len(numbers) > 1 else ''} {named}" if parts else ""


class _Emitted(NamedTuple):
    """Turns, and what each has emitted [gCO2eq]; NaN is not known."""

    turns: Sequence[Turn]
    grams: Floats

    @classmethod
    def of(cls, turns: Sequence[Turn], actual: IntensityTable | None) -> _Emitted:
        """Charge turns."""
        unknown = np.full(len(turns), nan)
        return cls(turns, unknown if actual is None else emitted_g(turns, actual))

    def share(self, name: str) -> Share:
        """Return all of it under one name."""
        basis: dict[str, float] = {}
        for turn in self.turns:
            basis[turn.energy_basis] = basis.get(turn.energy_basis, 0.0) + turn.energy_kwh
        kwh = dict(sorted(basis.items()))
        return Share(name, len(self.turns), sum(kwh.values(), 0.0), _known(float(self.grams.sum())), kwh)

    def by(self, name_of: Callable[[Turn], str]) -> tuple[Share, ...]:
        """Return who has what of it, by name."""
        places: dict[str, list[int]] = {}
        for place, turn in enumerate(self.turns):
            places.setdefault(name_of(turn), []).append(place)
        return tuple(
            _Emitted([self.turns[place] for place in own], self.grams[own]).share(name)
            for name, own in sorted(places.items())
        )
