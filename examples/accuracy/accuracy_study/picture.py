"""Figure: accuracy against cumulative emissions."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from accuracy_study.evidence import CONFIDENCE, REDRAWN, accuracies

STYLES = {
    "plain FedAvg": ("#1b1b1b", "-"),
    "the rule of 2022": ("#8a6d00", "-"),
    "patience 0": ("#c2185b", ":"),
    "patience 0.5": ("#c2185b", "--"),
    "patience 1": ("#c2185b", "-"),
    "patience 0, mixed": ("#0b4f8a", ":"),
    "patience 0.5, mixed": ("#0b4f8a", "--"),
    "patience 1, mixed": ("#0b4f8a", "-"),
    "patience 0, spread": ("#00806b", ":"),
    "patience 0.5, spread": ("#00806b", "--"),
    "patience 1, spread": ("#00806b", "-"),
    "region after region": ("#9a9a9a", "-"),
}


def draw(results: dict[str, Any]) -> Figure:
    """Return accuracy against emissions: means over seeds, with confidence intervals at the end."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.subplots()
    for name, runs in results["schedules"].items():
        if name == REDRAWN:
            continue
        kilograms = np.cumsum([run["emissions_g"] for run in runs], axis=1).mean(axis=0) / 1000
        accuracy = accuracies(results, name)
        mean, width = accuracy.mean(axis=0), accuracy.std(axis=0, ddof=1) / np.sqrt(len(runs))
        width *= student.ppf((1 + CONFIDENCE) / 2, len(runs) - 1)
        colour, dashes = STYLES[name]
        axes.plot(kilograms, mean, color=colour, linestyle=dashes, label=name, linewidth=1.6)
        axes.errorbar(kilograms[-1], mean[-1], width[-1], color=colour, capsize=4, marker="o", markersize=5)
    axes.set_xlabel("emitted so far, kgCO2eq")
    axes.set_ylabel("accuracy on unseen digits, %")
    seeds, source = len(results["run_now_g"]), results["intensity"]
    title = f"Accuracy against emissions, means of {seeds} seeds with {CONFIDENCE:.0%} intervals"
    axes.set_title(f"{title}; {source} intensities", loc="left", fontsize=11, fontweight="bold")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="lower right", ncols=2)
    return figure
