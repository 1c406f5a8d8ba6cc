"""``lowcarb report``: report page, charts and tables of a run, made from its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from lowcarb_scheduler.accounting import emissions
from lowcarb_scheduler.accounting import refresh as refreshing
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Utc, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.cli.status import RunDir, folder_of
from lowcarb_scheduler.errors import InputError, LowcarbError
from lowcarb_scheduler.forecasts import registry
from lowcarb_scheduler.forecasts.sources.traces import Traces as TraceFile
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times
from lowcarb_scheduler.report.zones import with_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from lowcarb_scheduler.accounting.attribution import Accounts, Share
    from lowcarb_scheduler.accounting.refresh import Refreshed
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.intensity import Signal
    from lowcarb_scheduler.report.summary import Summary
    from lowcarb_scheduler.settings import Settings

app = typer.Typer()


@options.command(
    app,
    "report",
    "lowcarb report runs/demo --open",
    "lowcarb report runs/demo --refresh --json",
    "lowcarb report runs/demo --title 'Digits, spring run' --owner 'Imaging group' --interactive",
    "lowcarb report runs/demo --refresh --source traces --traces actual.csv --signal average",
)
def command(
    context: typer.Context,
    run_dir: RunDir,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="First ask the run's source for actual intensity that the ledger lacks."
        ),
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    traces: options.Traces = None,
    signal: Annotated[
        str | None,
        typer.Option(
            metavar="SIGNAL",
            autocompletion=options.signals,
            help="Signal of the --traces file, which does not state it: average or marginal.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Heading of the page.")] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Person or team responsible for the run.")
    ] = None,
    purpose: Annotated[str | None, typer.Option(metavar="TEXT", help="Purpose of the run.")] = None,
    embodied_g: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="G",
            help="This run's part of the emissions from manufacturing the hardware [g]: M of the SCI.",
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Also write interactive.html: charts to zoom and hover.")
    ] = False,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """Write a run's report.html, charts and tables.

    The charts, and every table as CSV, go into the folder report/ beside the page. Title, owner, purpose and
    embodied emissions are kept in about.json for later reports; an empty text removes an entry.
    """
    from lowcarb_scheduler.report.about import read_about, write_about
    from lowcarb_scheduler.report.html import FOLDER_NAME, read_page, write_page

    runtime = context.ensure_object(Runtime)
    given = options.source_options(source, sdk_url, sdk_signal, traces)
    folder = folder_of(run_dir)
    refreshed = None
    if refresh:
        refreshed = _refresh(runtime, folder, given, signal)
    elif unused := [name for name, value in {**given, "signal": signal}.items() if value is not None]:
        option = f"--{unused[0].replace('_', '-')}"
        raise InputError(option, "is only used to refresh", "add --refresh")
    known = read_about(folder)
    about = known.amended(title=title, owner=owner, purpose=purpose, embodied_g=embodied_g)
    shown = read_page(folder, about)
    if about != known:
        write_about(about, folder)
    # The page is made from the same accounts as the text, so the two cannot disagree.
    page, summary = write_page(shown, folder), shown.summary
    written = None
    if interactive:
        from lowcarb_scheduler.report.interactive import write_interactive

        written = write_interactive(shown, folder)
    if as_json:
        document = _document(shown.accounts, page, folder / FOLDER_NAME, refreshed)
        heads = {"title": summary.title, "owner": about.owner, "purpose": about.purpose,
                 "sentence": summary.sentence, "interactive": written and str(written)}  # fmt: skip
        output.write_document({**document, **heads})
    else:
        paths = [("report", page), ("tables", folder / FOLDER_NAME)]
        paths += [("interactive", written)] if written else []
        show(runtime.console(), shown.accounts, summary, paths, refreshed, Times.of(utc))
    if open_it and not runtime.open_page(page.absolute().as_uri()):
        output.log("lowcarb: no browser was found to open the page")


def _refresh(runtime: Runtime, folder: Path, options: Mapping[str, Any], signal: str | None) -> Refreshed:
    """Ask for the intensity that the ledger lacks; a complete ledger needs no source."""
    # Without a source this only looks for what is missing.
    found = refreshing.refresh(folder, None)
    # Then the source is not even opened: its credentials may be on another machine.
    if not found.lacks_hours:
        return found
    source = None
    try:
        settings = refreshing.source_settings(Record.of(read_ledger(folder)).started, options)
        source = _open(runtime, settings, signal)
        found = refreshing.refresh(folder, source)
    except LowcarbError as error:
        # If only the hindsight plan lacks hours, the report is written without them.
        if found.lacking or options["source"] is not None:
            raise
        output.log(output.shown(f"no further actual intensity for the hindsight plan: {error}"))
    for fault in source.faults if source else ():
        output.log(output.shown(f"{fault.what}: {fault.why}"))
    return found


def _open(runtime: Runtime, settings: Settings, signal: str | None) -> ForecastSource | None:
    """Open the sources of the settings; ``signal`` applies to a trace file, which does not state its own."""
    source = registry.open_sources(settings, runtime.clock, runtime.open_source)
    if signal is None:
        return source
    if settings.source != "traces" or settings.traces is None:
        raise InputError("--signal", "describes a trace file only", "give it with --source traces")
    trace = TraceFile(settings.traces, cast("Signal", signal), settings.traces_actual)
    return registry.arranged([trace], settings, runtime.clock)


def _document(accounts: Accounts, page: Path, tables: Path, refreshed: Refreshed | None) -> dict[str, object]:
    run, sci, front = accounts.run, accounts.sci, accounts.front
    turns = run.turns.values()
    return {
        "report": str(page),
        "tables": str(tables),
        "status": run.status,
        **accounts.run.provenance.to_dict(),
        "rounds": len(run.rounds),
        "planned_g": accounts.run.planned_g,
        "realised_g": accounts.run.realised_g,
        "run_now_g": accounts.run.run_now_g,
        "hindsight_g": accounts.hindsight_g,
        # The hindsight plan may use hours after the run, as far as their actual intensity is known.
        "hindsight_until": None if accounts.hindsight is None else accounts.hindsight.known_until,
        "saving": accounts.run.saving,
        # The rounds that had a forecast, if not all; planned_g is null then.
        "planned_of": accounts.planned_of or None,
        "planned_of_g": accounts.planned_of_g,
        # These rounds have no realised emissions until --refresh finds them.
        "rounds_without_actuals": accounts.without_actuals,
        "waterfall": [
            {"step": step.name, "kind": step.kind, "g": step.change_g} for step in accounts.waterfall
        ],
        "by_phase": _shares(accounts.by_phase, "phase"),
        "by_location": _shares(accounts.by_location, "location"),
        "by_client": _shares(accounts.by_client, "client"),
        # Software Carbon Intensity (ISO/IEC 21031): (E I + M) / R; M is null unless it was given.
        "sci": {
            "energy_kwh": sci.energy_kwh, "intensity_g_per_kwh": sci.intensity_g_per_kwh,
            "embodied_g": sci.embodied_g, "functional_unit": "round", "functional_units": sci.rounds,
            "g_per_round": sci.g_per_round,
        },
        # The trade-off at the start of the run, with the plans and the outcome in it.
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


def _shares(shares: Sequence[Share], of: str) -> list[dict[str, object]]:
    return [
        {of: share.name, "turns": share.turns, "energy_kwh": share.energy_kwh,
         "energy_by_basis": dict(share.basis), "emissions_g": share.emissions_g}
        for share in shares
    ]  # fmt: skip


# -- Text --------------------------------------------------------------------------------------------------

MOST_LOCATIONS: Final = 40


def show(
    screen: Console,
    accounts: Accounts,
    summary: Summary,
    paths: Sequence[tuple[str, Path]],
    refreshed: Refreshed | None,
    times: Times,
) -> None:
    """Print the emissions of a run, and their breakdown."""
    run = accounts.run
    rounds = formatting.counted(len(run.rounds), "round")
    output.print_title(screen, summary.title)
    output.print_line(screen, summary.sentence)
    output.print_line(screen, f"Run {run.started.run_id}: {run.status}, {rounds}")
    if refreshed is not None:
        output.print_line(screen, _refreshed(refreshed))
    labels = formatting.labels(accounts.run.provenance)
    _show_numbers(screen, accounts, labels)
    if accounts.waterfall:
        _show_waterfall(screen, accounts, labels)
    if accounts.by_location:
        _show_locations(screen, accounts.by_location, labels)
    turns = run.turns.values()
    fewest, most = min(turns, default=0), max(turns, default=0)
    evaluation_kwh, sci_g = formatting.energy(run.evaluation_energy_kwh), accounts.sci.g_per_round
    embodied = "not counted" if accounts.sci.embodied_g is None else "included, as stated"
    facts = [
        ("saving", _saving(run)),
        ("energy", f"{formatting.energy(run.energy_kwh)} ({formatting.basis(run.energy_by_basis)})"),
        ("evaluation energy", f"{evaluation_kwh}, {formatting.mass(run.evaluation_g)} CO2eq"),
        ("SCI", f"{formatting.mass(sci_g)} per round; embodied emissions are {embodied}"),
        ("finish", times.instant(run.finish)),
        ("turns", f"{fewest} to {most} per client, Jain's index {run.jain:.3f}"),
        *((name, str(path)) for name, path in paths),
    ]
    output.print_facts(screen, facts)


def _saving(run: Record) -> str:
    """Write the saving of a run, or of those of its rounds that are known, and why others are not."""
    known, rounds = run.known_saving
    if run.unknown_because is None:
        return formatting.percent(run.saving)
    of = f" over {rounds} of {len(run.rounds)} rounds" if rounds else ""
    return f"{formatting.percent(known)}{of} ({run.unknown_because})"


def _refreshed(found: Refreshed) -> str:
    """Describe the result of a refresh."""
    if not found.lacking and found.has_news:
        return "All rounds were complete; the hindsight plan now uses more hours."
    if not found.lacking:
        return "Nothing to fetch: all actual intensity is known."
    # Providers publish actual intensity hours later, so a second attempt often succeeds.
    lacking = formatting.counted(len(found.lacking), "incomplete round")
    learned = f"Fetched actual intensity for {len(found.learned)} of {lacking}"
    return f"{learned}." if found.learned else f"{learned}; try again later."


def _show_numbers(screen: Console, accounts: Accounts, labels: str) -> None:
    actual, run_now_g = "on actual intensity", accounts.run.run_now_g
    missing = accounts.without_actuals
    lacking = f"no actual intensity for {missing} round(s); --refresh asks for it" if missing else ""
    no_best = "no plan fits into the hours with known actual intensity"
    # Planned emissions compare with the others only if every round had a forecast.
    planned_g, of = accounts.run.planned_g, "at each round's opening"
    if accounts.planned_of:
        planned_g, of = accounts.planned_of_g, f"of {accounts.planned_of} only; no others had a forecast"
    best_g = accounts.hindsight_g
    # Missing intensity explains a missing hindsight plan better than the plan itself does.
    best = lacking or (no_best if best_g is None else "best plan with a perfect forecast")
    rows = [
        ("run-now", run_now_g, None, "baseline: random clients, back-to-back, " + actual),
        ("planned", planned_g, None, f"on the forecast {of}"),
        ("realised", accounts.run.realised_g, accounts.run.saving, lacking or actual),
        ("hindsight", best_g, emissions.saving(best_g, run_now_g), best),
    ]
    output.print_line(screen, f"Emissions of training: {labels}")
    output.print_table(
        screen,
        ("number", right("CO2eq"), right("saving"), "meaning"),
        [
            (name, formatting.mass(grams), "" if saving is None else formatting.percent(saving), what)
            for name, grams, saving, what in rows
        ],
    )


def _show_waterfall(screen: Console, accounts: Accounts, labels: str) -> None:
    run_now_g = accounts.run.run_now_g
    rows = []
    for step in accounts.waterfall:
        # No share of nothing: run-now emissions may be zero or unknown.
        part = step.change_g / run_now_g if run_now_g else None
        # Levels have no sign, changes do.
        size = formatting.mass(step.change_g)
        sign = "+" if step.kind == "change" and step.change_g > 0 and size != formatting.mass(0.0) else ""
        share = "" if part is None else sign + formatting.percent(part)
        rows.append((step.name, sign + size, share))
    output.print_line(screen, f"From run-now to realised: {labels}")
    output.print_table(screen, ("step", right("CO2eq"), right("of run-now")), rows)


def _show_locations(screen: Console, shares: Sequence[Share], labels: str) -> None:
    """Print the locations, those with the most energy first."""
    order = sorted(shares, key=lambda share: (-share.energy_kwh, share.name))
    # A federation may have hundreds of locations; the CSV tables have them all.
    hidden = len(order) - MOST_LOCATIONS
    more = f"; {hidden} more are in the tables" if hidden > 0 else ""
    output.print_line(screen, f"By location: {labels}{more}")
    output.print_table(
        screen,
        ("location", right("turns"), right("energy"), "basis", right("CO2eq"), right("g/kWh")),
        [
            (
                with_name(share.name),
                share.turns,
                formatting.energy(share.energy_kwh),
                formatting.basis(share.basis),
                formatting.mass(share.emissions_g),
                formatting.significant(share.mean_g_per_kwh),
            )
            for share in order[:MOST_LOCATIONS]
        ],
    )
