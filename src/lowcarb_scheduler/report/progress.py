"""The picture of progress: what the app reports after each round, against what had been emitted by then."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal

from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.canvas import (
    INK,
    LINE,
    NARROW_IN,
    SOFT,
    clean,
    new_figure,
    short_name,
    whole_numbers,
)
from lowcarb_scheduler.report.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowcarb_scheduler.ledger import RunSummary

MOST_METRICS: Final = 4
_LONGEST_NAME: Final = 40
_VERB: Final = {
    "realised": "emitted",
    "planned": "been planned to emit (actual intensity is not known for all)",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """One metric of a run.

    Parameters
    ----------
    metric : str
        Its name.
    values : tuple of float
        After each round that has it.
    spent : tuple of float
        What had been emitted by then [g], or how many rounds were over.
    of : {"realised", "planned", "rounds"}
        What ``spent`` is.
    run_now_g : float or None
        What as many rounds, run at once by random clients, would have emitted [g].
    """

    metric: str
    values: tuple[float, ...]
    spent: tuple[float, ...]
    of: Literal["realised", "planned", "rounds"]
    run_now_g: float | None = None


def progress_of(run: RunSummary) -> tuple[Progress, ...]:
    """Gather a run's metrics, accuracies first, against realised emissions.

    Where one of those is not known, against planned ones; where neither is, by round.
    """
    rounds = run.rounds
    realised_g = [r.realised_g for r in rounds if r.realised_g is not None]
    planned_g = [r.planned_g for r in rounds if r.planned_g is not None]
    of: Literal["realised", "planned", "rounds"] = "rounds"
    spent = [float(r.number) for r in rounds]
    if len(realised_g) == len(rounds):
        of, spent = "realised", list(accumulate(realised_g))
    elif len(planned_g) == len(rounds):
        of, spent = "planned", list(accumulate(planned_g))
    names = sorted({name for r in rounds for name in r.metrics}, key=_rank)
    found = []
    for name in names:
        values = [
            (value, g)
            for r, g in zip(rounds, spent, strict=True)
            if (value := r.metrics.get(name)) is not None
        ]
        if len(values) > 1:
            of_metric, at = zip(*values, strict=True)
            run_now_g = run.run_now_g if of == "realised" else None
            found.append(Progress(name, of_metric, at, of, run_now_g))
    return tuple(found[:MOST_METRICS])


def picture_of_progress(progress: Progress, number: int, labels: str) -> Picture:
    """Draw one metric against what had been emitted; ``number`` tells its file from others."""
    name = one_line(progress.metric, _LONGEST_NAME)
    last = wording.significant(progress.values[-1])
    if progress.of == "rounds":
        title, says = f"{name} by round: {last} in the end", ["a dot a round"]
    else:
        spent = wording.mass(progress.spent[-1])
        title = f"{name} against emissions: {last} after {spent} CO2eq"
        says = [f"a dot a round, at what all rounds up to it have {_VERB[progress.of]}"]
    if progress.run_now_g is not None:
        says.append("dashed line: what as many rounds emit when random clients run them at once")
    return Picture(
        f"progress-{number}", title, labels, tuple(says), lambda width_in: _draw(progress, width_in)
    )


def _rank(name: str) -> tuple[bool, str]:
    """Put accuracies first."""
    return "acc" not in name.lower(), name


def _draw(progress: Progress, width_in: float) -> Figure:
    figure = new_figure(2.8, width_in)
    axes = figure.subplots()
    unit_g, unit = 1.0, ""
    if progress.of != "rounds":
        unit_g, unit = wording.mass_unit(max(abs(progress.run_now_g or 0.0), *map(abs, progress.spent)))
    spent = [g / unit_g for g in progress.spent]
    axes.plot(spent, progress.values, color=LINE, linewidth=1.6, marker="o", markersize=3.2)
    if progress.run_now_g is not None:
        run_now = progress.run_now_g / unit_g
        axes.axvline(run_now, color=SOFT, linewidth=1.2, linestyle="--")
        # Where the curve does not end: a rising one leaves room below, a falling one above.
        low = progress.values[-1] > (min(progress.values) + max(progress.values)) / 2
        axes.annotate(
            f"run-now: {wording.mass(progress.run_now_g)}", (run_now, 0.05 if low else 0.95), xytext=(-5, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right",
            va="bottom" if low else "top", fontsize=8.5, color=SOFT,
        )  # fmt: skip
    clean(axes)
    axes.set_ylabel(short_name(progress.metric), fontsize=8.5, color=INK)
    if progress.of == "rounds":
        whole_numbers(axes.xaxis, 12 if width_in > NARROW_IN else 6)
        axes.set_xlabel("round", fontsize=8.5, color=INK)
    else:
        axes.set_xlim(left=min(0.0, *spent))
        axes.set_xlabel(f"cumulative emissions, {progress.of} [{unit}CO2eq]", fontsize=8.5, color=INK)
    return figure
