"""``lowcarb report``: the page of a run, made from its ledger."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json
from lowcarb_scheduler.cli.times import Times, Utc
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from lowcarb_scheduler.ledger import RunSummary

EXAMPLES: Final = ("lowcarb report runs/demo",)


def command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder with the run's ledger.jsonl.")],
    utc: Utc = False,
    as_json: Json = False,
) -> None:
    """Write report.html from the ledger of a run, and say what it saved."""
    from lowcarb_scheduler.ledger import FILE_NAME, read_ledger, summarise
    from lowcarb_scheduler.report.gantt import labels_of
    from lowcarb_scheduler.report.html import write_report

    if run_dir.name == FILE_NAME:
        run_dir = run_dir.parent
    page = write_report(run_dir)
    events = read_ledger(run_dir)
    run, labels = summarise(events), labels_of(events)
    if as_json:
        turns = run.turns.values()
        output.write_document(
            {
                "schema_version": SCHEMA_VERSION,
                "report": str(page),
                "status": run.status,
                **labels._asdict(),
                "rounds": len(run.rounds),
                "planned_g": run.planned_g,
                "realised_g": run.realised_g,
                "run_now_g": run.run_now_g,
                "saving": run.saving,
                "energy_kwh": run.energy_kwh,
                "energy_by_basis": run.energy_by_basis,
                "evaluation_energy_kwh": run.evaluation_energy_kwh,
                "evaluation_g": run.evaluation_g,
                "finish": run.finish,
                "jain": run.jain,
                "min_turns": min(turns, default=None),
                "max_turns": max(turns, default=None),
            }
        )
    else:
        _show(run, wording.labels(*labels), page, Times.of(utc))


def _show(run: "RunSummary", labels: str, page: Path, times: Times) -> None:
    screen = output.console()
    turns = run.turns.values()
    output.print_title(screen, f"Run {run.started['run_id']}: {run.status}, {len(run.rounds)} rounds")
    output.print_facts(
        screen,
        [
            ("run now", f"{wording.mass(run.run_now_g)} CO2eq"),
            ("planned", wording.mass(run.planned_g)),
            ("realised", wording.mass(run.realised_g)),
            ("saving", wording.percent(run.saving)),
            ("energy", wording.energy(run.energy_kwh)),
            (
                "evaluated",
                f"{wording.energy(run.evaluation_energy_kwh)}, {wording.mass(run.evaluation_g)} CO2eq",
            ),
            ("finish", times.instant(run.finish)),
            (
                "turns",
                f"{min(turns, default=0)} to {max(turns, default=0)} a client, Jain's index {run.jain:.3f}",
            ),
            ("intensity", labels),
            ("report", str(page)),
        ],
    )
