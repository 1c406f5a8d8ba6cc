"""Replay of history: what a method would have emitted, had it been followed.

An instance is a fleet, a start and a deadline. Every method does the same work: R rounds of n distinct
clients, everybody in turn, 1 kWh a turn, over by the deadline. At any moment a planner is shown what was
known then, and nothing else (:meth:`History.known`): the newest forecast issued by then, the issues before
it, and the actual intensity of hours that were over, 28 days of each. What it does is charged with actual
intensity.

Savings are measured against the exact expectation for random clients back-to-back, and set in relation to the
saving of a bound that knows the future and no rounds: each client in its own cleanest windows. *Capture* is
the mean saving of a method over the mean saving of that bound.
"""

from lowcarb_scheduler.backtest.comparison import Comparison, Score, compare
from lowcarb_scheduler.backtest.history import NAIVE, History, Known, naive_issues
from lowcarb_scheduler.backtest.methods import METHODS, chosen_by_rule_2022, follow
from lowcarb_scheduler.backtest.scenario import SCENARIOS, Instance, Outcome, Scenario, instance

__all__ = [
    "METHODS",
    "NAIVE",
    "SCENARIOS",
    "Comparison",
    "History",
    "Instance",
    "Known",
    "Outcome",
    "Scenario",
    "Score",
    "chosen_by_rule_2022",
    "compare",
    "follow",
    "instance",
    "naive_issues",
]
