"""What ``lowcarb report`` tells people: the four numbers, what lies between two of them, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lowcarb_scheduler import accounting
from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.output import Column
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.facts import basis_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from lowcarb_scheduler.cli.times import Times
    from lowcarb_scheduler.report.accounts import Accounts, Share
    from lowcarb_scheduler.report.refresh import Refreshed

MOST_LOCATIONS: Final = 40


def show(accounts: Accounts, page: Path, tables: Path, refreshed: Refreshed | None, times: Times) -> None:
    """Print what a run comes to."""
    screen, run = output.console(), accounts.run
    output.print_title(screen, f"Run {run.started['run_id']}: {run.status}, {len(run.rounds)} rounds")
    if refreshed is not None:
        output.print_line(screen, _refreshed(refreshed))
    labels = wording.labels(*accounts.labels)
    _show_numbers(screen, accounts, labels)
    if accounts.waterfall:
        _show_waterfall(screen, accounts, labels)
    if accounts.by_location:
        _show_locations(screen, accounts.by_location, labels)
    turns = run.turns.values()
    output.print_facts(
        screen,
        [
            ("saving", wording.percent(accounts.saving)),
            ("energy", f"{wording.energy(run.energy_kwh)} ({basis_of(run.energy_by_basis)})"),
            (
                "evaluated",
                f"{wording.energy(run.evaluation_energy_kwh)}, {wording.mass(run.evaluation_g)} CO2eq",
            ),
            ("SCI", f"{wording.mass(accounts.sci.g_per_round)} a round; embodied emissions are not counted"),
            ("finish", times.instant(run.finish)),
            (
                "turns",
                f"{min(turns, default=0)} to {max(turns, default=0)} a client, Jain's index {run.jain:.3f}",
            ),
            ("report", str(page)),
            ("tables", str(tables)),
        ],
    )


def _refreshed(found: Refreshed) -> str:
    """Say what came of asking."""
    if not found.lacking and found.has_news:
        return "Nothing was lacking of the rounds; hindsight knows more hours now."
    if not found.lacking:
        return "There was nothing to fetch: all that happened is known."
    learned = f"Actual intensity of {len(found.learned)} of {len(found.lacking)} rounds that lacked it"
    return f"{learned} is known now." if found.learned else f"{learned} could be had; try again later."


def _show_numbers(screen: Console, accounts: Accounts, labels: str) -> None:
    actual, run_now_g = "on actual intensity", accounts.run_now_g
    lacking = f"not known of {accounts.without_actuals} round(s)"
    lacking = f"actual intensity is {lacking}; --refresh asks for it" if accounts.without_actuals else ""
    no_best = "no plan fits the hours whose actual intensity is known"
    planned_g, of = accounts.planned_g, "when each round opened"
    if accounts.planned_of:
        planned_g, of = accounts.planned_of_g, f"of {accounts.planned_of} alone; no others had a forecast"
    rows = [
        ("run-now", run_now_g, None, "the same work by random clients, back-to-back, " + actual),
        ("planned", planned_g, None, f"on the forecast {of}"),
        ("realised", accounts.realised_g, accounts.saving, lacking or actual),
        (
            "hindsight",
            accounts.hindsight_g,
            accounting.saving(accounts.hindsight_g, run_now_g),
            lacking or (no_best if accounts.hindsight_g is None else "the best plan of somebody who knew"),
        ),
    ]
    output.print_line(screen, f"Emissions of training: {labels}")
    output.print_table(
        screen,
        [Column("number"), Column("CO2eq", right=True), Column("saving", right=True), Column("what it is")],
        [
            (name, wording.mass(grams), "" if saving is None else wording.percent(saving), what)
            for name, grams, saving, what in rows
        ],
    )


def _show_waterfall(screen: Console, accounts: Accounts, labels: str) -> None:
    run_now_g = accounts.run_now_g
    rows = []
    for step in accounts.waterfall:
        part = step.change_g / run_now_g if run_now_g else None
        sign = "+" if step.kind == "change" and step.change_g > 0 else ""
        rows.append(
            (
                step.name,
                sign + wording.mass(step.change_g),
                "" if part is None else sign + wording.percent(part),
            )
        )
    output.print_line(screen, f"From run-now to realised: {labels}")
    columns = [Column("step"), Column("CO2eq", right=True), Column("of run-now", right=True)]
    output.print_table(screen, columns, rows)


def _show_locations(screen: Console, shares: Sequence[Share], labels: str) -> None:
    """Print the locations with most energy first."""
    order = sorted(shares, key=lambda share: (-share.energy_kwh, share.name))
    hidden = len(order) - MOST_LOCATIONS
    output.print_line(
        screen,
        f"By location: {labels}" + (f"; {hidden} more are in the tables" if hidden > 0 else ""),
    )
    output.print_table(
        screen,
        [
            Column("location"),
            Column("turns", right=True),
            Column("energy", right=True),
            Column("rests on"),
            Column("CO2eq", right=True),
            Column("g/kWh", right=True),
        ],
        [
            (
                share.name,
                share.turns,
                wording.energy(share.energy_kwh),
                basis_of(share.basis),
                wording.mass(share.emissions_g),
                wording.UNKNOWN
                if share.mean_g_per_kwh is None
                else wording.significant(share.mean_g_per_kwh),
            )
            for share in order[:MOST_LOCATIONS]
        ],
    )
