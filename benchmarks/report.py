"""Cost of a report: CPU seconds for the accounts of a run, and for its page with pictures and tables.

    python benchmarks/report.py [--rounds 50] [--clients 100 1000 10000] [--seats 10]

The ledgers are synthetic runs at 16 locations, with real plans on synthetic intensities.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.report.html import write_report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the maker of ledgers that tests use
from support.report_ledger import write_ledger
from support.report_world import large_events


def seconds(call, *arguments):
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--seats", type=int, default=10)
    options = parser.parse_args()
    print(f"{'rounds':>6} {'clients':>8} {'ledger MB':>10} {'accounts s':>11} {'files s':>8} {'page MB':>8}")
    for clients in options.clients:
        with tempfile.TemporaryDirectory() as folder:
            run = write_ledger(Path(folder) / "run", large_events(options.rounds, clients, options.seats))
            record = Record.of(read_ledger(run))
            accounts, files = seconds(account, record), seconds(write_report, run)
            sizes = [(run / name).stat().st_size / 1e6 for name in (FILE_NAME, "report.html")]
        row = f"{options.rounds:>6} {clients:>8} {sizes[0]:>10.1f} {accounts:>11.2f} {files:>8.2f}"
        print(f"{row} {sizes[1]:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
