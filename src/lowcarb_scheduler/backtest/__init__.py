"""Backtest: planning methods replayed on past forecasts and charged with actual carbon intensity.

An instance is a fleet, a start and a deadline. Every method does the same work: R rounds of n distinct
clients, equal turns, 1 kWh per turn, finished by the deadline. At any time a planner sees only the data
available then (:meth:`History.known`): the newest forecast issued by then, the issues before it, and the
actual intensity of hours that had ended, 28 days of each. Its decisions are charged with actual intensity.

Savings are measured against the exact expectation for random clients back-to-back (run-now). The bound has
perfect information and no rounds: each client trains in its own cleanest windows. *Capture* is the mean
saving of a method over the mean saving of the bound.
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
