"""``lowcarb open-now``: lets a held round start, without killing the run."""

from typing import Final

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json
from lowcarb_scheduler.cli.status import RunDir, folder_of
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import NothingHeldError

EXAMPLES: Final = ("lowcarb open-now runs/2026-01-31T18-00-00Z-42",)
_SECONDS: Final = 5  # within which a hold looks, and a little more


def command(run_dir: RunDir, as_json: Json = False) -> None:
    """Let the round that is held open now; the run goes on as planned after it."""
    from lowcarb_scheduler.cli.run_state import HOLDING, RunState
    from lowcarb_scheduler.flower.signals import wish_to_open

    folder = folder_of(run_dir)
    run = RunState.read(folder)
    if run.state != HOLDING or run.round_number is None or run.is_virtual:
        raise NothingHeldError(str(run_dir), "on a virtual clock" if run.is_virtual else run.state)
    wish_to_open(folder, run.round_number)
    if as_json:
        output.write_document(
            {
                "schema_version": SCHEMA_VERSION,
                "run_dir": str(run_dir),
                "round": run.round_number,
                "was_to_open_at": run.opens_at,
            }
        )
    else:
        output.print_line(output.console(), f"round {run.round_number} opens within {_SECONDS} seconds")
