"""``lowcarb demo``: a real Flower simulation on a virtual clock."""

from pathlib import Path
from typing import Annotated, Final

import typer

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json

EXAMPLES: Final = ("lowcarb demo", "lowcarb demo --run-dir runs/again --json")


def command(
    run_dir: Annotated[
        Path, typer.Option("--run-dir", metavar="DIR", help="Where its ledger and report go.")
    ] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run a real Flower simulation that waits for clean hours, and say what it saved."""
    from lowcarb_scheduler.demo.runner import run_demo

    document = run_demo(output.console(stderr=as_json), run_dir)
    if as_json:
        output.write_document(document)
