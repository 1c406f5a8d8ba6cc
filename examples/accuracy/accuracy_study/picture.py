"""Figure: accuracy against saving, with and without the participation correction."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from accuracy_study.evidence import CONFIDENCE, Found
from accuracy_study.task import TASKS

# Plans that are trained without the correction and with it.
PAIRS: Final = (("free-off", "free"), ("balance-off", "balance"), ("differ-off", "differ"))
LABELS: Final = {
    "plain": "plain FedAvg",
    "free": "free plan",
    "balance": "balanced plan",
    "differ": "turns differ",
    "rule-2022": "rule of 2022",
}
INK, WITHOUT, WITH, PAPER = "#1b1b1b", "#c2410c", "#00755e", "#ffffff"
KEY: Final = "last_ten"


def draw(results: dict[str, Any], setting: str | None = None) -> Figure:
    """Return one panel a task: difference to plain FedAvg against saving, means with confidence intervals."""
    setting = setting or next(iter(results["settings"]))
    found = Found.of(results, setting)
    rows = -(-len(found.tasks) // 2)
    figure = Figure(figsize=(9.5, 1.2 + 2.9 * rows), layout="constrained", facecolor=PAPER)
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for panel, task in zip(panels, found.tasks, strict=False):
        _panel(panel, found, task)
    for panel in panels[len(found.tasks) :]:
        panel.axis("off")
    for panel in panels[-2:]:
        panel.set_xlabel("emissions saved, %")
    for panel in panels[::2]:
        panel.set_ylabel("points above plain FedAvg")
    seeds, source = len(results["seeds"]), results["intensity"]
    figure.suptitle(
        "A plan that follows clean electricity forgets places; the correction brings them back\n",
        x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=INK,
    )  # fmt: skip
    figure.text(
        0.01, 0.985 - 0.3 / figure.get_figheight(),
        f"means of {seeds} seeds over the last ten rounds, {CONFIDENCE:.0%} intervals; {source} intensities",
        ha="left", va="top", fontsize=9.5, color="#555555",
    )  # fmt: skip
    handles = [
        Line2D(
            [],
            [],
            color=WITHOUT,
            marker="o",
            markerfacecolor=PAPER,
            linestyle="none",
            label="without correction",
        ),
        Line2D([], [], color=WITH, marker="o", linestyle="none", label="with it, the same plan"),
        Line2D([], [], color=INK, marker="s", linestyle="none", label="plain FedAvg, no carbon"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _panel(panel: Any, found: Found, task: str) -> None:
    panel.set_facecolor(PAPER)
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.plot(found.saving("plain").value, 0, color=INK, marker="s", markersize=6, linestyle="none")
    for off, on in PAIRS:
        if off in found.schedules and on in found.schedules:
            start, end = (found.difference(task, name, KEY).value for name in (off, on))
            x = found.saving(on).value
            panel.annotate(
                "", (x, end), (found.saving(off).value, start), annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": "#9a9a9a", "shrinkA": 5, "shrinkB": 5},
            )  # fmt: skip
        for name, colour, face in ((off, WITHOUT, PAPER), (on, WITH, WITH)):
            if name in found.schedules:
                _point(panel, found, task, name, colour, face)
        if off in found.schedules:
            y = found.difference(task, off, KEY)
            panel.annotate(
                LABELS[on], (found.saving(off).value, y.value - y.half_width), (0, -4),
                textcoords="offset points", ha="center", va="top", fontsize=8.5, color="#444444",
            )  # fmt: skip
    panel.set_title(f"{TASKS[task].name} ({TASKS[task].measure})", loc="left", fontsize=10, color=INK)
    panel.grid(alpha=0.2)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelbottom=True, labelsize=9)
    panel.margins(x=0.12, y=0.22)


def _point(panel: Any, found: Found, task: str, name: str, colour: str, face: str) -> None:
    x, y = found.saving(name), found.difference(task, name, KEY)
    panel.errorbar(
        x.value, y.value, y.half_width, color=colour, marker="o", markerfacecolor=face, markersize=7,
        capsize=3, linewidth=1.3,
    )  # fmt: skip
