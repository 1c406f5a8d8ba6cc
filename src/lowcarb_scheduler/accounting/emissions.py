"""Emissions of windows and of run-now under any intensity table, and the fairness of turns.

Pure functions over arrays. Emissions of a client are its power times the integral of intensity over its own
training time: 1 kW for 1 h at 100 g/kWh is 100 g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints


def emissions_g(
    intensity: IntensityTable, columns: ArrayLike, power_watts: ArrayLike, starts_us: Ints, ends_us: Ints
) -> Floats:
    """Return the emissions of windows [gCO2eq].

    Parameters
    ----------
    intensity : IntensityTable
        Forecast or actual intensity.
    columns : array_like of int, shape S
        Column of each window's location in ``intensity``.
    power_watts : array_like of float, shape S
        Power drawn in each window [W].
    starts_us, ends_us : ndarray of int64, shape S
        The windows [µs since 1970 UTC].

    Returns
    -------
    ndarray of float64, shape S
        NaN where a window touches a gap.
    """
    return np.asarray(power_watts, np.float64) / 1000.0 * intensity.integrate(starts_us, ends_us, columns)


def run_now_g(
    intensity: IntensityTable,
    columns: Ints,
    power_watts: Floats,
    durations_us: Ints,
    opens_us: Ints,
    clients_per_round: int,
) -> Floats:
    """Return the expected emissions of rounds of random clients [gCO2eq].

    This is the only baseline of the project: each round draws its clients uniformly, without regard to
    carbon, so its expectation is ``clients_per_round`` times the fleet's mean.

    Parameters
    ----------
    intensity : IntensityTable
        Forecast or actual intensity.
    columns, power_watts, durations_us : ndarray, shape (C,)
        The fleet: column of each client's location, power [W], training time [µs].
    opens_us : ndarray of int64, shape (R,)
        Openings of the rounds [µs since 1970 UTC]; back-to-back for run-now.
    clients_per_round : int
        Clients a round.

    Returns
    -------
    ndarray of float64, shape (R,)
        NaN for a round in which any client of the fleet meets a gap.
    """
    # Clients that share location and duration differ by power alone: sum it, and integrate once a class.
    durations, duration_index = np.unique(durations_us, return_inverse=True)
    class_of = (columns + 1) * len(durations) + duration_index
    classes, members = np.unique(class_of, return_inverse=True)
    kilowatts = np.bincount(members, weights=power_watts) / 1000.0
    ends_us = opens_us[:, None] + durations[classes % len(durations)]
    integrals = intensity.integrate(opens_us[:, None], ends_us, classes // len(durations) - 1)
    return clients_per_round / len(columns) * (integrals @ kilowatts)


def waterfall(*levels_g: ArrayLike) -> tuple[float, ...]:
    """Split the difference of run-now and realised into four changes.

    For each round, with K its energy [kWh], the same from the second step on ::

        run-now       random clients at the time of run-now, on actual intensity
        + clients     selected instead of random clients: mean of the effect at that time and in the planned
                      windows, both on actual intensity
        + time        K x mean intensity expected for the planned windows                    - the above
        + forecast    K x mean intensity of the planned windows, actual                      - the above
        + overruns    realised: the real windows of the clients that really trained           - the above

    The second level is the Shapley value of the choice of clients: the order of clients and time has no
    influence on it.

    Parameters
    ----------
    *levels_g : five array_like of float, shape (R,)
        The levels of each round, in this order [gCO2eq]: run-now, chosen, expected, as planned, realised.

    Returns
    -------
    tuple of float
        Choice of clients, choice of time, forecast error, overruns: sums over the rounds [gCO2eq]. Each step
        begins where the one before ends, so the sum is exact.
    """
    # Differences of neighbours telescope: their sum is the last level minus the first.
    levels = np.array(levels_g, dtype=np.float64)
    return tuple(np.diff(levels, axis=0).sum(axis=1).tolist())


def saving(emitted_g: float | None, baseline_g: float | None) -> float | None:
    """Return the part of run-now emissions that is avoided.

    None if either is unknown, or run-now is not positive.
    """
    if emitted_g is None or baseline_g is None or baseline_g <= 0:
        return None
    return 1.0 - emitted_g / baseline_g


def known_sum(parts: Iterable[float | None]) -> float | None:
    """Return a sum; None if a part is unknown, or there are no parts."""
    values = list(parts)
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None


def known_saving(rounds: Iterable[tuple[float | None, float | None]]) -> tuple[float | None, int]:
    """Return the saving over the rounds whose emissions are known, and the number of these.

    Parameters
    ----------
    rounds : iterable of (float or None, float or None)
        Realised and run-now emissions of each round [gCO2eq].
    """
    realised_g, run_now_g, known = known_sums(rounds)
    return (saving(realised_g, run_now_g) if known else None), known


def known_sums(rounds: Iterable[tuple[float | None, float | None]]) -> tuple[float, float, int]:
    """Return realised and run-now emissions of the rounds that are known, and the number of these.

    Parameters
    ----------
    rounds : iterable of (float or None, float or None)
        Realised and run-now emissions of each round [gCO2eq].
    """
    known = [
        (realised, run_now) for realised, run_now in rounds if realised is not None and run_now is not None
    ]
    return sum(realised for realised, _ in known), sum(run_now for _, run_now in known), len(known)


@dataclass(frozen=True, slots=True)
class Saved:
    """Emissions of the rounds whose actual intensity is known [gCO2eq].

    Parameters
    ----------
    rounds : int
        Number of these rounds.
    realised_g, run_now_g : float
        Their emissions, and those of the same work by random clients, back-to-back from the start.
    saving : float or None
        Part that was avoided.
    """

    rounds: int
    realised_g: float
    run_now_g: float
    saving: float | None

    @classmethod
    def of(cls, rounds: Iterable[tuple[float | None, float | None]]) -> Saved | None:
        """Return the sums over realised and run-now emissions of rounds; None where no round is known."""
        realised_g, run_now_g, known = known_sums(rounds)
        return cls(known, realised_g, run_now_g, saving(realised_g, run_now_g)) if known else None

    @property
    def avoided_g(self) -> float:
        """Emissions that were avoided [gCO2eq]; negative if there were more."""
        return self.run_now_g - self.realised_g


def jain_index(turns: ArrayLike) -> float:
    """Return Jain's fairness index of turns: 1 if all are equal, 1/C if one client takes all.

    ``(sum x)^2 / (C sum x^2)``; Jain, Chiu and Hawe, DEC Research Report TR-301 (1984). 1 for no turns.
    """
    counts = np.asarray(turns, np.float64)
    # No turns at all are shared evenly, too.
    squares = float(counts.size * (counts**2).sum())
    return float(counts.sum()) ** 2 / squares if squares else 1.0
