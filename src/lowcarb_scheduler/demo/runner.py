"""The demo: the embedded app once carbon-aware and once plain, both in a real Flower simulation."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.box import HEAVY_HEAD
from rich.table import Table

from lowcarb_scheduler.accounting.emissions import saving
from lowcarb_scheduler.clock import format_duration, parse_time
from lowcarb_scheduler.demo.federation import federation, stop, tail
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError, MissingExtraError, RunFailedError
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger, summarise

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from rich.console import Console

    from lowcarb_scheduler.ledger import RunSummary

APP: Final = Path(__file__).parent / "app"
NODES: Final = 24
_MARKER: Final = ".lowcarb-demo"
_TIMEOUT_S: Final = 600.0
_NEEDS: Final = {"ray": "demo", "sklearn": "demo", "matplotlib": "demo", "jinja2": "demo"}


def run_demo(console: Console, run_dir: Path) -> dict[str, Any]:
    """Run the demo and return what it found, as the document that ``lowcarb demo --json`` prints.

    Parameters
    ----------
    console : Console
        Where progress and the table go.
    run_dir : Path
        Folder for ledger, report and logs. What a demo has left there is replaced.

    Raises
    ------
    MissingExtraError
        If Ray, scikit-learn, matplotlib or jinja2 is not installed.
    RunFailedError
        If Flower does not complete the run.
    """
    for package, extra in _NEEDS.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)
    from lowcarb_scheduler.accounting.replay import provenance_of
    from lowcarb_scheduler.report.html import write_report

    run_dir = run_dir.absolute()
    flower = run_dir / "flower"
    _make_room(run_dir)
    console.print(f"A real Flower simulation: {NODES} sites in 12 grid zones, 20 rounds of 1 h in 40 h.")
    console.print("Its clock is virtual: it jumps through the holds. Intensities are SYNTHETIC.\n")
    plain_results, aware_results = flower / "plain.json", flower / "carbon-aware.json"
    with federation(flower, NODES) as local:
        config = {"lowcarb-run-dir": str(run_dir), "lowcarb-locations": str(APP / "locations.toml"),
                  "results-file": str(aware_results)}  # fmt: skip
        log = flower / "carbon-aware.log"
        follow = _follow(console, run_dir)
        with console.status("Flower is starting ..."):
            _complete(local.run(APP, config, log), log, follow)
        _check_completed(run_dir, log)
        log = flower / "plain.log"
        with console.status("The same with plain FedAvg, for comparison ..."):
            plain = {"lowcarb-enabled": False, "results-file": str(plain_results)}
            _complete(local.run(APP, plain, log), log, lambda: None)
    events = read_ledger(run_dir)
    found = {
        "schema_version": SCHEMA_VERSION,
        **provenance_of(events).to_dict(),
        **_figures(summarise(events)),
        "accuracy": _accuracy(aware_results),
        "plain_accuracy": _accuracy(plain_results),
        "run_dir": str(run_dir),
    }
    found["report"] = str(write_report(run_dir))
    console.print()
    console.print(_table(found, drawn=console.is_terminal))
    console.print("Accuracy is of one run each; plain FedAvg draws its clients anew, and reached 90 to 94 %.")
    console.print(f"Report: {found['report']}", soft_wrap=True)
    return found


def _make_room(run_dir: Path) -> None:
    """Make the folder; what an earlier demo left there is replaced, anything else is never touched.

    Raises
    ------
    InputError
        If it holds something else, or cannot be made.
    """
    marker = run_dir / _MARKER
    try:
        if marker.exists():
            shutil.rmtree(run_dir)
        elif run_dir.exists() and any(run_dir.iterdir()):
            fix = "give a folder that is empty or not there"
            raise InputError("--run-dir", f"{run_dir} holds something that is not a demo's", fix)
        run_dir.mkdir(parents=True, exist_ok=True)
        marker.write_text("lowcarb demo made this folder and may replace it\n", encoding="utf-8")
    except OSError as error:
        fix = "give another folder"
        raise InputError("--run-dir", f"{run_dir} cannot be written ({error.strerror})", fix) from None


def _complete(process: subprocess.Popen[bytes], log: Path, look: Callable[[], None]) -> None:
    """Wait for a run, looking at its ledger now and then."""
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise RunFailedError(f"Flower took longer than {_TIMEOUT_S:.0f} s", tail(log), str(log))
            look()
            time.sleep(0.2)
    finally:
        stop(process)
    look()
    if process.returncode:
        raise RunFailedError("flwr run failed", tail(log), str(log))


def _check_completed(run_dir: Path, log: Path) -> None:
    """Refuse a run that broke off: ``flwr run`` says nothing of a simulation that could not start."""
    status = summarise(read_ledger(run_dir)).status
    if status != "completed":
        raise RunFailedError(f"the simulation did not complete ({status})", tail(log), str(log))


def _follow(console: Console, run_dir: Path) -> Callable[[], None]:
    """Return a function that prints a line for each round the ledger has closed since it was last called."""
    lines = _progress(run_dir)

    def look() -> None:
        for line in lines:
            if line is None:
                return
            console.print(line, soft_wrap=True)

    return look


def _progress(run_dir: Path) -> Iterator[str | None]:
    """Yield a line a closed round, None whenever there is none to tell yet."""
    path = run_dir / FILE_NAME
    while not path.exists():
        yield None
    opened: dict[str, Any] = {}
    started: dict[str, Any] = {}
    with path.open(encoding="utf-8") as ledger:
        line = ""
        while True:
            line += ledger.readline()
            if not line.endswith("\n"):
                yield None
                continue
            event, line = json.loads(line), ""
            if event["event"] == "run_started":
                started = event
            elif event["event"] == "round_opened":
                opened = event
            elif event["event"] == "round_closed":
                yield _round_line(started, opened, event)


def _round_line(started: dict[str, Any], opened: dict[str, Any], closed: dict[str, Any]) -> str:
    held = timedelta(seconds=opened["held_s"])
    hold = f"held {format_duration(held):>6}" if held else "not held   "
    opens, closes = (parse_time(closed[name], name) for name in ("opens_at", "closes_at"))
    places = Counter(node["location"] for node in opened["nodes"])
    mean = opened["mean_g_per_kwh"]
    intensity = "  ? g/kWh" if mean is None else f"{mean:3.0f} g/kWh"
    return (
        f"round {closed['round']:2}/{started['rounds']}  {hold}  {_day(opens)}-{closes:%H:%M}  {intensity}"
        f"  {closed['nodes_done']} nodes: {', '.join(f'{place} {n}' for place, n in places.most_common())}"
    )


def _day(when: datetime) -> str:
    return f"{when:%a %H:%M}"


def _accuracy(results: Path) -> float:
    by_round = json.loads(results.read_text(encoding="utf-8"))["accuracy"]
    last: float = by_round[max(by_round, key=int)]
    return last


def _figures(summary: RunSummary) -> dict[str, Any]:
    first = summary.first_plan or {}
    return {
        "rounds": len(summary.rounds),
        "run_now_emissions_g": summary.run_now_g,
        "first_plan_emissions_g": first.get("emissions_g"),
        "first_plan_saving": first.get("saving"),
        "planned_emissions_g": summary.planned_g,
        "realised_emissions_g": summary.realised_g,
        "saving": summary.saving,
        "finish": summary.finish,
        "finish_by": summary.started["finish_by"],
        "jain": summary.jain,
        "min_turns": min(summary.turns.values()),
        "max_turns": max(summary.turns.values()),
    }


def _table(found: dict[str, Any], drawn: bool) -> Table:
    title = "20 rounds, 24 sites; synthetic intensities, power x time"
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if drawn else None)
    table.add_column("")
    for name in ("gCO2eq", "saving", "accuracy"):
        table.add_column(name, justify="right")
    run_now, planned = found["run_now_emissions_g"], found["planned_emissions_g"]
    planned_saving = saving(planned, run_now)
    rows = (
        ("run-now: plain FedAvg, back-to-back (expectation)", run_now, None, found["plain_accuracy"]),
        ("plan, as made at the start", found["first_plan_emissions_g"], found["first_plan_saving"], None),
        ("plan, as it stood when each round opened", planned, planned_saving, None),
        ("realised", found["realised_emissions_g"], found["saving"], found["accuracy"]),
    )
    for name, grams, avoided, accuracy in rows:
        table.add_row(
            name,
            "unknown" if grams is None else f"{grams:,.0f}",
            "" if avoided is None else f"{avoided:.1%}",
            "" if accuracy is None else f"{accuracy:.1%}",
        )
    return table
