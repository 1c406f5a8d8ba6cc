"""A small ledger written by hand: two locations, three rounds, one node that failed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.documents import to_json

if TYPE_CHECKING:
    from pathlib import Path

START = datetime.fromisoformat("2026-03-02T00:00:00+00:00")
FORECAST = {"DE": [500, 480, 300, 280, 290, 450], "FR": [60, 55, 50, 40, 45, 70]}
ACTUAL = {"DE": [510, 470, 320, 270, 300, 460], "FR": [62, 54, 52, 41, 44, 71]}
OPENS = {1: 0, 2: 2, 3: 3}  # hours after the start
CLIENTS = {"site-a": "DE", "site-b": "DE", "site-c": "FR", "site-d": "FR"}
SEATS = {1: ("site-a", "site-c"), 2: ("site-b", "site-d"), 3: ("site-a", "site-c")}
FAILED = (3, "site-c")


def at(hours: float) -> str:
    """Return a time so many hours after the start."""
    return format_time(START + timedelta(hours=hours))


def event(hours: float, name: str, **data: object) -> dict[str, Any]:
    """Return an event as it is read: its own time parsed, the others as text."""
    return {"v": 1, "at": START + timedelta(hours=hours), "event": name, **data}


def record(values: dict[str, list[float]], first: int = 0) -> dict[str, object]:
    """Return hourly intensities as they stand in a ledger, but for their labels."""
    hours = len(next(iter(values.values())))
    return {"edges": [at(first + hour) for hour in range(hours + 1)], "g_per_kwh": values}


def run_events(actual: bool = True, finished: bool = True, synthetic: bool = False) -> list[dict[str, Any]]:
    """Return the events of a run of three rounds of one hour, 1 kW a client."""
    about = {"source": "traces", "signal": "average", "synthetic": synthetic}
    windows = [
        {
            "round": number, "opens_at": at(hour), "closes_at": at(hour + 1), "emissions_g": 400.0,
            "locations": {"DE": 1, "FR": 1},
        }
        for number, hour in {1: 1, 2: 2, 3: 3}.items()
    ]  # fmt: skip
    events = [
        event(
            0, "run_started", run_id="7", version="0.1.0", flwr_version="1.41.0", settings={},
            strategy="FedAvg", rounds=3, clients_per_round=2, round_duration_s=3600, finish_by=at(6),
            target_finish=at(6), grid_from=at(0), patience=1.0, participation="equal", clock="virtual",
            source="traces",
        ),
        event(
            0, "nodes", left=[],
            joined=[{"id": name, "location": place, "power_watts": 1000.0, "duration_s": None}
                    for name, place in CLIENTS.items()],
        ),
        event(0, "forecast", round=1, generated_at=at(0), issued_at={}, missing={},
            last_good={}, **record(FORECAST), **about),
        event(
            0, "planned", round=1, reason="start", basis="forecast", finish=at(4), target_finish=at(6),
            emissions_g=1200.0, lower_bound_g=1190.0, run_now_emissions_g=1500.0, saving=0.2,
            power_assumed=True, jain=0.9, min_turns=1, max_turns=2, windows=windows, grid_from=at(0),
            finish_by=at(6),
        ),
        event(
            0, "degraded", what="forecast", why="the source did not answer", consequence="last good forecast"
        ),
    ]  # fmt: skip
    totals = []
    for number, hour in OPENS.items():
        nodes = [{"id": name, "location": CLIENTS[name]} for name in SEATS[number]]
        done = [node for node in nodes if (number, node["id"]) != FAILED]
        planned = float(sum(FORECAST[node["location"]][hour] for node in nodes))
        realised = float(sum(ACTUAL[node["location"]][hour] for node in done)) if actual else None
        run_now = len(done) * sum(ACTUAL[place][number - 1] for place in CLIENTS.values()) / len(CLIENTS)
        figures = {"planned_g": planned, "realised_g": realised, "run_now_g": run_now if actual else None}
        totals.append({"round": number, **figures})
        events += [
            event(hour, "hold_started", round=number, until=at(hour), seconds=3600 * hour, reason="cleaner"),
            event(
                hour, "round_opened", round=number, opened_at=at(hour), held_s=1800.0 * hour,
                planned_opens_at=at(hour),
                nodes=[{**node, "starts_at": at(hour), "ends_at": at(hour + 1)} for node in nodes],
                planned_g=planned, mean_g_per_kwh=planned / 2,
            ),
        ]  # fmt: skip
        events += [
            event(
                hour + 1, "node_done", round=number, started_at=at(hour), duration_s=3600, power_watts=1000.0,
                energy_kwh=1.0,
                energy_basis="assumed" if node["location"] == "DE" else "estimated", **node,
            )
            for node in done
        ]  # fmt: skip
        if number == FAILED[0]:
            events.append(
                event(hour + 1, "node_failed", round=3, id="site-c", location="FR", reason="no reply")
            )
        if actual:
            seen = {name: values[: hour + 1] for name, values in ACTUAL.items()}
            events.append(event(hour + 1, "actual", **record(seen), **about))
        events += [
            event(
                hour + 1, "round_closed", round=number, opens_at=at(hour), closes_at=at(hour + 1),
                round_duration_s=3600, nodes_done=len(done), nodes_failed=2 - len(done),
                energy_kwh=float(len(done)), **figures,
            ),
            event(hour + 1, "evaluated", round=number, where="server", metrics={"accuracy": number / 4}),
        ]  # fmt: skip
    if finished:
        events.append(
            event(
                4, "run_finished", status="completed", rounds=totals, planned_g=1.0, realised_g=1.0,
                run_now_g=1.0, evaluation_g=0.0, saving=None, energy_kwh=5.0, energy_by_basis={},
                evaluation_energy_kwh=0.0, finish=at(4), finish_by=at(6), late=False,
                jain=0.9, min_turns=1, max_turns=2,
            )
        )  # fmt: skip
    return events


def write_ledger(run_dir: Path, events: list[dict[str, Any]]) -> Path:
    """Write events as a run does, and return the folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(to_json(one, compact=True) + "\n" for one in events)
    (run_dir / "ledger.jsonl").write_text(lines, encoding="utf-8")
    return run_dir
