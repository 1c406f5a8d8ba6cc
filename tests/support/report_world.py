"""A large ledger of a made-up world: 16 locations, overruns, failures, and a source that fails."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.planning.job import Fleet, Job
from lowcarb_scheduler.planning.planner import plan
from support.report_ledger import START, at, event

PLACES = (
    "DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE", "US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "US-NY-NYIS",
    "AU-NSW", "AU-VIC", "KR", "CL-SEN",
)  # fmt: skip
OVERRUN, FAILS, UNSEEN = 7, 11, (18, 23)  # every so many rounds, every so many turns, rounds without forecast


def large_events(
    rounds: int = 50, clients: int = 100, seats: int = 10, unknown: int = 0
) -> list[dict[str, Any]]:
    """Return the events of a run at 16 locations; of its last ``unknown`` rounds there are no actuals."""
    world, random = Synthetic(seed=3), np.random.default_rng(7)
    fleet = {f"site-{k:03}": PLACES[k % len(PLACES)] for k in range(clients)}
    watts = dict(zip(fleet, random.choice([250.0, 300.0, 400.0], clients).tolist(), strict=True))
    span = 2.0 * rounds
    names = sorted(PLACES)
    truth = world.actual(names, START, START + timedelta(hours=span + 8))
    hourly = dict(zip(names, truth.values.T, strict=True))
    first = world.forecast(names, START).intensity
    level = dict(zip(names, first.values.T, strict=True))
    finish_by = at(span + 4)
    events = [
        event(
            0, "run_started", run_id="20260302", version="0.1.0", flwr_version="1.41.0", settings={},
            strategy="FedAvg", rounds=rounds, clients_per_round=seats, round_duration_s=3600,
            finish_by=finish_by, target_finish=finish_by, grid_from=at(0), patience=0.8,
            participation="equal", clock="virtual", source="synthetic",
        ),
        event(0, "nodes", left=[], joined=[
            {"id": name, "location": place, "power_watts": watts[name], "duration_s": None}
            for name, place in fleet.items()
        ]),
        event(0, "forecast", round=1, generated_at=at(0), issued_at={}, missing={}, last_good={},
              **first.to_record()),
    ]  # fmt: skip
    frame = pd.DataFrame(
        {"id": list(fleet), "location": list(fleet.values()), "power_watts": list(watts.values())}
    )
    job = Job(
        Fleet.from_frame(frame), START, START + timedelta(hours=span + 4), rounds, seats, timedelta(hours=1)
    )
    best = plan(job, first)
    windows = [
        {
            "round": number, "opens_at": format_time(r.opens_at), "closes_at": format_time(r.closes_at),
            "emissions_g": r.emissions_g, "locations": dict(Counter(seat.location for seat in r.clients)),
        }
        for number, r in enumerate(best.rounds, start=1)
    ]  # fmt: skip
    events.append(event(
        0, "planned", round=1, reason="start", basis="forecast", finish=format_time(best.finish),
        target_finish=finish_by, emissions_g=best.emissions_g, lower_bound_g=best.lower_bound_g,
        run_now_emissions_g=best.run_now_emissions_g, saving=best.saving, power_assumed=False, jain=1.0,
        min_turns=rounds * seats // clients, max_turns=-(-rounds * seats // clients), windows=windows,
        grid_from=at(0), finish_by=finish_by,
    ))  # fmt: skip
    run_now = [
        seats * float(np.mean([watts[name] * hourly[place][k] for name, place in fleet.items()])) / 1000
        for k in range(rounds)
    ]
    totals, free, turn = [], 0.0, 0
    for number, planned in enumerate(best.rounds, start=1):
        hour = (planned.opens_at - START) / timedelta(hours=1)
        chosen = [seat.id for seat in planned.clients]
        opens = max(hour, free)
        hours = 1.6 if number % OVERRUN == 0 else 1.0
        held, free = opens - free, opens + hours
        if number == UNSEEN[0]:
            events.append(event(
                opens, "degraded", what="forecast", round=number,
                why="HTTP 503 from the forecast source, 3 attempts",
                consequence="last good forecast, 2 h old",
            ))  # fmt: skip
        elif number % 6 == 0 and not UNSEEN[0] < number < UNSEEN[1]:
            newer = world.forecast(names, START + timedelta(hours=int(opens))).intensity
            events.append(
                event(
                    opens,
                    "forecast",
                    round=number,
                    generated_at=at(int(opens)),
                    issued_at={},
                    missing={},
                    last_good={},
                    **newer.to_record(),
                )
            )
        nodes = [{"id": name, "location": fleet[name]} for name in chosen]
        forecast_g = sum(level[fleet[n]][int(hour)] * watts[n] / 1000 for n in chosen)
        events.append(event(
            opens, "round_opened", round=number, opened_at=at(opens), held_s=3600 * held,
            planned_opens_at=at(int(hour)), planned_g=forecast_g,
            nodes=[{**node, "starts_at": at(opens), "ends_at": at(opens + 1)} for node in nodes],
            mean_g_per_kwh=float(np.mean([level[n["location"]][int(hour)] for n in nodes])),
        ))  # fmt: skip
        done, realised, energy = 0, 0.0, 0.0
        for node in nodes:
            turn += 1
            if turn % FAILS == 0:
                events.append(
                    event(opens + hours, "node_failed", round=number, reason="no reply in time", **node)
                )
                continue
            name, place = node["id"], node["location"]
            kwh, done = watts[name] / 1000 * hours, done + 1
            energy += kwh
            realised += kwh * float(hourly[place][int(opens)])
            events.append(event(
                opens + hours, "node_done", round=number, started_at=at(opens), duration_s=3600 * hours,
                power_watts=watts[name], energy_kwh=kwh,
                energy_basis=("measured", "estimated", "assumed")[int(name[-1]) % 3], **node,
            ))  # fmt: skip
        is_known = number <= rounds - unknown
        if is_known:
            seen = truth.slice(START, START + timedelta(hours=free))
            assert seen is not None
            events.append(event(free, "actual", **seen.to_record()))
        figures = {
            "planned_g": forecast_g,
            "realised_g": realised if is_known else None,
            "run_now_g": run_now[number - 1] if is_known else None,
        }
        totals.append({"round": number, "evaluation_g": 0.0, **figures})
        events += [
            event(free, "round_closed", round=number, opens_at=at(opens), closes_at=at(free),
                  round_duration_s=3600, nodes_done=done, nodes_failed=len(nodes) - done,
                  energy_kwh=energy, **figures),
            event(free, "evaluated", round=number, where="server", metrics={
                "accuracy": 0.95 - 0.85 * float(np.exp(-number / 12)),
                "loss": 2.3 * float(np.exp(-number / 15)),
            }),
        ]  # fmt: skip
    events.append(event(
        free, "run_finished", status="completed", rounds=totals, planned_g=1.0, realised_g=1.0, run_now_g=1.0,
        evaluation_g=0.0, saving=None, energy_kwh=5.0, energy_by_basis={}, evaluation_energy_kwh=0.0,
        finish=at(free), finish_by=finish_by, late=False, jain=0.9, min_turns=4,
        max_turns=5,
    ))  # fmt: skip
    return events
