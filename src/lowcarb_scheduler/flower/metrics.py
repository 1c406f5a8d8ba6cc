"""Metrics of rounds for Flower's own records, beside those of the user: whatever logs these has them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flwr.app import MetricRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lowcarb_scheduler.events import Figures, RoundOpened

PLANNED: Final = "lowcarb-planned-g"  # expected emissions of training [gCO2eq]
REALISED: Final = "lowcarb-realised-g"  # the same on actual intensity [gCO2eq]
INTENSITY: Final = "lowcarb-g-per-kwh"  # expected mean intensity of training [gCO2eq/kWh]
HELD: Final = "lowcarb-held-s"  # time that the round was held [s]
MEAN: Final = "lowcarb-mean-"  # before the name of a metric of the mean that output-average returns


def with_round(metrics: MetricRecord | None, opened: RoundOpened) -> MetricRecord:
    """Return the metrics of a training, and what is known of its round when it opens.

    Parameters
    ----------
    metrics : MetricRecord or None
        Metrics of the strategy; the record itself stays as it is.
    opened : RoundOpened
        The round. Emissions that it does not know are left out.
    """
    held_s = opened.held.total_seconds()
    return _added(metrics, {PLANNED: opened.planned_g, INTENSITY: opened.mean_g_per_kwh, HELD: held_s})


def add_realised(by_round: dict[int, MetricRecord], rounds: Iterable[Figures]) -> None:
    """Add realised emissions to the metrics of trainings, which a run knows at its end at the latest.

    Parameters
    ----------
    by_round : dict of int to MetricRecord
        Metrics of a result, by round.
    rounds : iterable of Figures
        Emissions of the rounds.
    """
    for figures in rounds:
        if (metrics := by_round.get(figures.round)) is not None:
            by_round[figures.round] = _added(metrics, {REALISED: figures.realised_g})


def add_mean(by_round: dict[int, MetricRecord], last: int, metrics: MetricRecord | None) -> None:
    """Add metrics of the mean of models that a run returns to those of its last round.

    Parameters
    ----------
    by_round : dict of int to MetricRecord
        Metrics of a result, by round.
    last : int
        The last round.
    metrics : MetricRecord or None
        Metrics of the mean.
    """
    if metrics:
        ours = {f"{MEAN}{name}": value for name, value in metrics.items()}
        by_round[last] = _added(by_round.get(last), ours)


def _added(metrics: MetricRecord | None, ours: Mapping[str, Any]) -> MetricRecord:
    """Return a new record of metrics and those of ours that are known; the user's come first, and stay."""
    own = dict(metrics or {})
    return MetricRecord({**own, **{k: v for k, v in ours.items() if v is not None and k not in own}})
