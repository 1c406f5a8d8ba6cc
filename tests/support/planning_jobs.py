"""Random small jobs for the tests of planning, with gaps, ties, odd steps and other traps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from lowcarb_scheduler import Fleet, IntensityTable, Job

CLASSES = [100.0, 300.0, 450.0]  # watts
NOW = datetime(2026, 1, 31, 18, 0, tzinfo=UTC)


def hours_of(count):
    return timedelta(hours=float(count))


def random_table(rng, locations, span_hours, step_minutes=None):
    """Return a table of daily curves, noise, flat, negative or zero values; some with gaps or odd steps."""
    step = step_minutes or int(rng.choice([15, 30, 60, 60, 60, 120]))
    count = max(2, int(span_hours * 60 / step))
    minutes = np.arange(count) * step
    kind = rng.choice(["daily", "daily", "daily", "noise", "flat", "negative", "zero", "ties"])
    hour = minutes[:, None] / 60
    base, phase = rng.uniform(30, 600, locations), rng.uniform(0, 24, locations)
    daily = base * (1 + rng.uniform(0.1, 0.6, locations) * np.cos(2 * np.pi * (hour - phase) / 24))
    values = {
        "daily": daily + rng.normal(0, 5, (count, locations)),
        "noise": rng.uniform(0, 600, (count, locations)),
        "flat": np.broadcast_to(base, (count, locations)),
        "negative": daily - 300,
        "zero": np.zeros((count, locations)),
        "ties": rng.integers(1, 4, (count, locations)) * 100.0,
    }[kind].copy()
    if rng.random() < 0.3:
        values[rng.random(values.shape) < rng.choice([0.03, 0.15])] = np.nan
    if rng.random() < 0.15:
        values[-max(1, count // 5) :, rng.integers(locations)] = np.nan
    keep = np.ones(count, dtype=bool)
    if rng.random() < 0.15:
        keep[1:-1] = rng.random(count - 2) > 0.2  # irregular steps
    start = NOW - timedelta(minutes=int(rng.choice([0, 0, 0, 25, 60])))
    index = pd.DatetimeIndex([start + timedelta(minutes=int(m)) for m in minutes[keep]])
    columns = [f"place-{k}" for k in range(locations)]
    return IntensityTable.from_frame(pd.DataFrame(values[keep], index=index, columns=columns), "average")


def random_job(rng, most_clients=6, most_rounds=3, most_slots=14, stagger=None):
    """Return a small job and its table; the job may have no plan."""
    locations = int(rng.integers(1, 4))
    clients = int(rng.integers(1, most_clients + 1))
    rounds = int(rng.integers(1, most_rounds + 1))
    n = clients if rng.random() < 0.15 else int(rng.integers(1, clients + 1))
    step = int(rng.choice([15, 30, 60]))
    minutes = int(rng.choice([step, step, 2 * step, 3 * step, 45, 90]))
    slots = int(rng.integers(1, most_slots + 1))
    needed = rounds * -(-minutes // step) * step
    span = needed if rng.random() < 0.15 else max(needed, slots * step)
    frame = pd.DataFrame(
        {
            "id": [f"c{k}" for k in rng.permutation(clients)],
            "location": [f"place-{k}" for k in rng.integers(locations, size=clients)],
        }
    )
    if rng.random() < 0.6:
        frame["power_watts"] = rng.choice([0.0, 100.0, 300.0, 450.0], clients)
    elif rng.random() < 0.5:
        frame["power_watts"] = rng.uniform(50, 500, clients)
    if rng.random() < 0.3:
        frame["duration"] = [
            timedelta(minutes=int(m)) for m in rng.choice([5, minutes // 2, minutes], clients)
        ]
    if rng.random() < 0.3:
        frame["turns_done"] = rng.integers(0, 4, clients)
    low = int(rng.integers(0, 2))
    late = timedelta(minutes=int(rng.choice([0, 0, 0, 7, step])))
    return Job(
        Fleet.from_frame(frame),
        now=NOW,
        finish_by=NOW + timedelta(minutes=span) + late + timedelta(minutes=int(rng.choice([0, 0, 11, -1]))),
        rounds=rounds,
        clients_per_round=n,
        round_duration=timedelta(minutes=minutes),
        not_before=NOW + late if rng.random() < 0.5 else None,
        grid_from=NOW - timedelta(minutes=int(rng.choice([0, 10, 90]))) if rng.random() < 0.3 else None,
        start_step=timedelta(minutes=step),
        patience=float(rng.choice([0.0, 0.37, 1.0, 1.0, 1.0])),
        participation=["equal", "equal", "any", (low, low + int(rng.integers(1, 3)))][rng.integers(4)],
        stagger=bool(rng.random() < 0.4) if stagger is None else stagger,
        max_location_share=float(rng.choice([1.0, 1.0, 1.0, 0.7, 0.5])),
        seed=int(rng.integers(5)),
    ), random_table(rng, locations, span / 60 + rng.choice([-1, 0, 3, 3, 3]))


def wavy(places, step_minutes=15, hours=48):
    hour = np.arange(hours * 60 // step_minutes)[:, None] * step_minutes / 60
    phase = np.linspace(0, 24, places, endpoint=False)
    values = np.linspace(100, 500, places) * (1 + 0.4 * np.cos(2 * np.pi * (hour - phase) / 24))
    index = pd.date_range(NOW, periods=len(hour), freq=f"{step_minutes}min")
    return IntensityTable.from_frame(
        pd.DataFrame(values, index=index, columns=[f"L{k:02d}" for k in range(places)])
    )


def large(clients, places, watts, rounds, n, **more):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": [f"c{k:06d}" for k in range(clients)],
            "location": [f"L{k:02d}" for k in rng.integers(0, places, clients)],
            "power_watts": watts(rng, clients),
        }
    )
    return Job(Fleet.from_frame(frame), now=NOW, finish_by=NOW + hours_of(48), rounds=rounds,
               clients_per_round=n, round_duration=timedelta(minutes=30), **more)  # fmt: skip
