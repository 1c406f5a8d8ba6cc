"""Planning problem in arrays: groups of clients, their windows and the rules of seating.

The solvers know this model alone; :mod:`~lowcarb_scheduler.planning.planner` builds it from a job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.aggregation import Groups
    from lowcarb_scheduler.planning.assignment import Seating
    from lowcarb_scheduler.planning.balance import Balance
    from lowcarb_scheduler.planning.timegrid import Grid, Windows


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Planning problem: R rounds, G groups of clients, T slots.

    Parameters
    ----------
    rounds : int
        Rounds to open, R.
    groups : Groups
        Clients, in G groups of interchangeable ones.
    windows : Windows
        Cost of training by class, on a grid of T slots.
    seating : Seating
        Rules of seating the groups.
    class_of_client : ndarray of int64, shape (C,)
        Location and training time of each client, as a column of ``windows``.
    """

    rounds: int
    groups: Groups
    windows: Windows
    seating: Seating
    class_of_client: Ints

    def until(self, grid: Grid) -> Model:
        """Return the same problem on a shorter grid with the same first slot."""
        return replace(self, windows=self.windows.until(grid))

    def without_stagger(self) -> Model:
        """Return the same problem with clients that all start when their round opens."""
        return replace(self, windows=replace(self.windows, stagger=False))

    def regrouped(self, groups: Groups) -> Model:
        """Return the same problem with a finer grouping of its clients."""
        location = np.zeros(int(self.groups.klass.max()) + 1, dtype=np.int64)
        location[self.groups.klass] = self.seating.location
        seating = replace(
            self.seating, members=groups.size, least=groups.least, most=groups.most,
            location=location[groups.klass],
        )  # fmt: skip
        return replace(self, groups=groups, seating=seating)

    def balanced(self, balance: Balance | None) -> Model:
        """Return the same problem with another rule of balance, or none."""
        return replace(self, seating=replace(self.seating, balance=balance))

    def boundaries(self, slots: Ints) -> Ints:
        """Return the boundary by which each round that opens at ``slots`` is over, shape (R,).

        A round without stagger is over after its width; with stagger it may last until the next one opens.
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
        with np.errstate(invalid="ignore"):  # zero power times an infinite integral
            return np.where(np.isinf(per_group), np.inf, per_group * self.groups.kilowatts)

    def round_costs_g(self, slots: Ints) -> Floats:
        """Return :meth:`costs_g` of rounds that open at ``slots``, shape (R, G)."""
        return self.costs_g(self.windows.cheapest(slots, self.boundaries(slots))[1])
