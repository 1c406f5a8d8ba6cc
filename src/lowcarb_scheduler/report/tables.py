"""Tables of a run, written as CSV: units in column names, source and signal of the intensity in every row."""

from __future__ import annotations

from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting import emissions
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.events import NodeFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

    from lowcarb_scheduler.accounting.attribution import Accounts, Share
    from lowcarb_scheduler.accounting.replay import Record
    from lowcarb_scheduler.intensity import Provenance

BASES: Final = ("measured", "estimated", "assumed")
_FORMULA: Final = ("=", "+", "-", "@")  # a spreadsheet would execute a node's name that begins like this
_SHARE: Final = ("turns", "energy_kwh", *(f"{basis}_kwh" for basis in BASES), "emissions_g", "mean_g_per_kwh")
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "numbers": ("number", "rounds", "intensity", "emissions_g", "saving"),
    "waterfall": ("step", "kind", "change_g", "level_g"),
    "rounds": (
        "round", "opens_at", "closes_at", "held_s", "nodes_done", "nodes_failed", "energy_kwh", "planned_g",
        "realised_g", "run_now_g", "choice_of_clients_g", "choice_of_time_g", "forecast_error_g",
        "overruns_g", "evaluation_energy_kwh", "evaluation_g",
    ),
    "phases": ("phase", *_SHARE),
    "locations": ("location", *_SHARE),
    "clients": ("client", *_SHARE),
    "sci": ("term", "value", "unit", "is"),
    "front": ("point", "patience", "finish", "emissions_g", "lower_bound_g"),
    "mishaps": ("at", "what", "why", "consequence"),
}  # fmt: skip
Row = tuple[object, ...]


def tables_of(accounts: Accounts) -> dict[str, pd.DataFrame]:
    """Return the tables of a run's accounts by name; an unknown number is missing."""
    rows = {
        "numbers": _numbers(accounts),
        "waterfall": _waterfall(accounts),
        "rounds": _rounds(accounts),
        "phases": _shares(accounts.by_phase),
        "locations": _shares(accounts.by_location),
        "clients": _shares(accounts.by_client),
        "sci": _sci(accounts),
        "front": _front(accounts),
    }
    return {name: _frame(name, listed, accounts.run.provenance) for name, listed in rows.items()}


def _frame(name: str, rows: Sequence[Row], provenance: Provenance) -> pd.DataFrame:
    import pandas as pd

    # Labels stand in every row, so that a table that is copied elsewhere keeps them.
    labels: dict[str, Any] = provenance.to_dict()
    return pd.DataFrame(rows, columns=_COLUMNS[name]).assign(**labels)


def _numbers(accounts: Accounts) -> list[Row]:
    run_now_g, realised_g, best_g = accounts.run.run_now_g, accounts.run.realised_g, accounts.hindsight_g
    # Planned emissions are for other work than run-now where a turn failed or took longer: no saving.
    rows: list[Row] = [
        ("run-now", "all", "actual", run_now_g, None),
        ("planned", "all", "forecast", accounts.run.planned_g, None),
        ("realised", "all", "actual", realised_g, emissions.saving(realised_g, run_now_g)),
        ("hindsight", "all", "actual", best_g, emissions.saving(best_g, run_now_g)),
    ]
    if accounts.planned_of:
        rows.append(("planned", accounts.planned_of, "forecast", accounts.planned_of_g, None))
    return rows


def _waterfall(accounts: Accounts) -> list[Row]:
    rows: list[Row] = []
    level_g = 0.0  # running total, so that a reader of the file need not add up the changes
    for step in accounts.waterfall:
        is_level = step.kind == "level"
        level_g = step.change_g if is_level else level_g + step.change_g
        rows.append((step.name, step.kind, None if is_level else step.change_g, level_g))
    return rows


def _rounds(accounts: Accounts) -> list[Row]:
    rows: list[Row] = []
    for r, levels in zip(accounts.run.rounds, accounts.levels, strict=True):
        changes = emissions.waterfall(*([level] for level in levels))
        known = changes if np.isfinite(changes).all() else [None] * len(changes)
        rows.append((
            r.number, format_time(r.opens_at), format_time(r.closes_at), r.held.total_seconds(), r.nodes,
            r.failed, r.energy_kwh, r.planned_g, r.realised_g, r.run_now_g, *known, r.evaluation_energy_kwh,
            r.evaluation_g,
        ))  # fmt: skip
    return rows


def _shares(shares: Iterable[Share]) -> list[Row]:
    return [
        (share.name, share.turns, share.energy_kwh, *(share.basis.get(basis, 0.0) for basis in BASES),
         share.emissions_g, share.mean_g_per_kwh)
        for share in shares
    ]  # fmt: skip


def _sci(accounts: Accounts) -> list[Row]:
    sci = accounts.sci
    return [
        ("E", sci.energy_kwh, "kWh", "energy of training"),
        ("I", sci.intensity_g_per_kwh, "gCO2eq/kWh", "realised emissions over that energy"),
        ("M", sci.embodied_g, "gCO2eq", "embodied emissions, as stated; not counted where empty"),
        ("R", sci.rounds, "rounds", "functional unit: a round"),
        ("SCI", sci.g_per_round, "gCO2eq a round", "(E I + M) / R: emissions of a round"),
    ]


def _front(accounts: Accounts) -> list[Row]:
    if (front := accounts.front) is None:
        return []
    return [
        *(("plan", p.patience, format_time(p.finish), p.emissions_g, p.lower_bound_g)
          for p in front.frontier.points),
        *((outcome.name, None, format_time(outcome.finish), outcome.emissions_g, None)
          for outcome in front.stands),
    ]  # fmt: skip


# -- Problems during a run --------------------------------------------------------------------------------


class Incident(NamedTuple):
    """A missing forecast or a failed turn: time, what is affected, cause, and consequence."""

    at: datetime
    affected: str
    cause: str
    consequence: str
    of_node: bool


def incidents_of(record: Record) -> list[Incident]:
    """Return all incidents of a run, in order of time."""
    found = []
    for event in record.incidents:
        if isinstance(event, NodeFailed):
            node = f"node {event.id} at {event.location or 'an unknown location'}"
            consequence = f"round {event.round} continued without this node"
            found.append(Incident(event.at, node, event.reason, consequence, of_node=True))
        else:
            found.append(Incident(event.at, event.what, event.why, event.consequence, of_node=False))
    return sorted(found, key=attrgetter("at"))


def table_of_incidents(incidents: Sequence[Incident], provenance: Provenance) -> pd.DataFrame:
    """Return the incidents as a table, with source and signal of the run's intensity."""
    rows = [(format_time(each.at), each.affected, each.cause, each.consequence) for each in incidents]
    return _frame("mishaps", rows, provenance)


# -- CSV files --------------------------------------------------------------------------------------------


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write tables as CSV files into an existing folder.

    Times are UTC, numbers are not rounded, and unknown values are empty. External names are written such that
    no spreadsheet takes them for a formula.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        with replacing(paths[-1]) as unfinished:
            table.map(_cell).to_csv(unfinished, index=False, lineterminator="\n")
    return paths


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a new file, which replaces ``path`` when it is complete: no reader finds half a file.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.new")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise InputError("run-dir", problem, "make the folder writable") from None


def _cell(value: object) -> object:
    if isinstance(value, str):
        text = one_line(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value
