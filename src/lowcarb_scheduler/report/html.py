"""The page of a run: one file that needs nothing else, made from its ledger alone.

What nodes and sources said is text here, never markup: the template escapes it, unprintable characters are
written out, nothing is longer than a line, and the page allows neither scripts nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.accounting.replay import as_written, deadline_of, known_intensity
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import InputError, MissingExtraError, one_line
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.charts import (
    MOST_CLIENTS,
    choice_of_run,
    picture_of_choice,
    picture_of_progress,
    picture_of_turns,
    picture_of_waterfall,
    progress_of,
)
from lowcarb_scheduler.report.pareto import picture_of_standing
from lowcarb_scheduler.report.rounds import picture_of_run, save
from lowcarb_scheduler.report.tables import incidents_of, table_of_incidents, tables_of, write_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.accounting.attribution import Accounts, Sci
    from lowcarb_scheduler.ledger import RunSummary
    from lowcarb_scheduler.report.figure import Picture
    from lowcarb_scheduler.report.tables import Incident

# -- All pictures of a run, in the order of the page, and how they are written as files ---------------------

KINDS: Final = ("png", "svg")


def pictures_of_run(events: Sequence[Mapping[str, Any]], accounts: Accounts) -> tuple[Picture, ...]:
    """Return what can be drawn of a run.

    Parameters
    ----------
    events : sequence of mapping
        Its ledger.
    accounts : Accounts
        What they come to.
    """
    labels = formatting.labels(accounts.provenance)
    choice = choice_of_run(events, known_intensity(events))
    found = (
        picture_of_run(events),
        picture_of_waterfall(accounts.waterfall, labels),
        picture_of_standing(accounts.front, deadline_of(events), labels) if accounts.front else None,
        picture_of_choice(choice, labels) if choice else None,
        *(picture_of_progress(each, k, labels) for k, each in enumerate(progress_of(accounts.run), start=1)),
        picture_of_turns(accounts.run.turns, labels),
    )
    return tuple(picture for picture in found if picture)


def write_pictures(pictures: Iterable[Picture], folder: Path) -> None:
    """Write each picture as PNG and as SVG into a folder that is there.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    for picture in pictures:
        figure = picture.figure()
        for kind in KINDS:
            save(figure, folder / f"{picture.name}.{kind}")
            figure.set_layout_engine("none")  # all stands where it is to be; to find that out takes longest


# -- What the numbers of a run are, in words: where they come from, and what was measured or assumed --------


def facts_of(accounts: Accounts, finish_by: datetime | None) -> list[tuple[str, str]]:
    """Return what a reader has to know of a run's numbers, as name and text."""
    run, started = accounts.run, accounts.run.started
    return [
        ("Intensity", formatting.labels(accounts.provenance)),
        ("Energy", f"{formatting.energy(run.energy_kwh)} of training; {_basis(run.energy_by_basis)}"),
        ("Emissions", "energy of training times intensity, in CO2 equivalents; nothing else is counted"),
        ("Run-now", "as many rounds of random clients, back-to-back from the start of the run"),
        ("Hindsight", "the best plan of somebody who knew the actual intensities before"),
        ("SCI", _sci(accounts.sci)),
        ("Strategy", str(started["strategy"])),
        ("Participation", str(started["participation"])),
        ("Patience", f"{started['patience']:g} (0: back-to-back now; 1: cleanest by the deadline)"),
        ("Deadline", f"{formatting.instant(finish_by)} UTC" if finish_by else "none"),
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
    return ", ".join(f"{formatting.energy(part)} {name}" for name, part in sorted(kwh.items()))


def _sci(sci: Sci) -> str:
    """Write the terms of the Software Carbon Intensity (ISO/IEC 21031)."""
    if sci.intensity_g_per_kwh is None:
        terms = f"E = {formatting.energy(sci.energy_kwh)}; I is not known, so there is no value"
    else:
        terms = (
            f"E × I / R = {formatting.energy(sci.energy_kwh)} × "
            f"{formatting.significant(sci.intensity_g_per_kwh)} g/kWh / {sci.rounds} rounds = "
            f"{formatting.mass(sci.g_per_round)} a round"
        )
    return f"{terms}; M, the making of hardware, is not counted"


def _finish(run: RunSummary, finish_by: datetime | None) -> str:
    if run.finish is None:
        return "no round has closed"
    finish = f"{formatting.instant(run.finish)} UTC"
    if run.status != "completed":
        return f"{run.status}; the last round closed at {finish}"
    if finish_by is None:
        return finish
    early = finish_by - run.finish
    side = "before" if early.total_seconds() >= 0 else "after"
    return f"{finish}, {format_duration(abs(early))} {side} the deadline"


REPORT_NAME: Final = "report.html"
FOLDER_NAME: Final = "report"  # of its pictures and tables
MOST_FAILURES: Final = 20


@dataclass(frozen=True, slots=True)
class Number:
    """One of the four numbers: its name, its emissions [g], its part of the largest, and what it is."""

    name: str
    emissions_g: float | None
    part: float
    says: str


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows, before it is written.

    Parameters
    ----------
    accounts : Accounts
        What the run comes to.
    pictures : sequence of Picture
        What is drawn of it.
    numbers : sequence of Number
        Run-now, planned, realised and hindsight.
    labels : str
        What its intensities are.
    facts : sequence of (str, str)
        What the numbers are.
    mishaps : sequence of Incident
        What did not go as it should, in order.
    most_clients : int
        How many the table of clients has at most; of a larger fleet the CSV has them.
    """

    accounts: Accounts
    pictures: Sequence[Picture]
    numbers: Sequence[Number]
    labels: str
    facts: Sequence[tuple[str, str]]
    mishaps: Sequence[Incident]
    most_clients: int = MOST_CLIENTS

    @property
    def shown_mishaps(self) -> list[Incident]:
        """Those that the page has room for: of failures of nodes only the first."""
        number = accumulate(mishap.of_node for mishap in self.mishaps)
        return [
            mishap
            for mishap, failures in zip(self.mishaps, number, strict=True)
            if not mishap.of_node or failures <= MOST_FAILURES
        ]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` beside the ledger it is made from, and its pictures and tables into ``report/``.

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
    return write_page(read_page(run_dir), run_dir)


def read_page(run_dir: Path) -> Page:
    """Return what the page of a run shows, from its ledger; raises as :func:`write_report`."""
    events = read_ledger(run_dir)
    with as_written(str(run_dir / FILE_NAME)):
        return gather(events)


def write_page(page: Page, run_dir: Path) -> Path:
    """Write a page, its pictures and its tables into the folder of its run; raise as it does."""
    path, folder = run_dir / REPORT_NAME, run_dir / FOLDER_NAME
    unfinished = path.with_suffix(".html.new")
    try:
        folder.mkdir(exist_ok=True)
        unfinished.write_text(render(page), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise InputError("run-dir", problem, "make the folder writable") from None

    write_pictures(page.pictures, folder)
    mishaps = table_of_incidents(page.mishaps, page.accounts.provenance)
    write_tables({**tables_of(page.accounts), "mishaps": mishaps}, folder)
    return path


def gather(events: Sequence[Mapping[str, Any]]) -> Page:
    """Return what the page of these events shows."""
    accounts = account(events)
    mishaps = incidents_of(events)
    return Page(
        accounts=accounts,
        pictures=pictures_of_run(events, accounts),
        numbers=_numbers(accounts),
        labels=formatting.labels(accounts.provenance),
        facts=facts_of(accounts, deadline_of(events)),
        mishaps=mishaps,
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
        "basis": formatting.basis,
        "mass": formatting.mass,
        "percent": formatting.percent,
        "energy": formatting.energy,
        "instant": formatting.instant,
        "duration": format_duration,
    }
    template = resources.files("lowcarb_scheduler.report").joinpath("report.html").read_text("utf-8")
    return environment.from_string(template).render(page=page, accounts=page.accounts, run=page.accounts.run)


def _numbers(accounts: Accounts) -> list[Number]:
    """Return the four numbers, with bars on one scale."""
    found = (
        ("run-now", accounts.run_now_g, "the same rounds at once, with random clients"),
        ("planned", accounts.planned_g, "on the forecast when each round opened"),
        ("realised", accounts.realised_g, "on actual intensity"),
        ("hindsight", accounts.hindsight_g, "the best plan of somebody who knew"),
    )
    most_g = max((g for _, g, _ in found if g is not None), default=0.0)
    return [
        Number(name, g, max(0.0, g) / most_g if g and most_g > 0 else 0.0, says) for name, g, says in found
    ]
