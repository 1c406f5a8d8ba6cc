"""Balance: after every round, the turns of each location lie near its share of all seats so far.

A plan that is free to choose lets the clients of a location train one after the other while its grid is
clean, and the model forgets the others. With T[l, r] the turns of location l after round r, and S[r] those
of all locations (turns done before the job count in both), the rule is ::

    | T[l, r] - S[r] / S[R] T[l, R] |  <=  balance x n        for every location l and round r

so a location's share of all seats so far is measured against its share of the whole. Equal turns fix T[l, R];
then the rule bounds the turns of a location between two integers after each round, as a stock that must
neither run out nor overflow: an inventory constraint. Where turns may differ, T[l, R] is the plan's choice.

A price w[l, r] on each bound adds ``W[l, r] = w[l, r] + ... + w[l, R]`` to the cost of a seat of l in round
r, which is all that the relaxation sees of the rule.

Where no plan keeps it (turns done before may be far off, or a location owes more than its clients can take in
the rounds it has left), the rule is widened as little as it can be: by the least sum of excesses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints

CORRECTED: Final = 1.2  # balance "auto" of a run that corrects for who trains when, in rounds of clients
UNCORRECTED: Final = 0.8  # and of one that does not; both from the accuracy study
_ROUNDING: Final = 1e-9  # share x seats is 11.999999999999998 in floats


def balance_turns(
    balance: float | Literal["auto", "off"] | None, corrected: bool, clients: int
) -> float | None:
    """Return the largest distance from a location's share that a rule allows [turns]; None without a rule.

    Parameters
    ----------
    balance : float, "auto", "off" or None
        The rule, in rounds of clients.
    corrected : bool
        Whether the run corrects its model for who trains when.
    clients : int
        Clients in a round.
    """
    if balance is None or balance == "off":
        return None
    auto = CORRECTED if corrected else UNCORRECTED
    return (auto if balance == "auto" else balance) * clients


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """Rule of balance in turns, for P locations and the R rounds of a job.

    Parameters
    ----------
    done : ndarray of float64, shape (P,)
        Turns of each location before the job.
    part : ndarray of float64, shape (R,)
        Part of all seats, before and in the job, that is taken after each round; the last is 1.
    reach : ndarray of float64, shape (R, P)
        Largest distance of a location's turns from its share of the seats so far [turns].
    turns : ndarray of int64, shape (P,), or None
        Turns of each location in the job; None where the plan chooses them.
    """

    done: Floats
    part: Floats
    reach: Floats
    turns: Ints | None = None

    @classmethod
    def of(cls, done: Floats, rounds: int, seats: int, reach: float, turns: Ints | None) -> Balance:
        """Build the rule of a job.

        Parameters
        ----------
        done : ndarray of float64, shape (P,)
            Turns of each location before the job.
        rounds, seats : int
            Rounds, and clients in each.
        reach : float
            Largest distance from the share [turns].
        turns : ndarray of int64, shape (P,), or None
            As in the class.
        """
        taken = done.sum() + seats * np.arange(1.0, rounds + 1)
        return cls(done, taken / taken[-1], np.full((rounds, len(done)), float(reach)), turns)

    def distance(self, taken: Floats) -> Floats:
        """Return the distance of each location's turns from its share, shape (R, P) [turns].

        Parameters
        ----------
        taken : ndarray of float64 or int64, shape (R, P)
            Turns of each location in the job after each round.
        """
        distance: Floats = taken + self.done - self.part[:, None] * (taken[-1] + self.done)
        return distance

    def bounds(self) -> tuple[Floats, Floats]:
        """Return the least and most turns of each location after each round, both of shape (R, P).

        Integers where the turns of a location are fixed; else bounds on :meth:`distance` itself.
        """
        if self.turns is None:
            return -self.reach, self.reach
        target = self.part[:, None] * (self.turns + self.done) - self.done
        low = np.maximum(np.ceil(target - self.reach - _ROUNDING), 0.0)
        high = np.minimum(np.floor(target + self.reach + _ROUNDING), self.turns)
        low[-1] = high[-1] = self.turns
        return low, high

    def held(self, taken: Floats) -> Floats:
        """Return the quantity that :meth:`bounds` bounds, shape (R, P), from the turns taken."""
        return self.distance(taken) if self.turns is None else taken

    def fixed(self, turns: Ints) -> Balance:
        """Return the rule for these turns of each location, shape (P,)."""
        return replace(self, turns=turns)

    def widened(self, taken: Floats) -> Balance:
        """Return the rule, widened where these turns after each round, shape (R, P), would break it."""
        return replace(self, reach=np.maximum(self.reach, np.abs(self.distance(taken))))

    # -- Prices --------------------------------------------------------------------------------------------

    def seat_prices(self, prices: Floats) -> Floats:
        """Return W, the price of a seat of each location in each round, shape (R, P).

        Parameters
        ----------
        prices : ndarray of float64, shape (R, P)
            w, the price of a turn taken so far; positive at an upper bound.
        """
        seat: Floats = np.cumsum(prices[::-1], axis=0)[::-1]
        return seat if self.turns is not None else seat - self.part @ prices

    def constant(self, prices: Floats) -> float:
        """Return the part of the relaxation that depends on the bounds alone."""
        low, high = self.bounds()
        value = float((np.maximum(-prices, 0.0) * low - np.maximum(prices, 0.0) * high).sum())
        if self.turns is None:
            value += float(((1.0 - self.part) @ prices) @ self.done)
        return value

    def excess(self, prices: Floats, taken: Floats) -> Floats:
        """Return a subgradient of the relaxation: turns beyond the bound that is priced, shape (R, P)."""
        (low, high), held = self.bounds(), self.held(taken)
        priced = np.where(prices > 0, high, np.where(prices < 0, low, np.clip(held, low, high)))
        return held - priced
