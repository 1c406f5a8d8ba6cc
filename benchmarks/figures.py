"""Make the figures of README and docs: numbers in docs/figures, and from them the tables on the pages.

    python benchmarks/figures.py [DATA] [--only NAME ...] [--tables] [--check]

``docs/figures/NAME.json`` holds the result of a command, with the command and the data it is based on. Tables
on pages stand between ``<!-- figures: NAME -->`` and ``<!-- end -->`` and are written from these files;
``--tables`` does only that, ``--check`` lists the pages that differ.

Figures on synthetic intensities or durations need no data. Those on real traces need DATA, a folder with
``actual.parquet`` (region, time, g_per_kwh) and ``forecast.parquet`` (the same with issued_at), and are left
unchanged without it. The published ones use hourly actuals of 2022 and 2023 from Electricity Maps' Data
Portal (ODbL; one download per zone and year, which ``lowcarb archive import`` reads), and one 96-hour
forecast a day by a time-series model without weather data (nesl/CarbonX on GitHub, BSD-3-Clause, commit
47723d3).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
REAL = "real traces"
SYNTHETIC = "synthetic intensities, real data sets"
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class Figure(NamedTuple):
    """Figure: a file of numbers, the data it is based on, and the command that writes it."""

    name: str
    rests_on: str
    command: Callable[[Path | None, Path], list[str]]
    to_stdout: bool = False


def _backtest(data: Path | None, out: Path) -> list[str]:
    return _replay(data, "main", "20", "1,2,4,8")


def _backtest_small(data: Path | None, out: Path) -> list[str]:
    return _replay(data, "small", "20", "1,2,4")


def _backtest_large(data: Path | None, out: Path) -> list[str]:
    return _replay(data, "large", "6", "1,2,4")


def _replay(data: Path | None, scenario: str, seeds: str, deadlines: str) -> list[str]:
    return [
        str(Path(sys.executable).parent / "lowcarb"), "backtest", "--actual", f"{data}/actual.parquet",
        "--forecast", f"{data}/forecast.parquet", "--signal", "average", "--scenario", scenario,
        "--seeds", seeds, "--deadlines", deadlines, "--from", "2023-07-01", "--to", "2023-12-28", "--json",
    ]  # fmt: skip


def _skill(data: Path | None, out: Path) -> list[str]:
    week = ROOT / "docs" / "explanation" / "forecast-week.png"
    return [*_benchmark("forecast_skill"), str(data), "--json", str(out), "--plot", str(week)]


def _capture(data: Path | None, out: Path) -> list[str]:
    return [*_benchmark("capture"), str(data), "--methods", "scheduler", "fading", "--json", str(out)]


def _fleets(data: Path | None, out: Path) -> list[str]:
    return [*_benchmark("fleets"), str(data), "--json", str(out), "--plot", str(out.with_suffix(".png"))]


def _coverage(data: Path | None, out: Path) -> list[str]:
    return [*_benchmark("deadline_coverage"), "--runs", "500", "--through-flower", "0", "--json", str(out)]


def _accuracy(data: Path | None, out: Path) -> list[str]:
    return [*_study(out), "--plot", str(out.with_suffix(".png"))]


def _accuracy_settings(data: Path | None, out: Path) -> list[str]:
    return [*_study(out), "--settings", "others"]


def _accuracy_adaptive(data: Path | None, out: Path) -> list[str]:
    return _server(out, "adaptive")


def _accuracy_yogi(data: Path | None, out: Path) -> list[str]:
    return _server(out, "yogi")


def _accuracy_momentum(data: Path | None, out: Path) -> list[str]:
    return _server(out, "momentum")


def _server(out: Path, name: str) -> list[str]:
    return [*_study(out), "--schedules", name, "--tasks", "softmax", "network"]


def _accuracy_real(data: Path | None, out: Path) -> list[str]:
    schedules = ("plain", "again", "plain-corrected", "foreseen-equal", "foreseen-differ")
    return [*_study(out), *_traces(data), "--schedules", *schedules]


def _accuracy_real_runs(data: Path | None, out: Path) -> list[str]:
    return [*_study(out), *_traces(data), "--quick"]


def _traces(data: Path | None) -> list[str]:
    return [
        "--actual", f"{data}/actual.parquet", "--forecast", f"{data}/forecast.parquet",
        "--from", "2023-07-01T00:00Z", "--to", "2023-12-28T00:00Z",
    ]  # fmt: skip


def _study(out: Path) -> list[str]:
    kept = ROOT / "runs" / out.stem  # finished runs: a study that was ended goes on with --resume
    script = ROOT / "examples" / "accuracy" / "run.py"
    return [sys.executable, str(script), "--out", str(kept), "--json", str(out)]


def _benchmark(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]


ALL = (
    Figure("accuracy", SYNTHETIC, _accuracy),
    Figure("accuracy-settings", SYNTHETIC, _accuracy_settings),
    Figure("accuracy-adaptive", SYNTHETIC, _accuracy_adaptive),
    Figure("accuracy-yogi", SYNTHETIC, _accuracy_yogi),
    Figure("accuracy-momentum", SYNTHETIC, _accuracy_momentum),
    Figure("accuracy-real", REAL, _accuracy_real),
    Figure("accuracy-real-runs", REAL, _accuracy_real_runs),
    Figure("deadline-coverage", "made-up durations", _coverage),
    Figure("backtest", REAL, _backtest, to_stdout=True),
    Figure("backtest-small", REAL, _backtest_small, to_stdout=True),
    Figure("backtest-large", REAL, _backtest_large, to_stdout=True),
    Figure("forecast-skill", REAL, _skill),
    Figure("capture", REAL, _capture),
    Figure("fleets", REAL, _fleets),
)


def make(figure: Figure, data: Path | None) -> None:
    """Run the command of a figure; its file records the command and the data it is based on."""
    out = FIGURES / f"{figure.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = figure.command(data, out)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if figure.to_stdout else None)
    found = json.loads(done.stdout if figure.to_stdout else out.read_text(encoding="utf-8"))
    shown = _shown(command, data)
    document = {"figure": figure.name, "rests_on": figure.rests_on, "command": shown, **found}
    out.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _shown(command: list[str], data: Path | None) -> str:
    """Return a command as a reader would type it, without folders of this machine."""
    words = []
    for part in command:
        if data is not None and part.startswith(str(data)):
            words.append(f"DATA{part.removeprefix(str(data))}")
        elif part == sys.executable:
            words.append("python")
        else:
            words.append(part.removeprefix(f"{ROOT}/") if part.startswith(str(ROOT)) else part)
    words[0] = Path(words[0]).name
    return " ".join(words)


# -- Tables -------------------------------------------------------------------------------------------------


def read(name: str) -> dict[str, Any]:
    """Return the numbers of a figure."""
    found: dict[str, Any] = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _savings(columns: dict[str, str]) -> str:
    """Return reductions by deadline."""
    found = read("backtest")
    lines = [
        f"| deadline, in back-to-back times; {found['seeds']} starts each | "
        + " | ".join(columns.values())
        + " |"
    ]
    lines.append("|---" * (len(columns) + 1) + "|")
    for entry in found["deadlines"]:
        by_method = {score["method"]: score for score in entry["methods"]}
        factor = entry["deadline"]
        name = "1 (no waiting, only choice of clients)" if factor == 1 else f"{factor:g}"
        cells = [f"{100 * by_method[method]['reduction']:.1f}" for method in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _readme() -> str:
    return _savings(
        {
            "flwr-lowcarb-2022": "flwr-lowcarb, 2022",
            "one-shot": "planned once",
            "scheduler": "replanned every 6 h",
            "perfect": "with perfect information",
        }
    )


def _limits() -> str:
    return _savings({"scheduler": "saves, %", "perfect": "with perfect information, %"})


def _methods(name: str) -> str:
    """Return a backtest by method: reduction (standard error), capture and difference to the scheduler."""
    found = read(name)
    entries, setting = found["deadlines"], found["setting"]
    heads = [f"{entry['deadline']:g}x: %, capture" for entry in entries]
    heads += [f"{entry['deadline']:g}x: less scheduler" for entry in entries]
    lines = [
        f"{setting['clients']} clients at {len(setting['locations'])} locations,"
        f" {setting['rounds']} rounds of {setting['clients_per_round']},"
        f" {setting['round_duration_minutes'] / 60:g} h each;"
        f" {found['seeds']} starts by deadline, {found['from'][:10]} to {found['to'][:10]}:", "",
        "| method | " + " | ".join([*heads, "turns", "plan, CPU s"]) + " |", "|---" * (len(heads) + 3) + "|",
    ]  # fmt: skip
    for scores in zip(*(entry["methods"] for entry in entries), strict=True):
        cells = [f"{_points(each, 'reduction')}, {round(each['capture'], 2) + 0.0:.2f}" for each in scores]
        cells += [
            "" if each["method"] == "scheduler" else _points(each, "difference", "+") for each in scores
        ]
        turns = sorted({each[key] for each in scores for key in ("min_turns", "max_turns")} - {None})
        seconds = ", ".join(f"{each['plan_seconds']:.1f}" for each in scores)
        cells += [" to ".join(str(turn) for turn in turns), seconds]
        lines.append(f"| {scores[0]['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _points(score: dict[str, Any], key: str, sign: str = "") -> str:
    """Return a part in percentage points, with its standard error if that is more than rounding."""
    shown, error = f"{round(100 * score[key], 1) + 0.0:{sign}.1f}", score[f"{key}_se"]
    return f"{shown} ({100 * error:.1f})" if error and error > 1e-9 else shown


def _evidence() -> Any:
    sys.path.insert(0, str(ROOT / "examples" / "accuracy"))
    from accuracy_study import evidence

    return evidence


def _skill_table() -> str:
    found = read("forecast-skill")
    leads = [f"{low} h" if high == low + 1 else f"{low}-{high - 1} h" for low, high in found["leads"]]
    names = {
        "raw": "raw",
        "faded": "faded",
        "unlearned": "corrected, no past issues",
        "corrected": "**corrected**",
        "climatology": "climatology alone",
        "persistence": "persistence",
    }
    rmse = found["g_per_kwh"]["rmse"]
    lines = ["| | " + " | ".join(leads) + " |", "|---" * (len(leads) + 1) + "|"]
    for method, name in names.items():
        cells = [
            f"{own:.1f}" + ("" if method == "faded" else f" ({own / faded:.2f})")
            for own, faded in zip(rmse[method], rmse["faded"], strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _capture_table() -> str:
    found = read("capture")
    about = {"main": "main: 100 clients, 16 zones", "small": "small: 20 clients, 8 zones",
             "large": "large: 400 clients, 24 zones"}  # fmt: skip
    lines = [
        "| scenario | deadline | corrected: saving, capture | faded: saving, capture"
        " | paired difference (standard error) |",
        "|---|---|---|---|---|",
    ]
    by_case: dict[tuple[str, float], dict[str, Any]] = {}
    for row in found["rows"]:
        by_case.setdefault((row["scenario"], row["deadline"]), {})[row["method"]] = row
    for (scenario, deadline), methods in by_case.items():
        own, faded = methods["scheduler"], methods["fading"]
        cells = [f"{each['saving']:.1f}, {each['capture']:.3f}" for each in (own, faded)]
        lines.append(
            f"| {about[scenario]} | {deadline:g}x | {cells[0]} | {cells[1]} |"
            f" {own['gain']:+.1f} ({own['gain_se']:.1f}) |"
        )
    return "\n".join(lines)


def _fleets_table() -> str:
    """Return savings by kind of fleet and deadline, with half of their 95 % interval."""
    found = read("fleets")
    lines = [
        "| fleet | " + " | ".join(f"{factor:g}x" for factor in found["deadlines"]) + " |",
        "|---" * (len(found["deadlines"]) + 1) + "|",
    ]
    for name, places in found["fleets"].items():
        cells = [
            f"{round(100 * row['saving'], 1) + 0.0:.0f}\xa0±\xa0{100 * row['half_interval']:.0f}"
            for row in found["rows"]
            if row["fleet"] == name
        ]
        lines.append(f"| {name} ({', '.join(places)}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _coverage_table(earlier: int) -> str:
    """Return rates of late runs, and parts of the slack waited, for runs with so many earlier runs."""
    rows = [row for row in read("deadline-coverage")["rows"] if row["earlier_runs"] == earlier]
    rounds = sorted({row["rounds"] for row in rows})
    heads = [f"{number} rounds: {what}" for what in ("late", "slack used") for number in rounds]
    lines = ["| durations | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for law, name in _LAWS.items():
        cells = []
        for key in ("late", "used"):
            for number in rounds:
                of = [row for row in rows if (row["durations"], row["rounds"]) == (law, number)]
                shown = [
                    f"{100 * row['late'] / row['runs']:.1f}" if key == "late" else f"{100 * row['used']:.0f}"
                    for row in of
                ]
                cells.append(", ".join(shown) + " %" if of else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_LAWS = {
    "lognormal .1": "lognormal, sigma 0.1",
    "lognormal .1, short": "the same, timeout of ten rounds",
    "lognormal .3": "lognormal, sigma 0.3",
    "Pareto 2.5": "Pareto, exponent 2.5",
    "5 % take 5 x": "5 % take five times as long",
    "1 % take 8 x": "1 % until the timeout, eight rounds",
    "1 % take 12 x": "1 % until the timeout, twelve rounds",
    "5 % take 8 x": "5 % until the timeout, eight rounds",
    "5 % take 12 x": "5 % until the timeout, twelve rounds",
    "drop-outs": "drop-outs, timeout of ten rounds",
    "AR(0.9)": "correlated: AR(0.9), sigma 0.3",
    "doubles once": "double once, half-way (not stationary)",
    "2 % take 8 x, in clusters": "2 % until the timeout, eight rounds, half of them with two more",
    "5 % take 12 x, in clusters": "5 % until the timeout, twelve rounds, half of them with two more",
}


TABLES: dict[str, Callable[[], str]] = {
    "savings": _readme,
    "savings-limits": _limits,
    "methods-main": lambda: _methods("backtest"),
    "methods-small": lambda: _methods("backtest-small"),
    "methods-large": lambda: _methods("backtest-large"),
    "accuracy": lambda: _evidence().table(read("accuracy")),
    "accuracy-corrected": lambda: _evidence().table(read("accuracy"), base="plain-corrected"),
    "accuracy-short": lambda: _evidence().short_table(read("accuracy")),
    "accuracy-settings": lambda: _evidence().settings_table([read("accuracy"), read("accuracy-settings")]),
    "accuracy-adaptive": lambda: _evidence().table(read("accuracy-adaptive"), base="adam"),
    "accuracy-yogi": lambda: _evidence().table(read("accuracy-yogi"), base="yogi"),
    "accuracy-momentum": lambda: _evidence().table(read("accuracy-momentum"), base="fedavgm"),
    "accuracy-real": lambda: _evidence().table(read("accuracy-real")),
    "accuracy-real-runs": lambda: _evidence().table(read("accuracy-real-runs")),
    "forecast-skill": _skill_table,
    "capture": _capture_table,
    "fleets": _fleets_table,
    "deadline-coverage": lambda: _coverage_table(earlier=0),
    "deadline-learned": lambda: _coverage_table(earlier=30),
}


def pages() -> list[Path]:
    """Return the pages that can contain tables."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/**/*.md"))]


def rewritten(text: str) -> str:
    """Return a page with its tables written anew from the numbers."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]]()}\n{match[4]}"

    return BLOCK.sub(table, text)


def main() -> None:
    """Make the figures whose data are given, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with trace files")
    parser.add_argument("--only", nargs="+", choices=[figure.name for figure in ALL])
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--check", action="store_true", help="only list the pages that differ")
    options = parser.parse_args()
    for figure in () if options.tables or options.check else ALL:
        if options.only and figure.name not in options.only:
            continue
        if figure.rests_on == REAL and options.data is None:
            print(f"{figure.name}: skipped, it rests on real traces: make figures DATA=folder")
            continue
        print(f"{figure.name}: {figure.rests_on} ...", flush=True)
        make(figure, options.data)
    differ = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            differ.append(str(page.relative_to(ROOT)))
            if not options.check:
                page.write_text(new, encoding="utf-8")
    if differ:
        print("differs:" if options.check else "written:", ", ".join(differ))
    sys.exit(1 if options.check and differ else 0)


if __name__ == "__main__":
    main()
