"""The tables of a run, and how they are written as CSV: units in column names, labels in every row."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting import emissions
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pandas as pd

    from lowcarb_scheduler.accounting.attribution import Accounts, Share
    from lowcarb_scheduler.intensity import Provenance

BASES: Final = ("measured", "estimated", "assumed")
_FORMULA: Final = ("=", "+", "-", "@")  # what a spreadsheet would run, if a node were called so


def tables_of(accounts: Accounts) -> dict[str, pd.DataFrame]:
    """Return the tables by name; a number that is not known is missing."""
    import pandas as pd

    rows: dict[str, list[dict[str, Any]]] = {
        "numbers": _numbers(accounts),
        "waterfall": _waterfall(accounts),
        "rounds": _rounds(accounts),
        "phases": _shares(accounts.by_phase, "phase"),
        "locations": _shares(accounts.by_location, "location"),
        "clients": _shares(accounts.by_client, "client"),
        "sci": _sci(accounts),
        "front": _front(accounts),
    }
    labels = accounts.provenance.to_dict()
    return {
        name: pd.DataFrame([{**row, **labels} for row in listed], columns=[*_COLUMNS[name], *labels])
        for name, listed in rows.items()
    }


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write tables as CSV files into a folder that is there.

    Times are UTC, numbers unrounded, and what is not known is empty. Names that came from outside are written
    so that no spreadsheet takes them for a formula.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        unfinished = path.with_suffix(".csv.new")
        try:
            table.map(_cell).to_csv(unfinished, index=False, lineterminator="\n")
            unfinished.replace(path)
        except OSError as error:
            problem = f"{path} cannot be written ({error.strerror})"
            raise InputError("run-dir", problem, "make the folder writable") from None
        paths.append(path)
    return paths


def _cell(value: object) -> object:
    if isinstance(value, str):
        text = one_line(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value


def _numbers(accounts: Accounts) -> list[dict[str, Any]]:
    run_now_g, realised_g, best_g = accounts.run_now_g, accounts.realised_g, accounts.hindsight_g
    # What was planned is not of the same work as run-now where a turn failed or took longer: no saving.
    rows: list[dict[str, Any]] = [
        _number("run-now", "actual", run_now_g),
        _number("planned", "forecast", accounts.planned_g),
        _number("realised", "actual", realised_g, saving=emissions.saving(realised_g, run_now_g)),
        _number("hindsight", "actual", best_g, saving=emissions.saving(best_g, run_now_g)),
    ]
    if accounts.planned_of:
        rows.append(_number("planned", "forecast", accounts.planned_of_g, accounts.planned_of))
    return rows


def _number(
    name: str, intensity: str, grams: float | None, rounds: str = "all", saving: float | None = None
) -> dict[str, Any]:
    return {"number": name, "rounds": rounds, "intensity": intensity, "emissions_g": grams, "saving": saving}


def _waterfall(accounts: Accounts) -> list[dict[str, Any]]:
    rows, level_g = [], 0.0
    for step in accounts.waterfall:
        level_g = step.change_g if step.kind == "level" else level_g + step.change_g
        change_g = None if step.kind == "level" else step.change_g
        rows.append({"step": step.name, "kind": step.kind, "change_g": change_g, "level_g": level_g})
    return rows


def _rounds(accounts: Accounts) -> list[dict[str, Any]]:
    rows = []
    for r, levels in zip(accounts.run.rounds, accounts.levels, strict=True):
        changes = emissions.waterfall(*([level] for level in levels))._asdict()
        is_whole = bool(np.isfinite(list(changes.values())).all())
        rows.append(
            {
                "round": r.number, "opens_at": format_time(r.opens_at), "closes_at": format_time(r.closes_at),
                "held_s": r.held.total_seconds(), "nodes_done": r.nodes, "nodes_failed": r.failed,
                "energy_kwh": r.energy_kwh, "planned_g": r.planned_g, "realised_g": r.realised_g,
                "run_now_g": r.run_now_g, **(changes if is_whole else {}),
                "evaluation_energy_kwh": r.evaluation_energy_kwh, "evaluation_g": r.evaluation_g,
            }
        )  # fmt: skip
    return rows


def _shares(shares: Iterable[Share], of: str) -> list[dict[str, Any]]:
    return [
        {
            of: share.name, "turns": share.turns, "energy_kwh": share.energy_kwh,
            **{f"{basis}_kwh": share.basis.get(basis, 0.0) for basis in BASES},
            "emissions_g": share.emissions_g, "mean_g_per_kwh": share.mean_g_per_kwh,
        }
        for share in shares
    ]  # fmt: skip


def _sci(accounts: Accounts) -> list[dict[str, Any]]:
    sci = accounts.sci
    terms: Sequence[tuple[str, float | None, str, str]] = (
        ("E", sci.energy_kwh, "kWh", "energy of training"),
        ("I", sci.intensity_g_per_kwh, "gCO2eq/kWh", "realised emissions over that energy"),
        ("M", None, "gCO2eq", "embodied emissions: not counted"),
        ("R", sci.rounds, "rounds", "functional unit: a round"),
        ("SCI", sci.g_per_round, "gCO2eq a round", "(E I) / R: operational emissions of a round"),
    )
    return [{"term": term, "value": value, "unit": unit, "is": what} for term, value, unit, what in terms]


def _front(accounts: Accounts) -> list[dict[str, Any]]:
    if (front := accounts.front) is None:
        return []
    points = [
        {"point": "plan", "patience": point.patience, "finish": format_time(point.finish),
         "emissions_g": point.emissions_g, "lower_bound_g": point.lower_bound_g}
        for point in front.frontier.points
    ]  # fmt: skip
    stands = [{"point": stand.name, "finish": format_time(stand.finish), "emissions_g": stand.emissions_g}
              for stand in front.stands]  # fmt: skip
    return [*points, *stands]


def _of_shares(of: str) -> tuple[str, ...]:
    return (of, "turns", "energy_kwh", *(f"{basis}_kwh" for basis in BASES), "emissions_g", "mean_g_per_kwh")


_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "numbers": ("number", "rounds", "intensity", "emissions_g", "saving"),
    "waterfall": ("step", "kind", "change_g", "level_g"),
    "rounds": (
        "round", "opens_at", "closes_at", "held_s", "nodes_done", "nodes_failed", "energy_kwh", "planned_g",
        "realised_g", "run_now_g", *emissions.Waterfall._fields, "evaluation_energy_kwh", "evaluation_g",
    ),
    "phases": _of_shares("phase"),
    "locations": _of_shares("location"),
    "clients": _of_shares("client"),
    "sci": ("term", "value", "unit", "is"),
    "front": ("point", "patience", "finish", "emissions_g", "lower_bound_g"),
}  # fmt: skip


# -- What did not go as it should in a run: forecasts that did not come, nodes that did not train -----------


class Incident(NamedTuple):
    """One of them: when, what, why, and what was done instead."""

    at: datetime
    what: str
    why: str
    so: str
    of_node: bool


def incidents_of(events: Sequence[Mapping[str, Any]]) -> list[Incident]:
    """Return all of a run, in order."""
    found = []
    for event in events:
        match event["event"]:
            case "degraded":
                so = event["consequence"]
                found.append(Incident(event["at"], event["what"], event["why"], so, of_node=False))
            case "node_failed":
                what = f"node {event['id']} at {event['location'] or 'an unknown location'}"
                so = f"round {event['round']} went on without it"
                found.append(Incident(event["at"], what, event["reason"], so, of_node=True))
    return sorted(found, key=attrgetter("at"))


def table_of_incidents(mishaps: Sequence[Incident], provenance: Provenance) -> pd.DataFrame:
    """Return the table that is written as CSV, with signal and source of the run's intensity."""
    import pandas as pd

    rows = [
        {"at": format_time(m.at), "what": m.what, "why": m.why, "consequence": m.so, **provenance.to_dict()}
        for m in mishaps
    ]
    return pd.DataFrame(rows, columns=["at", "what", "why", "consequence", *provenance.to_dict()])
