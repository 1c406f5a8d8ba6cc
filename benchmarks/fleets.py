"""Saving against the deadline for five kinds of fleet, on real traces: numbers and a picture.

    python benchmarks/fleets.py DATA [--seeds 20] [--deadlines 1 1.5 2 3 4]
        [--from 2023-07-01] [--to 2023-12-28] [--jobs 2] [--json FILE] [--plot FILE]

DATA holds ``actual.parquet`` (region, time, g_per_kwh) and ``forecast.parquet`` (the same with issued_at).
All fleets do the same work: 20 rounds of an hour, 10 of 40 clients in each, equal turns, 1 kWh a turn. They
differ only in where their clients are.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from lowcarb_scheduler.backtest import History, Scenario, compare
from lowcarb_scheduler.forecasts.sources.traces import read_points
from lowcarb_scheduler.report import style

HOUR = timedelta(hours=1)
FLEETS = {
    "France alone": ("FR",),
    "Germany alone": ("DE",),
    "eight countries of Europe": ("DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE"),
    "six grids of the USA": (
        "US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "US-NY-NYIS", "US-MIDW-MISO", "US-NW-PACE",
    ),
    "twelve grids around the world": (
        "DE", "FR", "GB", "PL", "US-CAL-CISO", "US-TEX-ERCO", "US-NY-NYIS", "BR-CS", "CL-SEN",
        "ZA", "KR", "AU-NSW",
    ),
}  # fmt: skip
COLOURS = ("#5c655e", "#e06c00", "#0b4f8a", "#7a4fa3", "#1b7f4d")


def scenario_of(name: str) -> Scenario:
    """Return the job of a fleet."""
    return Scenario(name, FLEETS[name], 40, 10, 20, HOUR)


def measure(data: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return the saving of each fleet by deadline."""
    actual, forecast = (read_points(data / f"{name}.parquet") for name in ("actual", "forecast"))
    period = options.begin, options.end
    rows: list[dict[str, object]] = []
    for name, places in FLEETS.items():
        history = History.from_frames(actual, forecast, places, signal="average").between(*period)
        found = compare(
            history,
            scenario_of(name),
            options.deadlines,
            options.seeds,
            period,
            ("scheduler",),
            jobs=options.jobs,
        )
        for factor, scores in found.scores.items():
            by_method = {score.method: score for score in scores}
            ours, bound = by_method["scheduler"], by_method["bound"]
            half = float(stdtrit(options.seeds - 1, 0.975)) * (ours.reduction_se or 0.0)
            rows.append({
                "fleet": name, "deadline": factor, "saving": ours.reduction, "half_interval": half,
                "bound": bound.reduction, "run_now_g": by_method["run-now"].emissions_g,
            })  # fmt: skip
            shown = f"{100 * ours.reduction:5.1f} % +- {100 * half:.1f}"
            print(f"{name:35} {factor:4g}x {shown}", flush=True)
    return rows


def picture(found: dict[str, object], file: Path) -> None:
    """Draw a line a fleet, with the 95 % interval of its mean."""
    with style.theme():
        figure = style.new_figure(4.2, 8.5)
        axes = figure.subplots()
        ends = []
        for name, colour in zip(FLEETS, COLOURS, strict=True):
            rows = [row for row in found["rows"] if row["fleet"] == name]
            factors, saving, half = (
                np.array([row[key] for row in rows]) for key in ("deadline", "saving", "half_interval")
            )
            # Next to each other, so that all intervals can be seen.
            beside = factors + 0.025 * (list(FLEETS).index(name) - 2)
            axes.errorbar(
                beside, 100 * saving, 100 * half, color=colour, marker="o", markersize=4, linewidth=2,
                elinewidth=1, capsize=2.5,
            )  # fmt: skip
            ends.append((100 * float(saving[-1]), name, colour, float(factors[-1])))
        low, room = -np.inf, 0.055 * (axes.get_ylim()[1] - axes.get_ylim()[0])
        for height, name, colour, last in sorted(ends):  # names of lines with a similar end are moved apart
            low = max(height, low + room)
            axes.annotate(
                f"  {name}",
                (last + 0.1, low),
                va="center",
                color=colour,
                fontweight="bold",
                annotation_clip=False,
            )
        axes.set_xlim(0.9, last + 1.3)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xticks(found["deadlines"], labels=[f"{factor:g}x" for factor in found["deadlines"]])
        axes.set_xlabel("deadline, in times that all rounds take back-to-back")
        axes.set_ylabel("less CO2eq than random clients back-to-back [%]")
        style.clean(axes)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--deadlines", type=float, nargs="+", default=[1, 1.5, 2, 3, 4])
    parser.add_argument("--from", dest="begin", type=_day, default=_day("2023-07-01"))
    parser.add_argument("--to", dest="end", type=_day, default=_day("2023-12-28"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--plot", type=Path, help="also draw them to this file")
    options = parser.parse_args()
    job = scenario_of(next(iter(FLEETS)))
    found: dict[str, object] = {
        "from": options.begin.isoformat(), "to": options.end.isoformat(), "seeds": options.seeds,
        "deadlines": options.deadlines, "clients": job.clients, "clients_per_round": job.clients_per_round,
        "rounds": job.rounds, "round_hours": job.round_duration / HOUR, "fleets": FLEETS,
        "rows": measure(options.data, options),
    }  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n", encoding="utf-8")
    if options.plot is not None:
        picture(found, options.plot)


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
