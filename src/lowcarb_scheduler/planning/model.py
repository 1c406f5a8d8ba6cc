"""The planning problem in numbers: groups, their windows and the rules of seating, ready for the solvers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.aggregation import Groups
    from lowcarb_scheduler.planning.assignment import Seating
    from lowcarb_scheduler.planning.timegrid import Grid, Windows


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What the solvers are given.

    Parameters
    ----------
    rounds : int
        Rounds to open, R.
    groups : Groups
        Who can train, in G groups.
    windows : Windows
        What it costs, by class, on a grid of T slots.
    seating : Seating
        How groups take seats.
    class_of_client : ndarray of int64, shape (C,)
        Location and training time of each client, as a row of ``windows``.
    """

    rounds: int
    groups: Groups
    windows: Windows
    seating: Seating
    class_of_client: Ints

    def until(self, grid: Grid) -> Model:
        """Return the same problem on a shorter grid with the same first slot."""
        return replace(self, windows=self.windows.until(grid))

    def boundaries(self, slots: Ints) -> Ints:
        """Return by when rounds have to be over that open at some slots, shape (R,).

        A round without stagger is over after its width; with it, it may last until the next one opens.
        """
        if self.windows.stagger:
            return np.append(slots[1:], self.windows.last_boundary)
        return slots + self.windows.grid.width

    def costs_g(self, integrals: Floats) -> Floats:
        """Return the emissions of one client of each group [gCO2eq], shape (J, G).

        Parameters
        ----------
        integrals : ndarray of float64, shape (J, K)
            By class [g h / kWh]; infinite where it cannot train.
        """
        per_group = integrals[:, self.groups.klass]
        with np.errstate(invalid="ignore"):  # no power times no forecast
            return np.where(np.isinf(per_group), np.inf, per_group * self.groups.kilowatts)

    def round_costs_g(self, slots: Ints) -> Floats:
        """Return :meth:`costs_g` of rounds that open at some slots, shape (R, G)."""
        return self.costs_g(self.windows.cheapest(slots, self.boundaries(slots)))
