"""``lowcarb report``: the page and the tables of a run, made from its ledger."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from lowcarb_scheduler.cli import completion, output
from lowcarb_scheduler.cli.options import Json, SdkSignal, SdkUrl, Source, Traces
from lowcarb_scheduler.cli.status import RunDir, folder_of
from lowcarb_scheduler.cli.times import Times, Utc
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError, LowcarbError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lowcarb_scheduler.forecasts.source import ForecastSource
    from lowcarb_scheduler.intensity import Signal
    from lowcarb_scheduler.report.accounts import Accounts, Share
    from lowcarb_scheduler.report.refresh import Refreshed
    from lowcarb_scheduler.settings import Settings

EXAMPLES: Final = (
    "lowcarb report runs/demo",
    "lowcarb report runs/demo --refresh --json",
    "lowcarb report runs/demo --refresh --source traces --traces actual.csv --signal average",
)


def command(
    run_dir: RunDir,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="First ask the run's source for actual intensity that the ledger lacks."
        ),
    ] = False,
    source: Source = None,
    sdk_url: SdkUrl = None,
    sdk_signal: SdkSignal = None,
    traces: Traces = None,
    signal: Annotated[
        str | None,
        typer.Option(
            "--signal",
            metavar="SIGNAL",
            autocompletion=completion.signals,
            help="What the file of --traces measures: average or marginal. A file does not say.",
        ),
    ] = None,
    utc: Utc = False,
    as_json: Json = False,
) -> None:
    """Write report.html, its pictures and its tables from the ledger of a run, and say what it saved.

    The pictures, and every table as CSV, go into the folder report/ beside the page.
    """
    from lowcarb_scheduler.report.html import FOLDER_NAME, read_page, write_page

    options = {"source": source, "sdk_url": sdk_url, "sdk_signal": sdk_signal, "traces": traces}
    folder = folder_of(run_dir)
    refreshed = None
    if refresh:
        refreshed = _refresh(folder, options, signal)
    elif given := [name for name, value in {**options, "signal": signal}.items() if value is not None]:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(option, "is asked only to refresh", "add --refresh")
    shown = read_page(folder)
    page, accounts = write_page(shown, folder), shown.accounts
    if as_json:
        output.write_document(_document(accounts, page, folder / FOLDER_NAME, refreshed))
    else:
        from lowcarb_scheduler.cli.report_text import show

        show(accounts, page, folder / FOLDER_NAME, refreshed, Times.of(utc))


def _refresh(folder: Path, options: "Mapping[str, Any]", signal: str | None) -> "Refreshed":
    """Ask for what the ledger lacks; where that is nothing, no source has to be named."""
    from lowcarb_scheduler.ledger import read_ledger
    from lowcarb_scheduler.report.refresh import refresh, told_settings

    found = refresh(folder, None)
    if not found.lacks_hours:
        return found
    source = None
    try:
        source = _open(told_settings(read_ledger(folder)[0], options), signal)
        found = refresh(folder, source)
    except LowcarbError as error:
        if found.lacking or options["source"] is not None:
            raise
        output.log(output.shown(f"hindsight knows no more hours: {error}"))
    for fault in getattr(source, "faults", ()):
        output.log(output.shown(f"{fault.what}: {fault.why}"))
    return found


def _open(settings: "Settings", signal: str | None) -> "ForecastSource | None":
    """Open the sources of the settings; of a file it is told what it measures."""
    from lowcarb_scheduler.forecasts.opening import arranged, open_sources

    source = open_sources(settings)
    if signal is None:
        return source
    if settings.source != "traces" or settings.traces is None:
        raise InputError("--signal", "is told of a file alone", "give it with --source traces")
    from lowcarb_scheduler.forecasts.traces import Traces as File

    return arranged([File(settings.traces, cast("Signal", signal), settings.traces_actual)], settings)


def _document(
    accounts: "Accounts", page: Path, tables: Path, refreshed: "Refreshed | None"
) -> dict[str, object]:
    run, sci, front = accounts.run, accounts.sci, accounts.front
    turns = run.turns.values()
    return {
        "schema_version": SCHEMA_VERSION,
        "report": str(page),
        "tables": str(tables),
        "status": run.status,
        **accounts.labels._asdict(),
        "rounds": len(run.rounds),
        "planned_g": accounts.planned_g,
        "realised_g": accounts.realised_g,
        "run_now_g": accounts.run_now_g,
        "hindsight_g": accounts.hindsight_g,
        "hindsight_until": None if accounts.hindsight is None else accounts.hindsight.known_until,
        "saving": accounts.saving,
        "planned_of": accounts.planned_of or None,
        "planned_of_g": accounts.planned_of_g,
        "rounds_without_actuals": accounts.without_actuals,
        "waterfall": [
            {"step": step.name, "kind": step.kind, "g": step.change_g} for step in accounts.waterfall
        ],
        "by_phase": _shares(accounts.by_phase, "phase"),
        "by_location": _shares(accounts.by_location, "location"),
        "by_client": _shares(accounts.by_client, "client"),
        "sci": {
            "energy_kwh": sci.energy_kwh, "intensity_g_per_kwh": sci.intensity_g_per_kwh, "embodied_g": None,
            "functional_unit": "round", "functional_units": sci.rounds, "g_per_round": sci.g_per_round,
        },
        "front": None if front is None else {
            "first_round": front.first_round,
            "points": [
                {"patience": point.patience, "finish": point.finish, "emissions_g": point.emissions_g,
                 "lower_bound_g": point.lower_bound_g}
                for point in front.frontier.points
            ],
            **{
                stand.name.replace("-", "_"): {"finish": stand.finish, "emissions_g": stand.emissions_g}
                for stand in front.stands
            },
        },
        "energy_kwh": run.energy_kwh,
        "energy_by_basis": run.energy_by_basis,
        "evaluation_energy_kwh": run.evaluation_energy_kwh,
        "evaluation_g": run.evaluation_g,
        "finish": run.finish,
        "jain": run.jain,
        "min_turns": min(turns, default=None),
        "max_turns": max(turns, default=None),
        "refreshed": None if refreshed is None else {
            "lacking": list(refreshed.lacking), "learned": list(refreshed.learned),
            "has_news": refreshed.has_news,
        },
    }  # fmt: skip


def _shares(shares: "Sequence[Share]", of: str) -> list[dict[str, object]]:
    return [
        {of: share.name, "turns": share.turns, "energy_kwh": share.energy_kwh,
         "energy_by_basis": dict(share.basis), "emissions_g": share.emissions_g}
        for share in shares
    ]  # fmt: skip
