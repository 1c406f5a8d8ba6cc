"""Draw the picture of docs/how-to/watch.md: the page of a held run, as a browser shows it.

    PYTHONPATH=src:tests python tests/support/live_picture.py [--run-dir runs/demo] [--round 9]

Shows the ledger of ``lowcarb demo`` as of the hold of a round; runs the demo first if RUN_DIR has no ledger
yet. Needs Chromium. All its numbers are synthetic.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console

from lowcarb_scheduler.clock import VirtualClock, parse_time
from lowcarb_scheduler.demo.runner import run_demo
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.ledger import FILE_NAME, Ledger
from lowcarb_scheduler.monitor.server import bind
from support.browser import browsing
from support.live import Live

WIDTH, HEIGHT = 1100, 960  # CSS pixels: countdown, saving, rounds
OUT = Path("docs/how-to/watch.png")


def held(run_dir: Path, number: int) -> list[dict[str, Any]]:
    """Return the events of a run up to the hold of a round, as if on the clock of a machine."""
    lines = (run_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    events[0]["clock"] = "system"  # a virtual clock jumps through the hold
    last = next(
        k for k, each in enumerate(events) if each["event"] == "hold_started" and each["round"] == number
    )
    return events[: last + 1]


def shoot(folder: Path, events: list[dict[str, Any]]) -> bytes:
    """Return the picture of a run whose last event is an hour ago."""
    clock = VirtualClock(parse_time(events[-1]["at"], "at") + timedelta(hours=1))
    run_dir = folder / "runs" / "demo"
    run_dir.mkdir(parents=True)
    (run_dir / FILE_NAME).write_text("".join(to_json(each) + "\n" for each in events), encoding="utf-8")
    ledger, live = Ledger(run_dir, clock, goes_on=True), Live(run_dir.parent, clock, look_s=1.0)
    with bind("127.0.0.1", 0) as listening, browsing(folder / "profile") as browser:
        config = uvicorn.Config(live.app, log_level="warning", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()
        browser.look(WIDTH, HEIGHT)
        browser.ask("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(f"http://127.0.0.1:{listening.getsockname()[1]}/runs/demo")
        browser.wait_for("document.querySelector('#metric .main-svg')")
        picture = browser.picture()
        live.is_ending = server.should_exit = True
        serving.join()
    ledger.close()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--round", type=int, default=9)
    given = parser.parse_args()
    if not (given.run_dir / FILE_NAME).exists():
        run_demo(Console(stderr=True), given.run_dir)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        OUT.write_bytes(shoot(Path(folder), held(given.run_dir, given.round)))


if __name__ == "__main__":
    main()
