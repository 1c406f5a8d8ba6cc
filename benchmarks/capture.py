"""Savings on real traces and their share of the possible saving, by method and deadline.

    python benchmarks/capture.py DATA [--scenarios main small large] [--deadlines 1 2 4 8] [--seeds 20]
        [--from 2023-07-01] [--to 2023-12-28] [--methods scheduler fading ...] [--replan-every 6] [--delay 0]
        [--json FILE]

DATA holds ``actual.parquet`` (region, time, g_per_kwh) and ``forecast.parquet`` (the same with issued_at).
The protocol is that of :mod:`lowcarb_scheduler.backtest`. For each method: the mean saving over random
clients back-to-back, its capture, and its paired difference to *fading*, the rule of thumb to be beaten: the
mean error of the newest issue's last three hours is taken off, fading by 0.85 an hour; beyond the forecast
stands the hour-of-day mean of two weeks. Other methods: *one-shot*, *rolling* (plain forecasts),
*temporal-only*, *perfect* (information), *unlearned* (the scheduler without past issues), *unhoping* (the
scheduler without the value of waiting).
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from lowcarb_scheduler import correct_forecast, plan, replan
from lowcarb_scheduler.backtest import METHODS, SCENARIOS, History, follow, instance
from lowcarb_scheduler.backtest.methods import plain_decide, scheduler_decide
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.forecasts.sources.traces import read_points

HOUR = timedelta(hours=1)


def faded(known, now, until, fading=0.85):
    """Return the newest forecast less its fading error, with hour-of-day means beyond its end."""
    forecast, past = known.forecast, known.history
    first, last = to_us(now), to_us(until)
    edges = np.arange(first, last + HOUR_US, HOUR_US)
    values = forecast.sampled(edges)
    back = first - HOUR_US * np.arange(1, 4)
    errors = forecast.integrate(back, back + HOUR_US) - past.integrate(back, back + HOUR_US)
    known_errors = np.isfinite(errors)
    error = np.where(known_errors, errors, 0).sum(0) / np.maximum(known_errors.sum(0), 1)
    values = np.maximum(values - error * fading ** np.arange(1, len(edges))[:, None], 0)
    hours = first - HOUR_US * np.arange(14 * 24, 0, -1)
    mean = np.nanmean(past.integrate(hours, hours + HOUR_US).reshape(14, 24, -1), axis=0)
    values = np.where(np.isnan(values), mean[np.arange(len(values)) % 24], values)
    return forecast.relaid(edges, forecast.locations, values)


def fading_decide(job, known, previous):
    return plan(job, faded(known, job.now, job.finish_by).align(job.fleet.locations))


def unlearned_decide(job, known, previous):
    """Plan on the newest issue corrected by its own fading error, with climatology beyond its end."""
    return replan(job, known.forecast, known.history, (), previous)


def unhoping_decide(job, known, previous):
    """Plan on the corrected forecast alone, without the value of waiting."""
    known_here = known.forecast.align(job.fleet.locations)
    return plan(
        job, correct_forecast(known_here, known.history, job.now, job.finish_by, known.past_forecasts)
    )


DECIDES = {
    "scheduler": scheduler_decide,
    "fading": fading_decide,
    "rolling": plain_decide,
    "unlearned": unlearned_decide,
    "unhoping": unhoping_decide,
}
HISTORIES: dict[str, History] = {}


def load(data: Path, delay: float) -> None:
    actual, forecast = read_points(data / "actual.parquet"), read_points(data / "forecast.parquet")
    for scenario in SCENARIOS.values():
        history = History.from_frames(actual, forecast, scenario.locations)
        HISTORIES[scenario.name] = History(history.actual, history.issues, delay * HOUR)


def replay(case, methods, seeds, period, replan_every):
    """Return emissions and CPU seconds by method."""
    name, factor, seed = case
    history, made = HISTORIES[name], instance(SCENARIOS[name], seed, seeds, factor, period)
    emitted = {}
    for method in ("run-now", "bound", *methods):
        began = time.process_time()
        if method in DECIDES:
            outcome = follow(made, history, DECIDES[method], replan_every)
        else:
            outcome = METHODS[method](made, history)
        emitted[method] = outcome.emissions_g, time.process_time() - began
    return emitted


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS))
    parser.add_argument("--deadlines", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--from", dest="begin", default="2023-07-01")
    parser.add_argument("--to", dest="end", default="2023-12-28")
    parser.add_argument("--methods", nargs="+", default=["scheduler", "fading", "one-shot", "perfect"])
    parser.add_argument("--replan-every", type=float, default=6, help="hours between plans")
    parser.add_argument("--delay", type=float, default=0, help="hours until actual intensity is known")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    load(options.data, options.delay)
    begin, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (options.begin, options.end))
    print(f"starts {begin:%Y-%m-%d} .. {end:%Y-%m-%d}, {options.seeds} seeds,",
          f"planned every {options.replan_every:g} h, actuals {options.delay:g} h late")  # fmt: skip
    print(f"{'scenario':8}{'deadline':>9}  {'method':12}{'saving %':>9}{'capture':>9}"
          f"{'- fading (se)':>18}{'CPU s':>8}")  # fmt: skip
    found = []
    with Pool(options.jobs) as pool:
        for name in options.scenarios:
            for factor in options.deadlines:
                length = factor * SCENARIOS[name].back_to_back
                run = partial(
                    replay, methods=options.methods, seeds=options.seeds, period=(begin, end - length),
                    replan_every=options.replan_every * HOUR,
                )  # fmt: skip
                rows = pool.map(run, [(name, factor, seed) for seed in range(options.seeds)], chunksize=1)
                found += report(name, factor, options.methods, rows)
    if options.json:
        document = {"from": options.begin, "to": options.end, "seeds": options.seeds, "rows": found}
        options.json.write_text(json.dumps(document), encoding="utf-8")


def report(name, factor, methods, rows):
    now, most = (np.array([row[method][0] for row in rows]) for method in ("run-now", "bound"))
    cuts = {method: 100 * (1 - np.array([row[method][0] for row in rows]) / now) for method in methods}
    possible = 100 * (1 - most / now).mean()
    found = []
    for method, cut in cuts.items():
        row = {"scenario": name, "deadline": factor, "method": method, "saving": float(cut.mean()),
               "capture": float(cut.mean() / possible)}  # fmt: skip
        against = ""
        if "fading" in cuts and method != "fading":
            gain = cut - cuts["fading"]
            row["gain"], row["gain_se"] = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
            against = f"{row['gain']:+.2f} ({row['gain_se']:.2f})"
        found.append(row)
        seconds = np.mean([row[method][1] for row in rows])
        print(f"{name:8}{factor:>8g}x  {method:12}{cut.mean():9.2f}{cut.mean() / possible:9.3f}"
              f"{against:>18}{seconds:8.2f}", flush=True)  # fmt: skip
    return found


if __name__ == "__main__":
    main()
