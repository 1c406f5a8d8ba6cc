"""Page of a run: one HTML file that needs nothing else, made from the run's ledger alone.

Names and messages of nodes and sources are text here, never markup: the template escapes them, unprintable
characters are written out, long texts are cut, and the page allows neither scripts nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.attribution import Accounts, Sci, account
from lowcarb_scheduler.accounting.replay import CorrectionSummary, Record
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import MissingExtraError, one_line
from lowcarb_scheduler.ledger import FILE_NAME, as_written, read_ledger
from lowcarb_scheduler.report import charts, formatting, pareto, rounds, tables
from lowcarb_scheduler.report.figure import Picture, save
from lowcarb_scheduler.scheduling.messages import saving_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.events import OutputAveraged
    from lowcarb_scheduler.report.tables import Incident

REPORT_NAME: Final = "report.html"
PALETTE: Final = "palette.css"  # also of the live page
FOLDER_NAME: Final = "report"  # of charts and tables
MOST_FAILURES: Final = 20
_KINDS: Final = ("png", "svg")


@dataclass(frozen=True, slots=True)
class Page:
    """Content of the page.

    Parameters
    ----------
    accounts : Accounts
        Accounts of the run.
    pictures : sequence of Picture
        Charts, in order.
    incidents : sequence of Incident
        Problems during the run, in order.
    finish_by : datetime or None
        Deadline.
    """

    accounts: Accounts
    pictures: Sequence[Picture]
    incidents: Sequence[Incident]
    finish_by: datetime | None

    @property
    def shown_incidents(self) -> list[Incident]:
        """Incidents that the page lists: all but the many failures of nodes after the first ones."""
        failures = accumulate(incident.of_node for incident in self.incidents)
        return [
            incident
            for incident, failed in zip(self.incidents, failures, strict=True)
            if not incident.of_node or failed <= MOST_FAILURES
        ]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` beside the ledger of a run, and charts and tables into the folder ``report/``.

    Parameters
    ----------
    run_dir : Path
        Folder of the run, which may be going on.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If there is no ledger, this version cannot read it, or the page cannot be written.
    MissingExtraError
        If matplotlib or jinja2 is not installed.
    """
    return write_page(read_page(run_dir), run_dir)


def read_page(run_dir: Path) -> Page:
    """Return the content of a run's page, from its ledger; raises like :func:`write_report`."""
    events = read_ledger(run_dir)
    with as_written(str(run_dir / FILE_NAME)):
        return gather(Record.of(events))


def gather(record: Record) -> Page:
    """Return the content of a page from the replayed ledger of a run."""
    accounts = account(record)
    return Page(accounts, pictures_of_run(record, accounts), tables.incidents_of(record), record.finish_by)


def pictures_of_run(record: Record, accounts: Accounts) -> tuple[Picture, ...]:
    """Return the charts of a run, in the order of the page; those without data are left out."""
    labels = formatting.labels(accounts.run.provenance)
    choice = charts.choice_of_run(record)
    found = (
        rounds.picture_of_run(record),
        charts.picture_of_waterfall(accounts.waterfall, labels),
        pareto.picture_of_outcome(accounts.front, record.finish_by, labels) if accounts.front else None,
        charts.picture_of_choice(choice, labels) if choice else None,
        *(
            charts.picture_of_progress(each, k, labels)
            for k, each in enumerate(charts.progress_of(accounts.run), start=1)
        ),
        charts.picture_of_turns(accounts.run.turns, labels),
    )
    return tuple(picture for picture in found if picture)


def _numbers(accounts: Accounts) -> list[tuple[str, float | None, float, str]]:
    """Return the four numbers: name, emissions [g], fraction of the largest, and definition."""
    found = (
        ("run-now", accounts.run.run_now_g, "baseline: same rounds, start immediately, random clients"),
        ("planned", accounts.run.planned_g, "on the forecast when each round opened"),
        ("realised", accounts.run.realised_g, "on actual intensity"),
        ("hindsight", accounts.hindsight_g, "best plan with a perfect forecast"),
    )
    most_g = max((g for _, g, _ in found if g is not None), default=0.0)
    return [(name, g, max(0.0, g) / most_g if g and most_g > 0 else 0.0, text) for name, g, text in found]


def facts_of(accounts: Accounts, finish_by: datetime | None) -> list[tuple[str, str]]:
    """Return origin and definition of a run's numbers, as name and text."""
    run, started = accounts.run, accounts.run.started
    basis = formatting.basis(run.energy_by_basis)
    return [
        ("Intensity", formatting.labels(accounts.run.provenance)),
        ("Energy", f"{formatting.energy(run.energy_kwh)} of training; basis: {basis}"),
        ("Emissions", "energy of training times intensity, in CO2 equivalents; nothing else is included"),
        ("Run-now", "baseline: as many rounds, start immediately and back-to-back, random clients"),
        ("Hindsight", "best plan with a perfect forecast"),
        ("SCI", _sci(accounts.sci)),
        ("Strategy", str(started.strategy)),
        ("Participation", _participation(run)),
        ("Patience", f"{started.patience:g} (0: start immediately; 1: lowest emissions by the deadline)"),
        ("Deadline", f"{formatting.instant(finish_by)} UTC" if finish_by else "none"),
        ("Finish", _finish(run, finish_by)),
        *([("Resumed", f"{run.resumed} time(s); nothing is counted twice")] if run.resumed else []),
        *([("Result", _result(run.output_average))] if run.output_average else []),
        ("Clock", "virtual: waiting times were skipped" if started.clock == "virtual" else "system"),
        ("Software", f"lowcarb-scheduler {started.version}, flwr {started.flwr_version}"),
    ]


def facts_of_correction(correction: CorrectionSummary) -> list[tuple[str, str]]:
    """Return the participation correction of a run, as name and text."""
    mode = "off" if correction.mode == "off" else f"on, with a memory of each {correction.mode}"
    facts = [("State", f"{mode}: {correction.reason}" if correction.reason else mode)]
    if correction.mean_ratio is not None and correction.largest_ratio is not None:
        mean, largest = f"{correction.mean_ratio:.2f}", f"{correction.largest_ratio:.2f}"
        facts += [
            ("Corrected", f"{correction.rounds} round(s)"),
            ("Size", f"{mean} of a round's own step on average, {largest} at most"),
            ("Memory", f"{correction.places} {correction.mode}(s), up to {correction.oldest} round(s) old"),
            ("Trust bound", f"shortened the correction in {correction.cut} round(s)"),
        ]
    return facts + [
        ("Without correction", f"{n} round(s): {why}") for why, n in correction.uncorrected.items()
    ]


def _participation(run: Record) -> str:
    """Write the rule of participation, with the two parts of the saving where turns differ by location."""
    setting, begun = str(run.started.participation), run.initial_plan
    if begun is None:
        return setting
    planned, equal = begun.planned, begun.planned.saving_with_equal_turns
    if planned.saving is None or equal is None:
        return setting
    turns = f"{planned.min_turns} to {planned.max_turns} turns a client"
    return f"{setting}: {turns}; planned saving {saving_parts(planned.saving, equal)}"


def _sci(sci: Sci) -> str:
    """Write the terms of the Software Carbon Intensity (ISO/IEC 21031)."""
    if sci.intensity_g_per_kwh is None:
        terms = f"E = {formatting.energy(sci.energy_kwh)}; I is not known, so there is no value"
    else:
        rounds = formatting.counted(sci.rounds, "round")
        terms = (
            f"E × I / R = {formatting.energy(sci.energy_kwh)} × "
            f"{formatting.significant(sci.intensity_g_per_kwh)} g/kWh / {rounds} = "
            f"{formatting.mass(sci.g_per_round)} per round"
        )
    return f"{terms}; M (manufacturing of hardware) is not included"


def _result(averaged: OutputAveraged) -> str:
    """Write the result of a run that is a mean of models, with its metrics."""
    by_place = {"on clients": averaged.client_metrics, "on the server": averaged.metrics}
    found = [
        f"{place} {', '.join(f'{name} {value:g}' for name, value in metrics.items())}"
        for place, metrics in by_place.items()
        if metrics
    ]
    return "; ".join([f"mean of the last {averaged.models} models", *(found or ["not evaluated"])])


def _finish(run: Record, finish_by: datetime | None) -> str:
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


def write_page(page: Page, run_dir: Path) -> Path:
    """Write a page, its charts and its tables into the run's folder; raises like :func:`write_report`."""
    path, folder = run_dir / REPORT_NAME, run_dir / FOLDER_NAME
    with tables.replacing(path) as unfinished:
        folder.mkdir(exist_ok=True)
        unfinished.write_text(render(page), encoding="utf-8")
    write_pictures(page.pictures, folder)
    incidents = tables.table_of_incidents(page.incidents, page.accounts.run.provenance)
    tables.write_tables({**tables.tables_of(page.accounts), "mishaps": incidents}, folder)
    return path


def render(page: Page) -> str:
    """Return the page as HTML."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "report") from None

    # Escaping makes markup harmless; control characters and the length are limited here.
    def finalize(value: object) -> object:
        return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        autoescape=True, finalize=finalize, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("basis", "mass", "percent", "energy", "instant")
    environment.filters |= {name: getattr(formatting, name) for name in names} | {"duration": format_duration}
    folder = resources.files("lowcarb_scheduler.report")
    template, palette = (folder.joinpath(name).read_text("utf-8") for name in ("report.html", PALETTE))
    accounts = page.accounts
    return environment.from_string(template).render(
        page=page, accounts=accounts, run=accounts.run, numbers=_numbers(accounts),
        facts=facts_of(accounts, page.finish_by), labels=formatting.labels(accounts.run.provenance),
        most_clients=charts.MOST_CLIENTS,
        correction=facts_of_correction(accounts.run.correction) if accounts.run.correction else [],
        palette=Markup(palette),
    )  # fmt: skip


def write_pictures(pictures: Iterable[Picture], folder: Path) -> None:
    """Write each chart as PNG and as SVG into an existing folder.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    for picture in pictures:
        figure = picture.figure()
        for kind in _KINDS:
            save(figure, folder / f"{picture.name}.{kind}")
            figure.set_layout_engine("none")  # the layout is found once: it is the slowest step of a chart
