"""The page of a run: one file that needs nothing else, made from its ledger alone.

What nodes and sources said is text here, never markup: the template escapes it, unprintable characters are
written out, nothing is longer than a line, and the page allows neither scripts nor requests.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import format_duration, parse_time
from lowcarb_scheduler.errors import InputError, MissingExtraError, one_line
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger, summarise
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.gantt import labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from lowcarb_scheduler.ledger import RunSummary
    from lowcarb_scheduler.report.gantt import Labels

REPORT_NAME: Final = "report.html"
MOST_CLIENTS: Final = 48  # bars, one a client; a larger fleet is shown by how many had so many turns
MOST_METRICS: Final = 4
MOST_FAILURES: Final = 50


@dataclass(frozen=True, slots=True)
class TurnBar:
    """A bar of the figure of turns: its name, its length from 0 to 1, and what stands beside it."""

    name: str
    part: float
    value: str


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows, before it is written.

    Parameters
    ----------
    run : RunSummary
        The figures of the run.
    labels : Labels
        What its intensities are.
    gantt : str or None
        The picture of the rounds, as the source of an image; None where no round has closed.
    metrics : mapping of str to str
        A picture for each metric, by name.
    turns : sequence of TurnBar
        How evenly turns fell.
    facts : sequence of (str, str)
        What the numbers are.
    failures : sequence of mapping
        The ``node_failed`` events that are shown.
    more_failures : int
        How many are not.
    """

    run: RunSummary
    labels: Labels
    gantt: str | None
    metrics: Mapping[str, str]
    turns: Sequence[TurnBar]
    facts: Sequence[tuple[str, str]]
    failures: Sequence[Mapping[str, Any]]
    more_failures: int

    @property
    def without_actuals(self) -> int:
        """Rounds whose realised emissions are not known."""
        return sum(r.realised_g is None for r in self.run.rounds)


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` beside the ledger it is made from.

    Parameters
    ----------
    run_dir : Path
        Folder of the run, finished or not.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If there is no ledger, it is not as this version writes it, or the page cannot be written.
    MissingExtraError
        If matplotlib or jinja2 is not installed.
    """
    events, ledger = read_ledger(run_dir), str(run_dir / FILE_NAME)
    try:
        page = gather(events)
    except MissingExtraError:
        raise
    except InputError as error:
        raise error.within(ledger) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"holds an event this version does not write ({type(error).__name__}: {error})"
        fix = "use the version that wrote it"
        raise InputError("ledger", problem, fix, ledger) from error
    path = run_dir / REPORT_NAME
    unfinished = path.with_suffix(".html.new")
    try:
        unfinished.write_text(render(page), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise InputError("run-dir", problem, "make the folder writable") from None
    return path


def gather(events: Sequence[Mapping[str, Any]]) -> Page:
    """Return what the page of these events shows."""
    from lowcarb_scheduler.report.plots import plot_metric, plot_run

    run = summarise(events)
    series: dict[str, dict[int, float]] = {}
    for r in run.rounds:
        for name, value in r.metrics.items():
            if value is not None:
                series.setdefault(name, {})[r.number] = value
    shown = [name for name in sorted(series, key=_metric_rank) if len(series[name]) > 1][:MOST_METRICS]
    gantt = plot_run(events)
    failures = [event for event in events if event["event"] == "node_failed"]
    return Page(
        run=run,
        labels=labels_of(events),
        gantt=_image(gantt) if gantt else None,
        metrics={name: _image(plot_metric(name, series[name])) for name in shown},
        turns=_turn_bars(run.turns),
        facts=_facts(run, events),
        failures=failures[:MOST_FAILURES],
        more_failures=max(0, len(failures) - MOST_FAILURES),
    )


def render(page: Page) -> str:
    """Return the page as HTML."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "report") from None

    def finalize(value: object) -> object:
        return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        autoescape=True, finalize=finalize, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "mass": wording.mass,
        "percent": wording.percent,
        "energy": wording.energy,
        "instant": wording.instant,
        "duration": format_duration,
    }
    template = resources.files("lowcarb_scheduler.report").joinpath("report.html").read_text("utf-8")
    return environment.from_string(template).render(page=page, run=page.run)


def _facts(run: RunSummary, events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Say what the numbers are: where they come from, and what was measured or assumed."""
    started = run.started
    deadline = started["finish_by"]
    ended = next((event for event in reversed(events) if event["event"] == "run_finished"), None)
    if ended is not None:
        deadline = ended["finish_by"]
    finish_by = parse_time(deadline, "finish_by") if deadline else None
    return [
        ("Intensity", wording.labels(*labels_of(events))),
        ("Energy", f"{wording.energy(run.energy_kwh)}; {_basis(run.energy_by_basis)}"),
        ("Emissions", "energy of training times intensity, in CO2 equivalents; nothing else is counted"),
        ("Run-now", "as many rounds of random clients, back-to-back from the start of the run"),
        ("Strategy", str(started["strategy"])),
        ("Participation", str(started["participation"])),
        ("Patience", f"{started['patience']:g} (0: back-to-back now; 1: cleanest by the deadline)"),
        ("Deadline", f"{wording.instant(finish_by)} UTC" if finish_by else "none"),
        ("Finish", _finish(run, finish_by)),
        *([("Resumed", f"{run.resumed} time(s); everything is counted once")] if run.resumed else []),
        ("Clock", "virtual: holds were jumped through" if started["clock"] == "virtual" else "the system's"),
        ("Software", f"lowcarb-scheduler {started['version']}, flwr {started['flwr_version']}"),
    ]


def _basis(kwh: Mapping[str, float]) -> str:
    if not kwh:
        return "no turn is complete"
    if len(kwh) == 1:
        return f"{next(iter(kwh))} for every turn"
    return ", ".join(f"{wording.energy(part)} {name}" for name, part in sorted(kwh.items()))


def _finish(run: RunSummary, finish_by: Any) -> str:
    if run.finish is None:
        return "no round has closed"
    finish = f"{wording.instant(run.finish)} UTC"
    if run.status != "completed":
        return f"{run.status}; the last round closed at {finish}"
    if finish_by is None:
        return finish
    early = finish_by - run.finish
    side = "before" if early.total_seconds() >= 0 else "after"
    return f"{finish}, {format_duration(abs(early))} {side} the deadline"


def _turn_bars(turns: Mapping[str, int]) -> list[TurnBar]:
    """Return a bar a client, or for a large fleet a bar for each number of turns."""
    if len(turns) <= MOST_CLIENTS:
        most = max([1, *turns.values()])
        return [
            TurnBar(name, count / most, str(count)) for name, count in sorted(turns.items(), key=_natural)
        ]
    clients = Counter(turns.values())
    most = max(clients.values())
    return [
        TurnBar(f"{count} turns", number / most, f"{number} clients")
        for count, number in sorted(clients.items())
    ]


def _natural(item: tuple[str, int]) -> list[str | int]:
    """Order names as people do: site-2 before site-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item[0])]


def _metric_rank(name: str) -> tuple[bool, str]:
    """Put accuracies first."""
    return "acc" not in name.lower(), name


def _image(figure: Figure) -> str:
    """Return a figure as the source of an image that needs no other file."""
    from lowcarb_scheduler.report.plots import save

    buffer = io.BytesIO()
    save(figure, buffer, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
