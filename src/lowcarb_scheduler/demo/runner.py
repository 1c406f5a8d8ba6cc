"""Demo: the embedded app in a real Flower simulation, once carbon-aware and once as plain FedAvg."""

from __future__ import annotations

import json
import shlex
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
from lowcarb_scheduler.accounting.replay import Record, RoundRecord, summarise
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.demo.federation import federation, stop, tail
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError, MissingExtraError, RunFailedError
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from rich.console import Console

    from lowcarb_scheduler.demo.federation import Federation

APP: Final = Path(__file__).parent / "app"
NODES: Final = 24
_MARKER: Final = ".lowcarb-demo"
_TIMEOUT_S: Final = 600.0
_REQUIRED: Final = ("ray", "sklearn", "matplotlib", "jinja2")


def run_demo(
    console: Console,
    run_dir: Path,
    federation: Callable[[Path, int], AbstractContextManager[Federation]] = federation,
) -> dict[str, Any]:
    """Run the demo and return its results, as the document that ``lowcarb demo --json`` prints.

    Parameters
    ----------
    console : Console
        Output for progress and the table.
    run_dir : Path
        Folder for ledger, report and logs. The results of an earlier demo in it are replaced.
    federation : callable (home, nodes)
        Runs a SuperLink, see :func:`~lowcarb_scheduler.demo.federation.federation`.

    Raises
    ------
    InputError
        If a setting in the environment is impossible: the simulation would end with it, in its log.
    MissingExtraError
        If Ray, scikit-learn, matplotlib or jinja2 is not installed.
    RunFailedError
        If Flower does not complete the run.
    """
    Settings.load()
    for package in _REQUIRED:
        if find_spec(package) is None:
            raise MissingExtraError(package, "demo")
    # Imported after the check: the report needs matplotlib and jinja2.
    from lowcarb_scheduler.report.about import About, write_about
    from lowcarb_scheduler.report.html import write_report

    run_dir = run_dir.absolute()  # a ServerApp runs in a folder of its own, where a relative path is another
    flower = run_dir / "flower"
    _prepare_folder(run_dir)
    console.print(f"A real Flower simulation: {NODES} sites in 12 grid zones, 20 rounds of 1 h in 40 h.")
    console.print("Its clock is virtual: it jumps through the holds. Intensities are SYNTHETIC.\n")
    plain_results, aware_results = flower / "plain.json", flower / "carbon-aware.json"
    with federation(flower, NODES) as local:
        config = {"lowcarb-run-dir": str(run_dir), "lowcarb-locations": str(APP / "locations.toml"),
                  "results-file": str(aware_results)}  # fmt: skip
        log = flower / "carbon-aware.log"
        with console.status("Flower is starting ..."):
            _complete(local.run(APP, config, log), log, _round_printer(console, run_dir))
        # ``flwr run`` also exits with 0 after a simulation that could not start.
        begun = (run_dir / FILE_NAME).exists()
        status = summarise(read_ledger(run_dir)).status if begun else "it did not begin"
        if status != "completed":
            raise RunFailedError(f"the simulation did not complete ({status})", tail(log), str(log))
        log = flower / "plain.log"
        with console.status("The same with plain FedAvg, for comparison ..."):
            plain = {"lowcarb-enabled": False, "results-file": str(plain_results)}
            _complete(local.run(APP, plain, log), log, lambda: None)
    record = Record.of(read_ledger(run_dir))
    first_plan = record.first_plan
    plain_accuracy = _accuracy(plain_results)
    # Kept beside the ledger, so that a report that is written again compares, too.
    about = About(compared_with="plain FedAvg", compared_metrics={"accuracy": plain_accuracy})
    write_about(about, run_dir)
    results = {
        "schema_version": SCHEMA_VERSION,
        **record.provenance.to_dict(),
        "rounds": len(record.rounds),
        "run_now_emissions_g": record.run_now_g,
        "first_plan_emissions_g": first_plan.emissions_g if first_plan else None,
        "first_plan_saving": first_plan.saving if first_plan else None,
        "planned_emissions_g": record.planned_g,
        "realised_emissions_g": record.realised_g,
        "saving": record.saving,
        "finish": record.finish,
        "finish_by": record.started.finish_by,
        "jain": record.jain,
        "min_turns": min(record.turns.values()),
        "max_turns": max(record.turns.values()),
        "accuracy": _accuracy(aware_results),
        "plain_accuracy": plain_accuracy,
        "run_dir": str(run_dir),
        "report": str(write_report(run_dir)),
    }
    console.print()
    console.print(_table(results, record, drawn=console.is_terminal))
    if record.unknown_because is not None:
        console.print(f"Emissions of other rounds are not known: {record.unknown_because}.")
    console.print("Accuracy is of one run each; plain FedAvg draws its clients anew, and reached 90 to 94 %.")
    console.print(f"Report: {results['report']}", soft_wrap=True)
    console.print(f"next: {shlex.join(['lowcarb', 'report', str(run_dir), '--open'])}", soft_wrap=True)
    return results


def _prepare_folder(run_dir: Path) -> None:
    """Create the folder of the demo, and empty it if an earlier demo created it.

    Raises
    ------
    InputError
        If it holds anything else, or cannot be written.
    """
    marker = run_dir / _MARKER  # without it nothing is ever removed
    try:
        if marker.exists():
            shutil.rmtree(run_dir)
        elif run_dir.exists() and any(run_dir.iterdir()):
            fix = "give an empty or new folder"
            raise InputError("--run-dir", f"{run_dir} holds files that are not of a demo", fix)
        run_dir.mkdir(parents=True, exist_ok=True)
        marker.write_text("lowcarb demo made this folder and may replace it\n", encoding="utf-8")
    except OSError as error:
        problem = f"{run_dir} cannot be written ({error.strerror})"
        raise InputError("--run-dir", problem, "give another folder") from None


def _complete(process: subprocess.Popen[bytes], log: Path, show_progress: Callable[[], None]) -> None:
    """Wait for the end of a run, and show its progress meanwhile."""
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise RunFailedError(f"Flower took longer than {_TIMEOUT_S:.0f} s", tail(log), str(log))
            show_progress()
            time.sleep(0.2)
    finally:
        stop(process)  # also after Ctrl-C: Ray would stay
    show_progress()  # rounds that closed after the last look
    if process.returncode:
        raise RunFailedError("flwr run failed", tail(log), str(log))


def _round_printer(console: Console, run_dir: Path) -> Callable[[], None]:
    """Return a function that prints a line for each round that closed since its last call."""
    printed = 0

    def show_progress() -> None:
        nonlocal printed
        try:
            record = Record.of(read_ledger(run_dir))
        except InputError:  # not there yet, or its first line is not: what is wrong in the end is said then
            return
        closed = record.rounds
        for worked in closed[printed:]:
            console.print(_round_line(worked, record.started.rounds), soft_wrap=True)
        printed = len(closed)

    return show_progress


def _round_line(worked: RoundRecord, rounds: int) -> str:
    held, mean = worked.opened.held, worked.opened.mean_g_per_kwh
    hold = f"held {format_duration(held):>6}" if held >= timedelta(seconds=1) else "not held   "
    places = Counter(member.location or UNKNOWN_PLACE for member in worked.members)
    intensity = "  ? g/kWh" if mean is None else f"{mean:3.0f} g/kWh"
    return (
        f"round {worked.number:2}/{rounds}  {hold}  {worked.opens_at:%a %H:%M}-{worked.closes_at:%H:%M}"
        f"  {intensity}  {worked.end.nodes_done} nodes:"
        f" {', '.join(f'{place} {n}' for place, n in places.most_common())}"
    )


def _accuracy(results: Path) -> float:
    by_round = json.loads(results.read_text(encoding="utf-8"))["accuracy"]
    return float(by_round[max(by_round, key=int)])


def _table(results: Mapping[str, Any], record: Record, drawn: bool) -> Table:
    title = "20 rounds, 24 sites; synthetic intensities, power x time"
    # In a pipe or a file the lines of a box are noise.
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if drawn else None)
    table.add_column("")
    for name in ("gCO2eq", "saving", "accuracy"):
        table.add_column(name, justify="right")
    run_now, planned = results["run_now_emissions_g"], results["planned_emissions_g"]
    first = results["first_plan_emissions_g"], results["first_plan_saving"]
    known_saving, known = record.known_saving
    of = "" if known == len(record.rounds) else f", saving of {known} of {len(record.rounds)} rounds"
    rows = (
        ("run-now: plain FedAvg, back-to-back (expectation)", run_now, None, results["plain_accuracy"]),
        ("plan, as made at the start", *first, None),
        ("plan, as it stood when each round opened", planned, saving(planned, run_now), None),
        (f"realised{of}", results["realised_emissions_g"], known_saving, results["accuracy"]),
    )
    for name, grams, avoided, accuracy in rows:
        fractions = ("" if value is None else f"{value:.1%}" for value in (avoided, accuracy))
        table.add_row(name, "unknown" if grams is None else f"{grams:,.0f}", *fractions)
    return table
