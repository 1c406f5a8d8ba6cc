"""Output average: the mean of a run's last models as its result, where rounds themselves are not corrected.

Each round of a one-sided schedule pulls the model to its own locations, and the mean of many rounds to all of
them. It is post-processing of models that are published anyway, so it costs no privacy.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord

from lowcarb_scheduler.errors import reason_of
from lowcarb_scheduler.events import OutputAveraged
from lowcarb_scheduler.flower.correction.records import FLOATS
from lowcarb_scheduler.flower.telemetry import numbers_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.app import MetricRecord

    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.settings import Settings

logger = logging.getLogger("flwr")

_SETTING: Final = "output-average"


class OutputAverage:
    """Running mean of the models of a run's last rounds.

    Parameters
    ----------
    rounds : int
        Number of rounds of the run.
    last : int
        Number of rounds whose models are averaged.
    ledger : Ledger
        Takes the event of the result.
    """

    def __init__(self, rounds: int, last: int, ledger: Ledger) -> None:
        self._from, self._ledger = max(1, rounds - last + 1), ledger
        self._count = 0
        self._mean: dict[str, np.ndarray[Any, Any]] = {}

    @classmethod
    def of(cls, settings: Settings, rounds: int, ledger: Ledger, *, has_source: bool) -> OutputAverage | None:
        """Return the average that settled settings ask for, None for none.

        ``auto`` averages the second half of the rounds where a schedule chosen by carbon is not corrected.
        """
        wish, is_corrected = settings.output_average, settings.participation_correction != "off"
        if wish == "off" or (wish == "auto" and (is_corrected or not has_source)):
            return None
        last = (rounds + 1) // 2 if wish == "auto" else int(wish)
        logger.info("lowcarb: the result will be the mean of the last %d models (%s)", last, _SETTING)
        return cls(rounds, last, ledger)

    def add(self, number: int, arrays: ArrayRecord | None) -> None:
        """Take the model of a round into account, from the first round that is averaged."""
        if number < self._from or arrays is None:
            return
        values = {name: array.numpy() for name, array in arrays.items() if array.dtype in FLOATS}
        shapes = {name: each.shape for name, each in values.items()}
        if shapes != {name: each.shape for name, each in self._mean.items()}:
            self._count, self._mean = 0, {name: np.zeros(shape) for name, shape in shapes.items()}
        self._count += 1
        for name, each in values.items():
            self._mean[name] += (each - self._mean[name]) / self._count

    def result(self, last: ArrayRecord) -> ArrayRecord:
        """Return the mean in place of the last model, but for arrays that are not of floats."""
        means = {
            name: Array(np.asarray(self._mean[name].astype(array.dtype))) if name in self._mean else array
            for name, array in last.items()
        }
        return ArrayRecord(means)

    def finish(
        self, last: ArrayRecord, evaluations: Mapping[str, Callable[[ArrayRecord], MetricRecord | None]]
    ) -> tuple[ArrayRecord, dict[str, MetricRecord]]:
        """Return the result of a run with its metrics, and enter it in the ledger.

        Parameters
        ----------
        last : ArrayRecord
            The last model.
        evaluations : mapping of str to callable
            By place, ``clients`` or ``server``, an evaluation of the result there.

        Returns
        -------
        ArrayRecord
            The mean; the last model where no round was averaged.
        dict of str to MetricRecord
            Its metrics by place.
        """
        if not self._count:
            logger.warning("lowcarb: no round was averaged, the result is the last model")
            return last, {}
        averaged = self.result(last)
        found: dict[str, MetricRecord] = {}
        for place, evaluate in evaluations.items():
            try:
                metrics = evaluate(averaged)
            except Exception as error:  # noqa: BLE001  the result of the training counts more
                reason = reason_of(error)
                logger.warning("lowcarb: the mean of models could not be evaluated on %s: %s", place, reason)
            else:
                found |= {} if metrics is None else {place: metrics}
        on_server, on_clients = (numbers_in(found.get(place)) for place in ("server", "clients"))
        self._ledger.append(
            OutputAveraged(models=self._count, metrics=on_server, client_metrics=on_clients or None)
        )
        shown = "; ".join(f"on {place} {metrics}" for place, metrics in found.items()) or "not evaluated"
        logger.info("lowcarb: the result is the mean of the last %d models: %s", self._count, shown)
        return averaged, found

    # -- Checkpoint ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds the mean."""
        return {"count": self._count, "mean": self._mean}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Restore the mean from a checkpoint."""
        self._count, self._mean = state["count"], dict(state["mean"])
