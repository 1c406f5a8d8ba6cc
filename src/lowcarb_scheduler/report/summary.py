"""First screen of a report: a heading, one sentence, four figures, and what the emissions compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import known_sums
from lowcarb_scheduler.clock import to_utc
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.attribution import Accounts
    from lowcarb_scheduler.accounting.replay import Record
    from lowcarb_scheduler.report.about import About

CAR_G_PER_KM: Final = 250.0
CAR_SOURCE: Final = (
    "an average passenger car emits about 400 g of CO2 a mile, which is 250 g a km: US EPA, Tailpipe "
    "Greenhouse Gas Emissions From a Typical Passenger Vehicle, EPA-420-F-23-014 (2023)"
)
_LONGEST_HEADING: Final = 120


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the four figures: its name, its value as text, and a line below."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Summary:
    """First screen of a report.

    Parameters
    ----------
    title : str
        Heading: the given title, or app and dates.
    sentence : str
        The outcome.
    figures : tuple of Figure
        Saving, finish, accuracy or participation, and what the initial plan expected.
    equivalent : str or None
        The avoided emissions in kilometres by car; None where the saving is not known.
    is_loss : bool
        Whether the run emitted more than run-now.
    """

    title: str
    sentence: str
    figures: tuple[Figure, ...]
    equivalent: str | None
    is_loss: bool


def summary_of(accounts: Accounts, about: About) -> Summary:
    """Return the first screen of a report."""
    run = accounts.run
    saving, known = run.known_saving
    realised_g, run_now_g, _ = known_sums((r.realised_g, r.run_now_g) for r in run.rounds)
    saved_g = run_now_g - realised_g
    name, value, note = _quality(run, about)
    parts = [_saved(run, saving, known, saved_g), _ended(run)]
    if value:
        parts.append(f"{name} {value}{f' ({note})' if about.compared_with and note else ''}")
    sentence = ", ".join(part for part in parts if part)
    figures = (
        _saved_figure(run, saving, known, saved_g, run_now_g),
        _finish_figure(run),
        Figure(name, value, note) if value else _turns_figure(run),
        _expected_figure(run),
    )
    return Summary(
        title=about.title or default_title(run),
        sentence=f"{sentence[:1].upper()}{sentence[1:]}.",
        figures=figures,
        equivalent=None if saving is None else equivalent(saved_g),
        is_loss=saving is not None and saving < 0,
    )


# -- Heading -----------------------------------------------------------------------------------------------


def default_title(run: Record) -> str:
    """Write app and dates, for example ``digits, 2 to 4 March 2026``."""
    # Flower calls an app publisher/name.
    subject = one_line((run.started.app or "").rpartition("/")[2] or run.started.strategy, _LONGEST_HEADING)
    return f"{subject}, {dates(run.started.began_at, run.finish or run.last_at)}"


def dates(start: datetime, end: datetime) -> str:
    """Write a period in days, for example ``2 March 2026`` or ``30 March to 2 April 2026`` (UTC)."""
    first, last = to_utc(start, "start").date(), to_utc(end, "end").date()
    whole = f"{last.day} {last:%B %Y}"
    if first >= last:
        return whole
    if first.year != last.year:
        return f"{first.day} {first:%B %Y} to {whole}"
    return f"{first.day}{'' if first.month == last.month else f' {first:%B}'} to {whole}"


# -- Sentence and figures ----------------------------------------------------------------------------------


def _of_rounds(run: Record, known: int) -> str:
    """Write which rounds a saving is of; nothing if it is of all rounds of the run."""
    if known == run.started.rounds:
        return ""
    return f" in {known} of {formatting.counted(run.started.rounds, 'round')}"


def _saved(run: Record, saving: float | None, known: int, saved_g: float) -> str:
    if not run.rounds:
        return f"no round of {run.started.rounds} has closed yet"
    if saving is None:
        return "the saving is not known"
    part = formatting.percent_short(abs(saving))
    if not float(part.split()[0]):
        return f"as much CO2eq as without waiting{_of_rounds(run, known)}"
    more = "less" if saving > 0 else "more"
    return f"{part} {more} CO2eq ({formatting.mass_short(abs(saved_g))}){_of_rounds(run, known)}"


def _beside(early: timedelta) -> str:
    """Write an end beside the deadline."""
    if not round(abs(early).total_seconds() / 60):
        return "at the deadline"
    side = "before" if early.total_seconds() > 0 else "after"
    return f"{formatting.duration_short(abs(early))} {side} the deadline"


def _ended(run: Record) -> str:
    if run.status == "completed":
        if run.finish is None or run.finish_by is None:
            if run.finish is None:
                return ""
            return f"finished after {formatting.duration_short(run.finish - run.started.began_at)}"
        return f"finished {_beside(run.finish_by - run.finish)}"
    if run.finished is not None:
        return f"{run.status} after {formatting.counted(len(run.rounds), 'round')}"
    if run.plan is None or run.finish_by is None:
        return ""
    return f"planned to finish {_beside(run.finish_by - run.plan.finish)}"


def _saved_figure(run: Record, saving: float | None, known: int, saved_g: float, run_now_g: float) -> Figure:
    if saving is None:
        why = run.unknown_because or "no round has closed yet"
        return Figure("CO2eq saved", formatting.UNKNOWN, why)
    name = "CO2eq saved" if saved_g >= 0 else "CO2eq added"
    of = f"{formatting.mass(run_now_g)} for run-now{_of_rounds(run, known)}"
    note = f"{formatting.percent(abs(saving))} of {of}"
    return Figure(name, formatting.mass_short(abs(saved_g)), note)


def _finish_figure(run: Record) -> Figure:
    end = run.finish if run.status == "completed" else run.plan.finish if run.plan else None
    if run.finished is not None and run.status != "completed":
        done = f"{len(run.rounds)} of {formatting.counted(run.started.rounds, 'round')} closed"
        return Figure("end", run.status, done)
    name = "finished" if run.status == "completed" else "planned finish"
    if end is None:
        due = f"deadline {formatting.instant(run.finish_by)} UTC" if run.finish_by else "no deadline"
        return Figure(name, formatting.UNKNOWN, due)
    if run.finish_by is None:
        return Figure(name, formatting.instant(end), "UTC; no deadline")
    return Figure(name, _beside(run.finish_by - end), f"{formatting.instant(end)} UTC")


def _turns_figure(run: Record) -> Figure:
    turns = run.turns.values()
    if not turns:
        return Figure("participation", formatting.UNKNOWN, "no client is connected yet")
    least, most = min(turns, default=0), max(turns, default=0)
    value = formatting.counted(most, "turn") if least == most else f"{least} to {most} turns"
    return Figure("participation", value, f"per client; {formatting.counted(len(turns), 'client')}")


def _expected_figure(run: Record) -> Figure:
    plan = run.first_plan
    if plan is None or plan.saving is None:
        why = "no plan yet" if plan is None else "the initial plan had no forecast"
        return Figure("expected saving", formatting.UNKNOWN, why)
    note = f"by the initial plan, which emits {formatting.mass(plan.emissions_g)}"
    return Figure("expected saving", formatting.percent(plan.saving), note)


def _quality(run: Record, about: About) -> tuple[str, str, str]:
    """Return name and value of the run's metric of quality, and that of the comparison; empty without one."""
    metrics: dict[str, float] = {}
    for worked in run.rounds:
        metrics |= {name: value for name, value in worked.metrics.items() if value is not None}
    if run.output_average is not None:  # the result of the run is not the last model
        metrics |= run.output_average.metrics
    name = next((each for each in sorted(metrics) if formatting.is_accuracy(each)), None)
    if name is None:
        return "", "", ""
    value = formatting.metric(name, metrics[name])
    other = about.compared_metrics.get(name)
    if other is None:
        done = f"after round {run.rounds[-1].number}" if run.rounds else ""
        return one_line(name, 40), value, "at the end of training" if run.status == "completed" else done
    return (
        one_line(name, 40),
        value,
        f"{one_line(about.compared_with or 'compared with')}: {formatting.metric(name, other)}",
    )


def equivalent(saved_g: float) -> str:
    """Write avoided emissions in kilometres by car."""
    km = formatting.significant(abs(saved_g) / CAR_G_PER_KM, 2)
    verb = "saves" if saved_g >= 0 else "adds"
    return f"That {verb} as much CO2eq as {km} km by car ({CAR_G_PER_KM:g} g/km: US EPA, EPA-420-F-23-014)."
