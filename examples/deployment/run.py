"""Deployment on this machine: real SuperNodes wait for clean electricity, checked by the ledger.

    python examples/deployment/run.py [RUN_DIR]

Starts a SuperLink and three SuperNodes on loopback, each told where it is and what it draws; writes a trace
file in which electricity becomes clean within a minute; runs the app of ``examples/quickstart-numpy`` on
them, in real time; and reads the ledger. Everything it has started is gone afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.demo.federation import (
    LINK,
    await_health,
    ended_by_signals,
    environment,
    free_port,
    script,
    start,
    stop,
    tail,
    write_connection,
)
from lowcarb_scheduler.events import RoundOpened
from lowcarb_scheduler.ledger import read_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APP = Path(__file__).parent.parent / "quickstart-numpy"
SITES = (("hospital-a", "north", 250.0), ("hospital-b", "north", 300.0), ("hospital-c", "south", 200.0))
MINUTE = timedelta(minutes=1)
CLEAN, DIRTY = 50.0, 600.0  # g CO2eq/kWh
TIMEOUT_S = 300


class Deployment:
    """Running SuperLink with its SuperNodes; see :func:`deployment`."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self._port = home, port
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def join(self, name: str, location: str, watts: float) -> None:
        """Start a SuperNode that reports its location and power."""
        config = {"name": name, "location": location, "power-watts": watts, "partition-id": len(self.nodes)}
        command = [
            script("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self._port}",
            "--port", str(free_port()), "--node-config", _toml(config),
        ]  # fmt: skip
        self.nodes[name] = start(command, self.home, self.home / f"{name}.log")

    def run(self, run_config: Mapping[str, object], log: str = "run.log") -> subprocess.Popen[bytes]:
        """Start ``flwr run``; its output goes to a file, and the process ends with the run."""
        command = [script("flwr"), "run", str(APP), LINK, "--stream", "--run-config", _toml(run_config)]
        return start(command, self.home, self.home / log)

    def stop(self, run_id: str) -> None:
        """Ask the SuperLink to stop a run, as ``flwr stop`` does."""
        command = [script("flwr"), "stop", run_id, LINK]
        subprocess.run(command, env=environment(self.home), check=True, capture_output=True, timeout=60)


@contextmanager
def deployment(home: Path) -> Iterator[Deployment]:
    """Run a SuperLink for as long as the context lasts, and end all SuperNodes with it."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    write_connection(home, port)
    command = [
        script("flower-superlink"), "--insecure", "--disable-runtime-dependency-installation",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    log = home / "superlink.log"
    superlink, running = start(command, home, log), Deployment(home, port)
    with ended_by_signals():
        try:
            await_health(superlink, port, log)
            yield running
        finally:
            for process in (*running.nodes.values(), superlink):
                stop(process)


def write_trace(path: Path, clean_at: datetime) -> None:
    """Write a trace in steps of a minute, with two clean minutes from a given time."""
    lines = ["location,time,g_per_kwh"]
    for place in sorted({place for _, place, _ in SITES}):
        for minute in range(-40, 60):
            grams = CLEAN if minute in (0, 1) else DIRTY
            lines.append(f"{place},{format_time(clean_at + minute * MINUTE)},{grams}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings(run_dir: Path, traces: Path, **changes: object) -> dict[str, object]:
    """Return the run-config of a run in real time."""
    given = {
        "num-server-rounds": 2,
        "lowcarb-clock": "system",
        "lowcarb-source": "traces",
        "lowcarb-traces": str(traces),
        "lowcarb-round-duration": "20s",
        "lowcarb-finish-by": "15m",
        "lowcarb-clients-per-round": 2,
        "lowcarb-run-dir": str(run_dir),
    }
    return {**given, **{key.replace("_", "-"): value for key, value in changes.items()}}


def _toml(values: Mapping[str, object]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def main(run_dir: Path) -> int:
    """Run the app, print the ledger, and return 0 if all rounds opened in the clean minutes."""
    run_dir = run_dir.absolute()
    with deployment(run_dir / "flower") as running:
        for name, location, watts in SITES:
            running.join(name, location, watts)
        clean_at = datetime.now(UTC) + timedelta(seconds=60)
        write_trace(run_dir / "trace.csv", clean_at)
        print(f"three SuperNodes are starting; electricity is clean from {clean_at:%H:%M:%S} UTC")
        process = running.run(settings(run_dir, run_dir / "trace.csv"))
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < TIMEOUT_S:
            time.sleep(0.5)
        stop(process)
        if process.returncode:
            print(tail(run_dir / "flower" / "run.log", 30))
            return 1
    events = read_ledger(run_dir)
    for event in events:
        if isinstance(event, RoundOpened):
            nodes = ", ".join(f"{node.id} ({node.location})" for node in event.nodes)
            opened = f"{event.at:%H:%M:%S}, held {event.held.total_seconds():.0f} s"
            print(f"round {event.round} opened at {opened}: {nodes}")
    found = summarise(events)
    waited = found.status == "completed" and all(each.opens_at >= clean_at for each in found.rounds)
    if waited and found.saving is not None:
        print(f"all waited: {found.saving:.0%} less than back-to-back from the start")
    return 0 if waited else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/deployment")))
