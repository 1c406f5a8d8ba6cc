"""Draw the picture of docs/how-to/report.md: the top of the demo's report, as a browser shows it.

    python benchmarks/report_picture.py [--run-dir runs/demo] [--out docs/how-to/report.png]

Runs ``lowcarb demo`` first if RUN_DIR has no ledger yet. Needs Chromium. All its numbers are synthetic.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from lowcarb_scheduler.demo.runner import run_demo
from lowcarb_scheduler.ledger import FILE_NAME
from lowcarb_scheduler.report.html import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = "960,1500"  # CSS pixels: headline, rounds, waterfall


def shoot(page: Path, out: Path) -> None:
    """Write a screenshot of the top of a page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={SIZE}", f"--screenshot={out.absolute()}",
            page.absolute().as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/how-to/report.png"))
    given = parser.parse_args()
    if not (given.run_dir / FILE_NAME).exists():
        run_demo(Console(stderr=True), given.run_dir)
    shoot(write_report(given.run_dir), given.out)


if __name__ == "__main__":
    main()
