"""Evidence: tables of differences paired by seed, with confidence intervals."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from scipy.stats import t as student

from accuracy_study.schedules import ALL
from accuracy_study.settings import FEW, NAMES
from accuracy_study.task import TASKS

PLAIN, CORRECTED_PLAIN, FREE, DEFAULTS = "plain", "plain-corrected", "free-off", "defaults"
SHORT: Final = (FREE, "balance", DEFAULTS)
COMPARED: Final = ("again", "foreseen-differ")
CONFIDENCE: Final = 0.95
WORST_LOSS, LEAST_SHARE = 1.0, 0.9  # points; part of the free plan's saving: what the defaults must keep


class Mean(NamedTuple):
    """Mean over seeds, its standard error, and half the width of its confidence interval."""

    value: float
    error: float
    half_width: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Return the mean of independent values."""
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        quantile = student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        return cls(float(values.mean()), error, float(error * quantile))

    def __str__(self) -> str:
        return f"{self.value:.1f} ± {self.half_width:.1f}"

    @property
    def signed(self) -> str:
        """The mean as a difference."""
        return f"{self.value:+.1f} ± {self.half_width:.1f}"


class Found(NamedTuple):
    """Results of a setting: of each task and schedule one entry a seed, and the baseline of savings.

    Parameters
    ----------
    tasks : dict
        Entries by task, schedule and seed.
    run_now_g : ndarray, shape (S,)
        Emissions of random clients back-to-back [gCO2eq].
    """

    tasks: dict[str, dict[str, list[dict[str, Any]]]]
    run_now_g: np.ndarray

    @classmethod
    def of(cls, results: dict[str, Any], setting: str) -> Found:
        """Return the results of a setting."""
        return cls(results["settings"][setting], np.array(results["run_now_g"][setting]))

    @property
    def schedules(self) -> list[str]:
        """Schedules, in their order."""
        return list(next(iter(self.tasks.values())))

    def values(self, task: str, schedule: str, key: str) -> np.ndarray:
        """Return a number of each seed, shape (S,)."""
        return np.array([entry[key] for entry in self.tasks[task][schedule]], dtype=float)

    def difference(self, task: str, schedule: str, key: str, base: str = PLAIN) -> Mean:
        """Return the mean difference of a score to that of another schedule [points]."""
        return Mean.of(self.values(task, schedule, key) - self.values(task, base, key))

    def saving(self, schedule: str) -> Mean:
        """Return the mean saving of a schedule [%]; it is the same for all tasks."""
        task = next(iter(self.tasks))
        return Mean.of(100 * (1 - self.values(task, schedule, "emissions_g") / self.run_now_g))

    def turns(self, schedule: str) -> str:
        """Return fewest and most turns of a client, and Jain's index."""
        task = next(iter(self.tasks))
        few, most = (self.values(task, schedule, f"{key}_turns") for key in ("fewest", "most"))
        jain = self.values(task, schedule, "jain").mean()
        return f"{few.min():.0f} to {most.max():.0f}; {jain:.2f}"


def table(results: dict[str, Any], setting: str = "main", base: str = PLAIN) -> str:
    """Return the table of a setting as Markdown: schedules against one, those corrected if that is."""
    found = Found.of(results, setting)
    heads = ["schedule", "saving, %", "turns; Jain", *(TASKS[task].name for task in found.tasks)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for schedule in found.schedules:
        if base == CORRECTED_PLAIN and not ALL[schedule].is_corrected:
            continue
        cells = [ALL[schedule].name, str(found.saving(schedule)), found.turns(schedule)]
        for task in found.tasks:
            if schedule == base:
                final, last = (found.values(task, base, key).mean() for key in ("final", "last_ten"))
                measure = TASKS[task].measure
                cells.append(f"{final:.1f}, {last:.1f} ({measure})")
            else:
                keys = ("final", "last_ten")
                cells.append(", ".join(found.difference(task, schedule, key, base).signed for key in keys))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short_table(results: dict[str, Any]) -> str:
    """Return a table of few schedules as Markdown: last ten rounds against plain FedAvg."""
    found = Found.of(results, "main")
    heads = ["schedule", "saves, %", *(TASKS[task].name for task in found.tasks)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for schedule in (name for name in SHORT if name in found.schedules):
        cells = [ALL[schedule].name, str(found.saving(schedule))]
        cells += [found.difference(task, schedule, "last_ten").signed for task in found.tasks]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings_table(documents: list[dict[str, Any]], tasks: tuple[str, ...] = FEW.tasks) -> str:
    """Return a table of all settings as Markdown: last ten rounds against plain FedAvg, and the saving."""
    heads = ["setting", "saves, %"]
    heads += [f"{TASKS[task].name}: {ALL[name].name.strip('*')}" for task in tasks for name in COMPARED]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for results in documents:
        for setting in results["settings"]:
            found = Found.of(results, setting)
            cells = [NAMES[setting], str(found.saving(COMPARED[-1]))]
            cells += [found.difference(task, name, "last_ten").signed for task in tasks for name in COMPARED]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return all tables that the results have, by their titles."""
    found = {}
    bases = {
        PLAIN: "plain FedAvg",
        CORRECTED_PLAIN: "plain FedAvg with the correction",
        "adam": "plain FedAdam",
        "yogi": "plain FedYogi",
        "fedavgm": "plain FedAvgM",
    }
    for setting in results["settings"]:
        for base, words in bases.items():
            if base in Found.of(results, setting).schedules:
                found[f"{NAMES[setting]}, against {words}"] = table(results, setting, base)
    return found


def losses(results: dict[str, Any], setting: str = "main") -> dict[tuple[str, str], Mean]:
    """Return the differences of the defaults to plain FedAvg, by task and score."""
    found = Found.of(results, setting)
    return {
        (task, key): found.difference(task, DEFAULTS, key)
        for task in found.tasks
        for key in ("final", "last_ten")
    }


def kept_saving(results: dict[str, Any], setting: str = "main") -> float:
    """Return the part of the free plan's saving that the defaults keep."""
    found = Found.of(results, setting)
    return found.saving(DEFAULTS).value / found.saving(FREE).value


def verdict(results: dict[str, Any]) -> str:
    """Return whether the defaults keep what they must in the main setting, in one line."""
    if "main" not in results["settings"] or not {FREE, DEFAULTS} <= {*Found.of(results, "main").schedules}:
        return "no verdict: the schedules that it compares were not asked for"
    (task, key), worst = min(losses(results).items(), key=lambda item: item[1].value)
    part = kept_saving(results)
    holds = worst.value >= -WORST_LOSS and part >= LEAST_SHARE
    return (
        f"the defaults {'hold' if holds else 'DO NOT HOLD'}: at worst {worst.signed} points from plain FedAvg"
        f" ({TASKS[task].name}, {key.replace('_', ' ')}), {part:.0%} of the free plan's saving"
    )
