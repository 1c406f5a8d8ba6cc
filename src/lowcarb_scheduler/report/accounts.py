"""The accounts of a run: what its ledger says of emissions, and why they are what they are.

Four numbers: *planned* (expected when each round opened), *realised* (on actual intensity), *run-now* (as
many rounds of random clients, back-to-back) and *hindsight* (the best plan of somebody who knew). What is not
known is None, never a part dressed as the whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from lowcarb_scheduler import accounting
from lowcarb_scheduler.ledger import RunSummary, summarise
from lowcarb_scheduler.report.gantt import Labels, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pandas as pd

    from lowcarb_scheduler.planning.tradeoff import Frontier

NOWHERE: Final = "unknown"  # the place of nodes of which nobody says where they are


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
class Stand:
    """A point beside the front: where something was over, and what it emitted.

    Parameters
    ----------
    name : str
        ``run-now``, ``planned`` or ``realised``.
    finish : datetime
        When its last round closes.
    emissions_g : float
        What it emits [gCO2eq].
    """

    name: str
    finish: datetime
    emissions_g: float


@dataclass(frozen=True, slots=True)
class RunFront:
    """What could be chosen when the run began, and where it stood in the end.

    Parameters
    ----------
    frontier : Frontier
        Plans for some values of patience, on what was expected at the start.
    stands : tuple of Stand
        Run-now, as expected then; and once the run has completed, what it planned and realised where that
        is known.
    """

    frontier: Frontier
    stands: tuple[Stand, ...]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of a run. Emissions are of training unless a phase says otherwise.

    Parameters
    ----------
    run : RunSummary
        What the run did.
    labels : Labels
        What its intensities are.
    planned_g, realised_g, run_now_g, hindsight_g : float or None
        The four numbers [gCO2eq].
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
    labels: Labels
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
    planned_of: str = ""
    planned_of_g: float | None = None

    @property
    def saving(self) -> float | None:
        """Part of the run-now emissions that was avoided."""
        return accounting.saving(self.realised_g, self.run_now_g)

    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Return the tables that are written as CSV, by name; each has columns signal and source."""
        return {}


def account(events: Sequence[Mapping[str, Any]]) -> Accounts:
    """Return the accounts of a run.

    Parameters
    ----------
    events : sequence of mapping
        What :func:`~lowcarb_scheduler.ledger.read_ledger` returns.
    """
    run = summarise(events)
    done = [event for event in events if event["event"] == "node_done"]
    evaluated = [event for event in events if event["event"] == "node_evaluated"]
    kwh, realised_g = run.energy_kwh, run.realised_g
    return Accounts(
        run=run,
        labels=labels_of(events),
        planned_g=run.planned_g,
        realised_g=realised_g,
        run_now_g=run.run_now_g,
        hindsight_g=None,
        waterfall=(),
        by_phase=(
            _share("train", done, realised_g),
            _share("evaluate", evaluated, run.evaluation_g),
        ),
        by_location=_shares(done, "location"),
        by_client=_shares(done, "id"),
        sci=Sci(kwh, None if realised_g is None or not kwh else realised_g / kwh, len(run.rounds)),
        without_actuals=sum(r.realised_g is None for r in run.rounds),
        front=None,
    )


def _shares(turns: Sequence[Mapping[str, Any]], key: str) -> tuple[Share, ...]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for turn in turns:
        by_name.setdefault(turn[key] or NOWHERE, []).append(turn)
    return tuple(_share(name, own, None) for name, own in sorted(by_name.items()))


def _share(name: str, turns: Sequence[Mapping[str, Any]], emissions_g: float | None) -> Share:
    basis: Counter[str] = Counter()
    for turn in turns:
        basis[turn["energy_basis"]] += turn["energy_kwh"]
    return Share(name, len(turns), sum(basis.values()), emissions_g, dict(basis))
