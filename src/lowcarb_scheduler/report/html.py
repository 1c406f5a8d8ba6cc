"""The page of a run: one file that needs nothing else, made from its ledger alone.

What nodes and sources said is text here, never markup: the template escapes it, unprintable characters are
written out, nothing is longer than a line, and the page allows neither scripts nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import InputError, MissingExtraError, one_line
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.accounts import account
from lowcarb_scheduler.report.facts import MOST_CLIENTS, basis_of, facts_of
from lowcarb_scheduler.report.gantt import deadline_of
from lowcarb_scheduler.report.mishaps import mishaps_of, table_of_mishaps
from lowcarb_scheduler.report.record import as_written
from lowcarb_scheduler.report.tables import write_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lowcarb_scheduler.report.accounts import Accounts
    from lowcarb_scheduler.report.mishaps import Mishap
    from lowcarb_scheduler.report.picture import Picture

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
    mishaps : sequence of Mishap
        What did not go as it should, in order.
    most_clients : int
        How many the table of clients has at most; of a larger fleet the CSV has them.
    """

    accounts: Accounts
    pictures: Sequence[Picture]
    numbers: Sequence[Number]
    labels: str
    facts: Sequence[tuple[str, str]]
    mishaps: Sequence[Mishap]
    most_clients: int = MOST_CLIENTS

    @property
    def shown_mishaps(self) -> list[Mishap]:
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
    """Write a page, its pictures and its tables into the folder of its run; raises as :func:`write_report`."""
    path, folder = run_dir / REPORT_NAME, run_dir / FOLDER_NAME
    unfinished = path.with_suffix(".html.new")
    try:
        folder.mkdir(exist_ok=True)
        unfinished.write_text(render(page), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise InputError("run-dir", problem, "make the folder writable") from None
    from lowcarb_scheduler.report.pictures import write_pictures

    write_pictures(page.pictures, folder)
    mishaps = table_of_mishaps(page.mishaps, page.accounts.labels)
    write_tables({**page.accounts.tables(), "mishaps": mishaps}, folder)
    return path


def gather(events: Sequence[Mapping[str, Any]]) -> Page:
    """Return what the page of these events shows."""
    from lowcarb_scheduler.report.pictures import pictures_of_run

    accounts = account(events)
    mishaps = mishaps_of(events)
    return Page(
        accounts=accounts,
        pictures=pictures_of_run(events, accounts),
        numbers=_numbers(accounts),
        labels=wording.labels(*accounts.labels),
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
        "basis": basis_of,
        "mass": wording.mass,
        "percent": wording.percent,
        "energy": wording.energy,
        "instant": wording.instant,
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
