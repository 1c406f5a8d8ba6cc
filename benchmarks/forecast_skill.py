"""Forecast errors on real traces by lead time: raw, corrected, and climatology.

    python benchmarks/forecast_skill.py DATA [--from 2023-07-01] [--to 2023-12-28] [--zones DE FR ...]
        [--delay 0] [--plot week.png] [--json FILE]

DATA holds ``actual.parquet`` (region, time, g_per_kwh) and ``forecast.parquet`` (the same with issued_at).
Every few days, at hours spread over the day, each method says what it expects of the next eight days
from what was known then. The table gives the root mean square error [gCO2eq/kWh] by lead in hours, and its
multiple of that of *faded*, the rule of thumb to be beaten (see ``capture.py``); under it stands the same
relative to each zone's mean, so that clean grids count as much as dirty ones. *unlearned* is the correction
without a past issue.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from capture import faded

from lowcarb_scheduler import correct_forecast
from lowcarb_scheduler.backtest import SCENARIOS, History
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.forecasts.sources.traces import read_points

HOUR = timedelta(hours=1)
AHEAD = 192  # hours
LEADS = [(0, 1), (1, 3), (3, 6), (6, 24), (24, 48), (6, 48), (48, 72), (72, 96), (96, 192)]


def raw(known, now):
    """Return the forecast as issued, with hour-of-day means beyond its end."""
    return faded(known, now, now + AHEAD * HOUR, fading=0.0)


def fade(known, now):
    return faded(known, now, now + AHEAD * HOUR)


def corrected(known, now):
    return correct_forecast(known.forecast, known.history, now, now + AHEAD * HOUR, known.past_forecasts)


def unlearned(known, now):
    return correct_forecast(known.forecast, known.history, now, now + AHEAD * HOUR)


def climatology(known, now):
    nothing = known.forecast.align(()).align(known.forecast.locations)
    return correct_forecast(nothing, known.history, now, now + AHEAD * HOUR)


def persistence(known, now):
    """Return the last day repeated; an hour that is not known yet is taken from the day before."""
    past = known.history.sampled(np.arange(to_us(now) - 48 * HOUR_US, to_us(now) + 1, HOUR_US))
    day = np.where(np.isnan(past[24:]), past[:24], past[24:])
    return known.history.relaid(_hours(now), known.history.locations, day[np.arange(AHEAD) % 24])


METHODS = {
    "raw": raw, "faded": fade, "unlearned": unlearned, "corrected": corrected, "climatology": climatology,
    "persistence": persistence,
}  # fmt: skip


def _hours(now):
    return to_us(now) + HOUR_US * np.arange(AHEAD + 1)


def times(begin, end):
    """Return the times of evaluation: every three days, at hours spread over the day."""
    day, number = begin, 0
    while day + timedelta(days=1, hours=AHEAD) < end:
        for offset in (0, 12):
            yield day + ((7 * number) % 12 + offset) * HOUR
        day, number = day + timedelta(days=3), number + 1


def square_errors(history, begin, end):
    """Return squared errors by method; shape (times, hours ahead, L)."""
    errors = {name: [] for name in METHODS}
    for now in times(begin, end):
        known, truth = history.known(now), history.actual.sampled(_hours(now))
        for name, method in METHODS.items():
            errors[name].append((method(known, now).sampled(_hours(now)) - truth) ** 2)
    return {name: np.array(rows) for name, rows in errors.items()}


def print_table(errors, scale, title):
    print(f"\n{title}\n{'lead, h':14}" + "".join(f"{f'{low}-{high - 1}':>15}" for low, high in LEADS))
    roots = {
        name: [np.sqrt((rows[:, low:high] / scale**2).mean()) for low, high in LEADS]
        for name, rows in errors.items()
    }
    digits = 1 if np.all(scale == 1) else 3
    for name, row in roots.items():
        cells = [f"{f'{x:.{digits}f} ({x / f:.3f})':>15}" for x, f in zip(row, roots["faded"], strict=True)]
        print(f"{name:14}" + "".join(cells))
    return {name: [float(x) for x in row] for name, row in roots.items()}


def print_gain(errors):
    """Print how much the correction lowers the error against fading, with its standard error over times."""
    ratios, found = [], []
    for low, high in LEADS:
        ours, theirs = (errors[name][:, low:high].mean(axis=(1, 2)) for name in ("corrected", "faded"))
        ratio = np.sqrt(ours.mean() / theirs.mean())
        # Standard error of a ratio of means, by the delta method.
        spread = np.std(ours / ours.mean() - theirs / theirs.mean(), ddof=1) / np.sqrt(len(ours))
        found.append({"percent": float(100 * (ratio - 1)), "error": float(50 * ratio * spread)})
        ratios.append(f"{f'{100 * (ratio - 1):+.1f} ({100 * ratio * spread / 2:.1f}) %':>15}")
    print(f"{'gain (se)':14}" + "".join(ratios))
    return found


def draw(history, begin, path):
    """Draw a week of three zones: at each midnight's forecast, the day after, raw, corrected and actual."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.dates
    import matplotlib.pyplot as plt

    zones = [zone for zone in ("DE", "US-CAL-CISO", "FR") if zone in history.actual.locations]
    figure, axes = plt.subplots(len(zones), 1, figsize=(10, 2.4 * len(zones)), sharex=True, squeeze=False)
    column = history.actual.columns(zones)
    hours = to_us(begin) + HOUR_US * np.arange(7 * 24 + 1)
    when = np.array(hours[:-1], dtype="datetime64[us]")
    lines = {"actual": history.actual.sampled(hours)[:, column]}
    for name, method in (("forecast, 18-41 h ahead", raw), ("corrected", corrected)):
        parts = []
        for day in range(7):
            now = begin + timedelta(days=day) - 18 * HOUR
            parts.append(method(history.known(now), now).sampled(_hours(now))[18:42])
        lines[name] = np.concatenate(parts)[:, column]
    styles = {
        "actual": ("black", 1.6),
        "forecast, 18-41 h ahead": ("tab:red", 1.1),
        "corrected": ("tab:blue", 1.4),
    }
    for row, zone in enumerate(zones):
        axis = axes[row, 0]
        for name, values in lines.items():
            error = np.sqrt(((values - lines["actual"])[:, row] ** 2).mean())
            label = name if name == "actual" else f"{name} (root mean square error {error:.0f})"
            axis.plot(when, values[:, row], color=styles[name][0], linewidth=styles[name][1], label=label)
        axis.set_title(zone, loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].xaxis.set_major_formatter(mpl.dates.DateFormatter("%a %d %b"))
    figure.supylabel("average grid intensity [gCO2eq/kWh]", fontsize=9)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--from", dest="begin", default="2023-07-01")
    parser.add_argument("--to", dest="end", default="2023-12-28")
    parser.add_argument("--zones", nargs="+", default=list(SCENARIOS["large"].locations))
    parser.add_argument("--delay", type=float, default=0, help="hours until actual intensity is known")
    parser.add_argument("--plot", type=Path, help="draw the first whole week to this file")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    begin, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (options.begin, options.end))
    frames = read_points(options.data / "actual.parquet"), read_points(options.data / "forecast.parquet")
    history = History.from_frames(*frames, options.zones)
    history = History(history.actual, history.issues, options.delay * HOUR)
    errors = square_errors(history, begin, end)
    asked = len(errors["raw"])
    print(
        f"{options.begin} .. {options.end}, {len(options.zones)} zones, {asked} times,"
        f" actuals {options.delay:g} h late"
    )
    title = "root mean square error, gCO2eq/kWh (multiple of faded)"
    plain = print_table(errors, np.ones(len(options.zones)), title), print_gain(errors)
    mean = np.nanmean(history.actual.values, axis=0)
    scaled = {name: rows / mean**2 for name, rows in errors.items()}
    relative = print_table(errors, mean, "the same relative to each zone's mean"), print_gain(scaled)
    if options.json:
        document = {
            "from": options.begin,
            "to": options.end,
            "zones": options.zones,
            "times": asked,
            "leads": LEADS,
        }
        for name, (roots, gain) in (("g_per_kwh", plain), ("relative", relative)):
            document[name] = {"rmse": roots, "gain": gain}
        options.json.write_text(json.dumps(document), encoding="utf-8")
    if options.plot:
        draw(history, begin, options.plot)


if __name__ == "__main__":
    main()
