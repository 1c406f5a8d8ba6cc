"""What the numbers of a run are, in words: where they come from, and what was measured or assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lowcarb_scheduler.ledger import RunSummary
    from lowcarb_scheduler.report.accounts import Accounts, Sci

MOST_CLIENTS: Final = 30  # bars or rows, one a client; a larger fleet is shown by how many had so many turns


def facts_of(accounts: Accounts, finish_by: datetime | None) -> list[tuple[str, str]]:
    """Return what a reader has to know of a run's numbers, as name and text."""
    run, started = accounts.run, accounts.run.started
    return [
        ("Intensity", wording.labels(*accounts.labels)),
        ("Energy", f"{wording.energy(run.energy_kwh)} of training; {_basis(run.energy_by_basis)}"),
        ("Emissions", "energy of training times intensity, in CO2 equivalents; nothing else is counted"),
        ("Run-now", "as many rounds of random clients, back-to-back from the start of the run"),
        ("Hindsight", "the best plan of somebody who knew the actual intensities before"),
        ("SCI", _sci(accounts.sci)),
        ("Strategy", str(started["strategy"])),
        ("Participation", str(started["participation"])),
        ("Patience", f"{started['patience']:g} (0: back-to-back now; 1: cleanest by the deadline)"),
        ("Deadline", f"{wording.instant(finish_by)} UTC" if finish_by else "none"),
        ("Finish", _finish(run, finish_by)),
        *([("Resumed", f"{run.resumed} time(s); everything is counted once")] if run.resumed else []),
        ("Clock", "virtual: holds were jumped through" if started["clock"] == "virtual" else "the system's"),
        ("Software", f"lowcarb-scheduler {started['version']}, flwr {started['flwr_version']}"),
    ]


def basis_of(kwh: Mapping[str, float]) -> str:
    """Say what energy rests on, for example ``measured`` or ``60 % measured, 40 % assumed``."""
    whole = sum(kwh.values())
    if len(kwh) <= 1 or whole <= 0:
        return ", ".join(sorted(kwh)) or "none"
    return ", ".join(f"{wording.percent(part / whole, 0)} {name}" for name, part in sorted(kwh.items()))


def _basis(kwh: Mapping[str, float]) -> str:
    if not kwh:
        return "no turn is complete"
    if len(kwh) == 1:
        return f"{next(iter(kwh))} for every turn"
    return ", ".join(f"{wording.energy(part)} {name}" for name, part in sorted(kwh.items()))


def _sci(sci: Sci) -> str:
    """Write the terms of the Software Carbon Intensity (ISO/IEC 21031)."""
    if sci.intensity_g_per_kwh is None:
        terms = f"E = {wording.energy(sci.energy_kwh)}; I is not known, so there is no value"
    else:
        terms = (
            f"E × I / R = {wording.energy(sci.energy_kwh)} × {wording.significant(sci.intensity_g_per_kwh)}"
            f" g/kWh / {sci.rounds} rounds = {wording.mass(sci.g_per_round)} a round"
        )
    return f"{terms}; M, the making of hardware, is not counted"


def _finish(run: RunSummary, finish_by: datetime | None) -> str:
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
