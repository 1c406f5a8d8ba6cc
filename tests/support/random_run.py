"""Ledgers of random runs: waits, late and long turns, failures, joins, measured energy, evaluation.

``Truth`` computes with plain loops what the package computes with arrays.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from lowcarb_scheduler.clock import parse_time
from support.report_ledger import START, at, event

HOUR = timedelta(hours=1)


class Truth:
    """Hourly intensity, integrated minute by minute: all windows here are of whole minutes."""

    def __init__(self, values: dict[str, list[float]]) -> None:
        self.values = values

    def integral(self, place: str, start: float, hours: float) -> float:
        """Return the integral over a window that starts so many hours after the run [g h / kWh]."""
        total, now, end = 0.0, start, start + hours
        while now < end - 1e-12:
            until = min(np.floor(now + 1e-9) + 1, end)
            total += self.values[place][int(np.floor(now + 1e-9))] * (until - now)
            now = until
        return total

    def mean(self, place: str, start: float, hours: float) -> float:
        return self.integral(place, start, hours) / hours

    def turn_g(self, done: dict[str, Any]) -> float:
        """Return the emissions of a ``node_done`` event."""
        starts = hours_of(done["started_at"])
        return done["energy_kwh"] * self.mean(done["location"], starts, done["duration_s"] / 3600)


def hours_of(text: str) -> float:
    return (parse_time(text, "time") - START) / HOUR


def random_run(
    rng: np.random.Generator,
    *,
    places: int = 3,
    as_planned: bool = False,
    alike: bool = False,
    foreseen: bool = False,
    known: int | None = None,
    first_unplanned: bool = False,
    evaluates: bool = True,
) -> tuple[list[dict[str, Any]], Truth]:
    """Return the events of a run, and what intensity really was.

    Parameters
    ----------
    places : int
        Most locations.
    as_planned : bool
        Whether every turn happens as planned.
    alike : bool
        Whether all nodes have one power, and take a whole round.
    foreseen : bool
        Whether the forecast is what happens.
    known : int, optional
        Rounds of which actual intensity is in the ledger.
    first_unplanned : bool
        Whether the first round opened without a forecast.
    evaluates : bool
        Whether rounds end with an evaluation on clients.
    """
    names = [f"place-{k}" for k in range(int(rng.integers(1, places + 1)))]
    rounds, clients = int(rng.integers(2, 6)), int(rng.integers(3, 9))
    seats, span = int(rng.integers(1, clients)), 4 * rounds + 8
    actual = {name: rng.uniform(20, 600, span).round(1).tolist() for name in names}
    noise = 0.0 if foreseen else 60.0
    forecast = {name: [max(1.0, g + rng.normal(0, noise)) for g in actual[name]] for name in names}
    truth, expected = Truth(actual), Truth(forecast)
    about = {"source": "traces", "signal": "marginal", "synthetic": False}
    nodes = {
        f"site-{k}": {
            "id": f"site-{k}", "location": names[k % len(names)],
            "power_watts": 400.0 if alike else float(rng.choice([250.0, 400.0, 1000.0])),
            "duration_s": None if alike else float(rng.choice([1800.0, 3600.0])),
        }
        for k in range(clients)
    }  # fmt: skip
    finish_by = at(3 * rounds + 2)
    late = f"site-{clients - 1}"  # joins with the second round
    events = [
        event(0, "run_started", run_id="r", version="0.1.0", flwr_version="1.41.0", settings={},
              strategy="FedAvg", started_at=at(0), rounds=rounds, clients_per_round=seats, source="traces",
              round_duration_s=3600.0, finish_by=finish_by, target_finish=finish_by, patience=1.0,
              participation="equal", clock="system"),
        event(0, "nodes", left=[], joined=[node for key, node in nodes.items() if key != late]),
        event(0, "forecast", generated_at=at(0), issued_at={}, missing={}, last_good={}, **about,
              edges=[at(hour) for hour in range(span + 1)], g_per_kwh=forecast),
        event(0, "planned", round=1, reason="next round", basis="forecast", finish=finish_by,
              emissions_g=1.0, lower_bound_g=None, run_now_emissions_g=None, saving=None,
              power_assumed=False, min_turns=0, max_turns=rounds, grid_from=at(0), target_finish=finish_by,
              finish_by=finish_by,
              windows=[{"round": number + 1, "opens_at": at(number), "closes_at": at(number + 1),
                        "emissions_g": 1.0, "locations": {names[0]: seats}} for number in range(rounds)]),
    ]  # fmt: skip
    known = rounds if known is None else known
    now = 0.0
    for number in range(1, rounds + 1):
        if number == 2:
            events.append(event(now, "nodes", left=[], joined=[nodes[late]]))
        there = [key for key in nodes if number > 1 or key != late]
        opens = now + int(rng.integers(0, 3))
        chosen = sorted(rng.choice(there, min(seats, len(there)), replace=False).tolist())
        members = [
            {"id": key, "location": nodes[key]["location"], "starts_at": at(opens),
             "ends_at": at(opens + (nodes[key]["duration_s"] or 3600.0) / 3600)}
            for key in chosen
        ]  # fmt: skip
        planned_g = sum(
            nodes[key]["power_watts"] / 1000
            * expected.integral(nodes[key]["location"], opens, (nodes[key]["duration_s"] or 3600) / 3600)
            for key in chosen
        )  # fmt: skip
        is_planned = not (first_unplanned and number == 1)
        events.append(event(opens, "round_opened", round=number, opened_at=at(opens), held_s=0.0,
                            planned_opens_at=at(opens), nodes=members,
                            planned_g=planned_g if is_planned else None, mean_g_per_kwh=None))  # fmt: skip
        took, done = 1.0, []
        for member in members:
            key = member["id"]
            if not as_planned and rng.random() < 0.2:
                events.append(event(opens + 1, "node_failed", round=number, id=key, reason="no reply",
                                    location=member["location"]))  # fmt: skip
                continue
            hours, starts = hours_of(member["ends_at"]) - opens, opens
            kwh, basis = nodes[key]["power_watts"] / 1000 * hours, "estimated"
            if not as_planned:
                starts += int(rng.integers(0, 10)) / 60
                hours *= float(rng.choice([0.5, 1.0, 1.5]))
                kwh = nodes[key]["power_watts"] / 1000 * hours
                if rng.random() < 0.4:
                    kwh, basis = kwh * float(rng.uniform(0.5, 1.3)), "measured"
            took = max(took, starts + hours - opens)
            done.append(event(opens + took, "node_done", round=number, id=key, location=member["location"],
                              started_at=at(starts), duration_s=3600 * hours,
                              power_watts=nodes[key]["power_watts"], energy_kwh=kwh,
                              energy_basis=basis))  # fmt: skip
        now = opens + took
        evaluated = [
            {**one, "event": "node_evaluated", "started_at": at(now), "duration_s": 360.0,
             "energy_kwh": 0.01}
            for one in done[: 2 * evaluates]
        ]  # fmt: skip
        events += [*done, *evaluated]
        if evaluated:
            now += 0.1
            events.append(event(now, "evaluated", round=number, where="clients", metrics={}, nodes_failed=0,
                                nodes_done=len(evaluated), energy_kwh=0.01 * len(evaluated),
                                realised_g=None))  # fmt: skip
        if number <= known:
            seen = int(np.ceil(now))
            events.append(
                event(
                    now,
                    "actual",
                    **about,
                    edges=[at(hour) for hour in range(seen + 1)],
                    g_per_kwh={name: values[:seen] for name, values in actual.items()},
                )
            )
        events.append(event(now, "round_closed", round=number, opens_at=at(opens), closes_at=at(now),
                            round_duration_s=3600.0, nodes_done=len(done), energy_kwh=sum(
                                one["energy_kwh"] for one in done), nodes_failed=len(members) - len(done),
                            planned_g=planned_g if is_planned else None, realised_g=None,
                            run_now_g=None))  # fmt: skip
    events.append(
        event(
            now,
            "run_finished",
            status="completed",
            rounds=[],
            planned_g=None,
            realised_g=None,
            run_now_g=None,
            evaluation_g=None,
            saving=None,
            energy_kwh=0.0,
            energy_by_basis={},
            evaluation_energy_kwh=0.0,
            finish=at(now),
            finish_by=finish_by,
            late=False,
            jain=1.0,
            min_turns=0,
            max_turns=rounds,
        )
    )
    return events, truth
