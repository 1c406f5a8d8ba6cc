"""Drop-outs: how often nodes that were asked to train have not, and how many to ask so that enough do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

AUTO: Final = 0.95  # probability that enough nodes reply, where none is given


@dataclass(frozen=True, slots=True)
class Dropouts:
    """What was seen of drop-outs.

    Parameters
    ----------
    asked : int
        Turns that nodes were asked for.
    failed : int
        Turns that came to nothing.
    """

    asked: int = 0
    failed: int = 0

    def after(self, asked: int, failed: int) -> Dropouts:
        """Return what is known after one more round."""
        return Dropouts(self.asked + asked, self.failed + failed)

    @property
    def rate(self) -> float:
        """The part of turns that came to nothing; 0 while nothing was seen."""
        return self.failed / self.asked if self.asked else 0.0

    def wanted(self, needed: int, there: int, over_select: float | Literal["off", "auto"]) -> int:
        """Return the fewest nodes to ask so that enough of them reply.

        The smallest m with P(Bin(m, 1 - rate) >= needed) >= target; all that are there where none is enough.

        Parameters
        ----------
        needed : int
            How many replies a round is to have.
        there : int
            How many nodes there are.
        over_select : "off", "auto" or float
            That target.
        """
        if over_select == "off" or self.failed == 0 or there <= needed:
            return min(needed, there)
        from scipy.special import bdtr

        target = AUTO if over_select == "auto" else over_select
        asked = np.arange(needed, there + 1)
        enough = 1.0 - bdtr(needed - 1.0, asked, 1.0 - self.rate) >= target
        return int(asked[enough.argmax()]) if enough.any() else there
