"""``lowcarb demo``: run a Flower simulation on a virtual clock."""

from pathlib import Path
from typing import Annotated

import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.demo import runner

app = typer.Typer()


@options.command(app, "demo", "lowcarb demo", "lowcarb demo --run-dir runs/again --json")
def command(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for ledger and report.")] = Path(
        "runs/demo"
    ),
    as_json: options.Json = False,
) -> None:
    """Run a Flower simulation that waits for clean hours."""
    runtime = context.ensure_object(Runtime)
    # With --json stdout belongs to the document, so the progress goes to stderr.
    document = runner.run_demo(runtime.console(stderr=as_json), run_dir, runtime.federation)
    if as_json:
        output.write_document(document)
