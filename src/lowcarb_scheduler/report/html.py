"""Page of a run: one HTML file that needs nothing else, made from the run's ledger alone.

Names and messages of nodes and sources are text here, never markup: the template escapes them, unprintable
characters are written out, long texts are cut, and the page allows no requests, and no script but the one
that sorts its tables, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from lowcarb_scheduler.accounting.attribution import Accounts, Sci, account
from lowcarb_scheduler.accounting.replay import CorrectionSummary, Record
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import MissingExtraError, one_line
from lowcarb_scheduler.forecasts.registry import attributions
from lowcarb_scheduler.ledger import FILE_NAME, as_written, read_ledger
from lowcarb_scheduler.report import charts, formatting, pareto, rounds, tables
from lowcarb_scheduler.report.about import NOTHING, About, read_about
from lowcarb_scheduler.report.figure import Picture, save
from lowcarb_scheduler.report.summary import CAR_SOURCE, Summary, summary_of
from lowcarb_scheduler.report.zones import with_name
from lowcarb_scheduler.scheduling.messages import saving_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from jinja2 import Environment

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
    about : About
        Title, owner, purpose and comparison.
    """

    accounts: Accounts
    pictures: Sequence[Picture]
    incidents: Sequence[Incident]
    finish_by: datetime | None
    about: About = NOTHING

    @property
    def summary(self) -> Summary:
        """The first screen."""
        return summary_of(self.accounts, self.about)

    @property
    def shown_incidents(self) -> list[Incident]:
        """Incidents that the page lists: all but the many failures of nodes after the first ones."""
        failures = accumulate(incident.of_node for incident in self.incidents)
        return [
            incident
            for incident, failed in zip(self.incidents, failures, strict=True)
            if not incident.of_node or failed <= MOST_FAILURES
        ]


def write_report(run_dir: Path, about: About | None = None) -> Path:
    """Write ``report.html`` beside the ledger of a run, and charts and tables into the folder ``report/``.

    Parameters
    ----------
    run_dir : Path
        Folder of the run, which may be going on.
    about : About, optional
        Title, owner, purpose and comparison; by default those that ``about.json`` holds.

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
    return write_page(read_page(run_dir, about), run_dir)


def read_page(run_dir: Path, about: About | None = None) -> Page:
    """Return the content of a run's page, from its ledger; raises like :func:`write_report`."""
    events = read_ledger(run_dir)
    about = read_about(run_dir) if about is None else about
    with as_written(str(run_dir / FILE_NAME)):
        return gather(Record.of(events), about)


def gather(record: Record, about: About = NOTHING) -> Page:
    """Return the content of a page from the replayed ledger of a run."""
    accounts = account(record, about.embodied_g)
    incidents = tables.incidents_of(record)
    return Page(accounts, pictures_of_run(record, accounts), incidents, record.finish_by, about)


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
        None if equal_turns(accounts.run) else charts.picture_of_turns(accounts.run.turns, labels),
    )
    return tuple(picture for picture in found if picture)


def equal_turns(run: Record) -> str | None:
    """Write how often each client trained where all did equally often; a chart of equal bars says no more."""
    turns = set(run.turns.values())
    if len(turns) != 1 or len(run.turns) == 1:
        return None
    each = formatting.counted(turns.pop(), "turn")
    return f"Each of the {formatting.counted(len(run.turns), 'client')} completed {each}."


class Bar(NamedTuple):
    """One of the four numbers: its name, emissions [g], fraction of the largest, and definition."""

    name: str
    emissions_g: float | None
    part: float
    definition: str


def numbers_of(accounts: Accounts) -> tuple[list[Bar], str | None]:
    """Return the four numbers, and a sentence in place of the bars of those that are equal as shown."""
    found = [
        ("run-now", accounts.run.run_now_g, "baseline: same rounds, start immediately, random clients"),
        ("planned", accounts.run.planned_g, "on the forecast when each round opened"),
        ("realised", accounts.run.realised_g, "on actual intensity"),
        ("hindsight", accounts.hindsight_g, "best plan with a perfect forecast"),
    ]
    shown = formatting.mass(accounts.run.realised_g)
    equal = [name for name, g, _ in found if g is not None and formatting.mass(g) == shown]
    sentence = None
    if len(equal) > 1:
        *others, last = (name for name in equal if name != "realised")
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        sentence = f"{names[:1].upper()}{names[1:]} equal to realised: {shown}."
        found = [each for each in found if each[0] not in equal or each[0] in ("realised", "run-now")]
    most_g = max((g for _, g, _ in found if g is not None), default=0.0)
    bars = [Bar(name, g, max(0.0, g) / most_g if g and most_g > 0 else 0.0, text) for name, g, text in found]
    return bars, sentence


def facts_of(accounts: Accounts, finish_by: datetime | None) -> list[tuple[str, str]]:
    """Return origin and definition of a run's numbers, as name and text."""
    run, started = accounts.run, accounts.run.started
    basis = formatting.basis(run.energy_by_basis)
    return [
        ("Intensity", formatting.labels(run.provenance)),
        *[("Data", attribution) for attribution in attributions(run.provenance.source)],
        ("Energy", f"{formatting.energy(run.energy_kwh)} of training; basis: {basis}"),
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
        ("Run id", str(started.run_id)),
    ]


def facts_of_correction(correction: CorrectionSummary) -> list[tuple[str, str]]:
    """Return the participation correction of a run, as name and text."""
    mode = "off" if correction.mode == "off" else f"on, with one memory per {correction.mode}"
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
    turns = f"{planned.min_turns} to {planned.max_turns} turns per client"
    return f"{setting}: {turns}; planned saving {saving_parts(planned.saving, equal)}"


def _sci(sci: Sci) -> str:
    """Write the terms of the Software Carbon Intensity (ISO/IEC 21031)."""
    embodied = f" + {formatting.mass(sci.embodied_g)}" if sci.embodied_g is not None else ""
    if sci.intensity_g_per_kwh is None:
        terms = f"E = {formatting.energy(sci.energy_kwh)}; I is not known, so there is no value"
    else:
        rounds = formatting.counted(sci.rounds, "round")
        used = (
            f"{formatting.energy(sci.energy_kwh)} × {formatting.significant(sci.intensity_g_per_kwh)} g/kWh"
        )
        formula, used = ("(E × I + M) / R", f"({used}{embodied})") if embodied else ("E × I / R", used)
        terms = f"{formula} = {used} / {rounds} = {formatting.mass(sci.g_per_round)} per round"
    if embodied:
        return f"{terms}; M (manufacturing of hardware) as stated for this run"
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


def environment_of() -> Environment:
    """Return the environment of templates, which escapes and shortens every value.

    Raises
    ------
    MissingExtraError
        If jinja2 is not installed.
    """
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
    names = ("basis", "counts", "mass", "percent", "energy", "instant")
    environment.filters |= {name: getattr(formatting, name) for name in names}
    environment.filters |= {"duration": format_duration, "with_name": with_name, "raw": _raw, "wait": _wait}
    return environment


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = environment_of()
    from markupsafe import Markup

    files = resources.files("lowcarb_scheduler.report")
    template, script, palette = (
        files.joinpath(name).read_text("utf-8") for name in ("report.html", "sort.js", PALETTE)
    )
    accounts = page.accounts
    numbers, equal_numbers = numbers_of(accounts)
    correction = facts_of_correction(accounts.run.correction) if accounts.run.correction else []
    return environment.from_string(template).render(
        page=page, about=page.about, accounts=accounts, run=accounts.run, summary=page.summary,
        numbers=numbers, equal_numbers=equal_numbers, equal_turns=equal_turns(accounts.run),
        facts=facts_of(accounts, page.finish_by), car_source=CAR_SOURCE, correction=correction,
        labels=formatting.labels(accounts.run.provenance), most_clients=charts.MOST_CLIENTS,
        contents=_contents(page), script=Markup(script), hash=hash_of(script), palette=Markup(palette),
    )  # fmt: skip


def hash_of(script: str) -> str:
    """Return a script as a content policy names it: a page allows this script and no other one."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _raw(value: object) -> str:
    """Write a number to sort by; empty if it is unknown."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return "" if value is None else repr(value)


def _wait(held: timedelta) -> str:
    """Write how long a round was held."""
    return format_duration(held) if held >= timedelta(seconds=1) else "no wait"


_SHORT: Final = {
    "rounds": "Rounds by time and location", "waterfall": "From run-now to realised",
    "front": "Time-carbon trade-off", "chosen": "Intensity while training", "turns": "Participation",
}  # fmt: skip


def _contents(page: Page) -> list[tuple[str, str]]:
    """Return the sections of a page, as anchor and title."""
    run = page.accounts.run
    pictures = [(each.name, _SHORT.get(each.name, each.title.partition(":")[0])) for each in page.pictures]
    return [
        *pictures,
        *([("turns", "Participation")] if equal_turns(run) else []),
        *([("to-come", "Rounds to come")] if run.upcoming else []),
        ("problems", "Problems during the run"),
        *(
            [("shares", "Emissions by phase, location and client"), ("all-rounds", "Rounds")]
            if run.rounds
            else []
        ),
        *([("correction", "Participation correction")] if run.correction else []),
        ("numbers", "About the numbers"),
        ("method", "Method"),
        ("limits", "Limitations"),
    ]


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
