"""Evidence: results of ten or more runs of each schedule, with confidence intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

BASELINE, REDRAWN = "plain FedAvg", "plain FedAvg, drawn again"
LAST = 10  # rounds over which accuracy is averaged, besides that after the last one
CONFIDENCE = 0.95


class Mean(NamedTuple):
    """Mean over seeds, its standard error, and half the width of its confidence interval."""

    value: float
    error: float
    half_width: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Return the mean of independent values."""
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        return cls(
            float(values.mean()), error, float(error * student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        )

    def __str__(self) -> str:
        return f"{self.value:.1f} ± {self.half_width:.1f}"


class Row(NamedTuple):
    """Row of a schedule: accuracies [%], differences to plain FedAvg [points], saving against run-now [%]."""

    name: str
    final: Mean
    difference: Mean | None
    last_difference: Mean | None
    saving: Mean
    regions: float
    fewest: int
    most: int


def rows(results: dict[str, Any]) -> list[Row]:
    """Return one row per schedule, with differences paired by seed."""
    accuracy = {name: accuracies(results, name) for name in results["schedules"]}
    base, found = accuracy[BASELINE], []
    run_now = np.array(results["run_now_g"])
    for name, runs in results["schedules"].items():
        gained = accuracy[name] - base
        found.append(
            Row(
                name,
                Mean.of(accuracy[name][:, -1]),
                None if name == BASELINE else Mean.of(gained[:, -1]),
                None if name == BASELINE else Mean.of(gained[:, -LAST:].mean(axis=1)),
                Mean.of(100 * (1 - np.array([sum(run["emissions_g"]) for run in runs]) / run_now)),
                float(np.mean([run["regions_a_round"] for run in runs])),
                min(run["fewest_turns"] for run in runs),
                max(run["most_turns"] for run in runs),
            )
        )
    return found


def accuracies(results: dict[str, Any], name: str) -> np.ndarray:
    """Return accuracies of a schedule [%], shape (seeds, rounds)."""
    return 100 * np.array([run["right"] for run in results["schedules"][name]]) / results["test_images"]


def table(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| schedule | accuracy, % | - plain | - plain, last 10 rounds | saving, % | regions a round"
        " | turns |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.final} | {_signed(row.difference)} | {_signed(row.last_difference)} |"
        f" {row.saving} | {row.regions:.1f} | {row.fewest} to {row.most} |"
        for row in rows(results)
    ]
    return "\n".join(lines)


def _signed(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:+.1f} ± {mean.half_width:.1f}"
