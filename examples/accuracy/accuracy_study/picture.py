"""Figure: accuracy against saving, with and without the participation correction."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from accuracy_study.evidence import CONFIDENCE, Found
from accuracy_study.settings import NAMES
from accuracy_study.task import TASKS

# Plans that are trained without the correction and with it.
PAIRS: Final = (("free-off", "free"), ("balance-off", "balance"), ("", "defaults"))
# Names of plans, and the side of their circles where they stand.
LABELS: Final = {
    "free": ("free", "left"),
    "balance": ("balanced", "right"),
    "defaults": ("defaults", "center"),
}
INK, QUIET, WITHOUT, WITH, PAPER = "#1b1b1b", "#555555", "#c2410c", "#00755e", "#ffffff"
FAR: Final = 2.0  # points between two circles that are worth an arrow
KEY: Final = "last_ten"


def draw(results: dict[str, Any], setting: str | None = None) -> Figure:
    """Return one panel a task: difference to plain FedAvg against saving, means with confidence intervals."""
    setting = setting or next(iter(results["settings"]))
    found = Found.of(results, setting)
    rows = -(-len(found.tasks) // 2)
    height = 1.3 + 2.2 * rows
    figure = Figure(figsize=(9, height), layout="constrained", facecolor=PAPER)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.65 / height))
    # One scale for all: a task in which nothing is lost must look like one.
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, task in zip(panels, found.tasks, strict=False):
        _panel(panel, found, task)
    for panel in panels[len(found.tasks) :]:
        panel.axis("off")
    for panel in panels[-2:]:
        panel.set_xlabel("emissions saved, %")
    for panel in panels[::2]:
        panel.set_ylabel("points above plain FedAvg")
    title = "A plan that follows clean electricity forgets places; the correction brings them back"
    about = (
        f"means of {len(results['seeds'])} seeds over the last ten rounds, {CONFIDENCE:.0%} intervals;"
        f" {results['intensity']} intensities; data: {NAMES[setting]}"
    )
    top = {"x": 0.01, "ha": "left", "va": "top"}
    figure.text(y=1 - 0.08 / height, s=title, fontsize=12.5, fontweight="bold", color=INK, **top)
    figure.text(y=1 - 0.36 / height, s=about, fontsize=9.5, color=QUIET, **top)
    handles = [
        Line2D([], [], label=label, **_look(colour, face), linestyle="none")
        for label, colour, face in (
            ("without correction", WITHOUT, PAPER), ("the same plan, corrected", WITH, WITH)
        )
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=INK, marker="s", linestyle="none", label="plain FedAvg, follows no carbon")
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _panel(panel: Any, found: Found, task: str) -> None:
    panel.set_facecolor(PAPER)
    panel.axhspan(-1, 1, color=INK, alpha=0.07, linewidth=0)  # within a point
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.plot(found.saving("plain").value, 0, color=INK, marker="s", markersize=6, linestyle="none")
    for off, on in PAIRS:
        there = [name for name in (off, on) if name in found.schedules]
        places = {name: (found.saving(name).value, found.difference(task, name, KEY)) for name in there}
        if len(there) == 2 and places[on][1].value - places[off][1].value > FAR:
            ends = [(x, mean.value) for x, mean in places.values()]
            arrow = {"arrowstyle": "-|>", "color": "#8a8a8a", "shrinkA": 5, "shrinkB": 5}
            panel.annotate("", ends[1], ends[0], arrowprops=arrow)
        for name, (x, mean) in places.items():
            look = _look(WITHOUT, PAPER) if name == off else _look(WITH, WITH)
            panel.errorbar(x, mean.value, mean.half_width, capsize=3, linewidth=1.2, **look)
        if there:
            x, lowest = places[there[0]][0], min(mean.value - mean.half_width for _, mean in places.values())
            panel.annotate(
                LABELS[on][0], (x, lowest), (0, -3), textcoords="offset points", ha=LABELS[on][1], va="top",
                fontsize=8.5, color=QUIET,
            )  # fmt: skip
    panel.set_title(f"{TASKS[task].name} ({TASKS[task].measure})", loc="left", fontsize=10, color=INK)
    panel.grid(alpha=0.2)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=9)
    panel.margins(x=0.1, y=0.15)


def _look(colour: str, face: str) -> dict[str, Any]:
    return {"color": colour, "marker": "o", "markerfacecolor": face, "markersize": 7}
