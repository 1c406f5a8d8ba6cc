"""``lowcarb archive``: what sources have said, kept on disk: list, fetch, import, export, prune."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.options import Command, Json, SdkSignal, SdkUrl, Source, examples
from lowcarb_scheduler.cli.output import Times, Utc
from lowcarb_scheduler.clock import HOUR_US, from_us
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.archive.database import Feed
from lowcarb_scheduler.forecasts.base import checked_signal, unknown_name
from lowcarb_scheduler.forecasts.series import columns_of
from lowcarb_scheduler.forecasts.sources.importers import merged, read_download
from lowcarb_scheduler.forecasts.sources.traces import TraceWriter
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from lowcarb_scheduler.forecasts.archive.backfill import Filled
    from lowcarb_scheduler.forecasts.archive.database import Archive, Holding
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.forecasts.sources.importers import Download, Factor
    from lowcarb_scheduler.intensity import IntensityTable, Signal
    from lowcarb_scheduler.settings import Settings

EXIT_MISSING: Final = 1
_MEGABYTE: Final = 1e6

app = typer.Typer(help="List, fetch, import, export or prune stored intensity data.")

ArchiveDir = Annotated[
    str | None,  # a path would hide that it is none
    typer.Option("--archive-dir", metavar="DIR", help="Where it lies [LOWCARB_ARCHIVE_DIR]."),
]
Location = Annotated[
    list[str] | None,
    typer.Option(
        "--location",
        metavar="L",
        autocompletion=options.locations,
        help="A place. Repeatable. Default: all there are.",
    ),
]


@app.callback(invoke_without_command=True)
def _archive(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list", cls=Command, epilog=examples("lowcarb archive list"))
def show(archive_dir: ArchiveDir = None, utc: Utc = False, as_json: Json = False) -> None:
    """Show of which places there is what."""
    archive = _opened(settings := _settings(archive_dir=archive_dir))
    holdings = archive.holdings()
    size = archive.path.stat().st_size if archive.path.exists() else 0
    if as_json:
        output.write_document(
            {
                "schema_version": SCHEMA_VERSION, "path": str(archive.path), "size_bytes": size,
                "keep_days": settings.archive_days, "holdings": [_document(each) for each in holdings],
            }
        )  # fmt: skip
        return
    screen = output.console()
    output.print_title(
        screen,
        f"{archive.path}, {size / _MEGABYTE:.1f} MB, "
        f"keeps {formatting.counted(settings.archive_days, 'day')}",
    )
    if not holdings:
        output.print_line(screen, "it is empty; next: lowcarb archive fetch --days 28 --location L")
        return
    for feed, of_feed in groupby(holdings, key=lambda each: each.feed):
        output.print_line(screen, f"{feed.source}, signal {feed.signal}, from {feed.server}")
        _print_holdings(screen, list(of_feed), Times.of(utc))


def _print_holdings(screen: Console, holdings: Sequence[Holding], times: Times) -> None:
    def column(title: str, whens: Iterable[datetime | None]) -> tuple[str, list[str]]:
        return times.column(title, [when and when.replace(second=0) for when in whens])

    first, firsts = column("first", (each.first_issued for each in holdings))
    last, lasts = column("last", (each.last_issued for each in holdings))
    until, untils = column("until", (each.actual_until for each in holdings))
    columns = [
        output.Column("location"), output.Column("forecasts", right=True), output.Column(first),
        output.Column(last), output.Column("history", right=True), output.Column(until),
        output.Column("size", right=True),
    ]  # fmt: skip
    rows = [
        (each.location, each.issues, firsts[k], lasts[k], f"{each.actual_hours / 24:.1f} d", untils[k],
         f"{each.size_bytes / _MEGABYTE:.2f} MB")
        for k, each in enumerate(holdings)
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


def _document(holding: Holding) -> dict[str, Any]:
    document = asdict(holding)
    return {**document.pop("feed"), **document}


@app.command(
    cls=Command,
    epilog=examples(
        "lowcarb archive fetch --days 28 --location GB --location London --source uk-carbon-intensity"
    ),
)
def fetch(
    days: Annotated[int, typer.Option(min=1, metavar="N", help="How far back.")] = 28,
    location: Location = None,
    source: Source = None,
    sdk_url: SdkUrl = None,
    sdk_signal: SdkSignal = None,
    archive_dir: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Ask sources for the past, so that a first run has something to learn from."""
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.archive.backfill import back_fill, steps

    settings = _settings(
        archive_dir=archive_dir, source=source, carbon_aware_sdk_url=sdk_url, sdk_signal=sdk_signal
    )
    if days > settings.archive_days:
        problem = f"{days} is more than the archive keeps, {settings.archive_days}"
        raise InputError("--days", problem, "ask for fewer, or set LOWCARB_ARCHIVE_DAYS")
    archive, clock = _opened(settings), SystemClock()
    archive.check()
    sources, now = _web_sources(settings), clock.now()
    period = now - timedelta(days=days), now
    names = [_names(each, settings, archive, location) for each in sources]
    total = sum(steps(asked, period) * len(own) for asked, own in zip(sources, names, strict=True))
    filled: list[Filled] = []
    with output.progress("asking", total) as done:
        for asked, own in zip(sources, names, strict=True):
            filled += back_fill(asked, own, archive, period, clock, done)
    if as_json:
        document = {"schema_version": SCHEMA_VERSION, "days": days}
        output.write_document({**document, "locations": [asdict(each) for each in filled]})
    else:
        screen = output.console()
        output.print_title(
            screen, f"the last {'day' if days == 1 else f'{days} days'}, kept in {archive.path}"
        )
        columns = [
            output.Column("source"), output.Column("location", whole=True),
            output.Column("history", right=True), output.Column("past forecasts", right=True),
            output.Column("why not more"),
        ]  # fmt: skip
        rows = [
            (each.source, each.location, f"{each.actual_hours / 24:.1f} d",
             "it keeps none" if each.past_forecasts is None else each.past_forecasts, each.why or "")
            for each in filled
        ]  # fmt: skip
        output.print_table(screen, columns, rows)
    found = {each.location for each in filled if each.actual_hours or each.past_forecasts}
    if lacking := [each for each in filled if each.location not in found]:
        for each in lacking:
            why = one_line(each.why or "it has none")
            output.log(f"lowcarb: nothing of {one_line(each.location)} from {each.source}: {why}")
        raise typer.Exit(EXIT_MISSING)


def _web_sources(settings: Settings) -> list[ForecastSource]:
    """Open the sources that are named, each for itself."""
    from lowcarb_scheduler.forecasts.registry import named_sources, open_source

    opened = []
    for name in named_sources(settings):
        source = open_source(name, settings)
        if source.issued_every is None:
            raise InputError("--source", f"{name} is not kept in the archive", "name a source on the web")
        opened.append(source)
    if not opened:
        raise options.no_source()
    return opened


def _names(
    source: ForecastSource, settings: Settings, archive: Archive, places: Sequence[str] | None
) -> dict[str, str]:
    """Return what a source calls the places named; by default those of which the archive holds something."""
    from lowcarb_scheduler.forecasts.archive.database import Feed
    from lowcarb_scheduler.forecasts.base import read_names
    from lowcarb_scheduler.forecasts.registry import SOURCES

    if not places:
        feed = Feed(source.name, source.signal or "unknown", source.server)
        held = [each.location for each in archive.holdings() if each.feed == feed]
        if not held:
            fix = f"give --location L, as {source.name} or the locations file calls it"
            raise InputError("--location", f"no place is named, and none of {source.name} is kept", fix)
        return dict(zip(held, held, strict=True))
    names = read_names(settings.locations, SOURCES) if settings.locations else {}
    return {place: names.get(source.name, {}).get(place, place) for place in places}


@app.command(
    cls=Command,
    epilog=examples("lowcarb archive export --forecasts forecasts.csv --actuals actuals.csv --location GB"),
)
def export(
    forecasts: Annotated[
        Path | None, typer.Option("--forecasts", metavar="FILE", help="Write forecasts: .csv or .parquet.")
    ] = None,
    actuals: Annotated[
        Path | None, typer.Option("--actuals", metavar="FILE", help="Write what happened: .csv or .parquet.")
    ] = None,
    location: Location = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Only of this one. Default: all there are.")
    ] = None,
    signal: Annotated[
        str | None, typer.Option("--signal", metavar="SIGNAL", help="Only this: average, marginal, unknown.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Only from this server.")
    ] = None,
    archive_dir: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Write trace files, as the source traces and the backtest read them."""
    if forecasts is None and actuals is None:
        raise InputError("--forecasts", "no file is named", "give --forecasts FILE, --actuals FILE, or both")
    from lowcarb_scheduler.forecasts.archive.export import choose, export_actuals, export_forecasts

    archive = _opened(_settings(archive_dir=archive_dir))
    wanted = {"source": source, "signal": signal, "server": server}
    chosen = choose(archive, location or (), {key: value for key, value in wanted.items() if value})
    documents: dict[str, dict[str, Any]] = {}
    for kind, path, write in (
        ("forecasts", forecasts, export_forecasts), ("actuals", actuals, export_actuals)
    ):  # fmt: skip
        if path is not None:
            with output.progress("writing", len(chosen)) as done:
                written = write(archive, chosen, path, f"--{kind}", done)
            documents[kind] = {"path": str(path), "rows": written.rows, "locations": written.locations}
    if as_json:
        output.write_document({"schema_version": SCHEMA_VERSION, **documents})
        return
    screen = output.console()
    for kind, file in documents.items():
        output.print_line(
            screen, f"{kind}: {file['rows']} rows of {', '.join(file['locations'])} in {file['path']}"
        )


@app.command(
    "import",
    cls=Command,
    epilog=examples("lowcarb archive import DE_2023_hourly.csv FR_2023_hourly.csv --to actual.parquet",
         "lowcarb archive import Carbon_Intensity_Data.csv"),
)  # fmt: skip
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="CSV of Electricity Maps, CSV or JSON of NESO, or traces."),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="Write a trace file: .csv or .parquet. Default: the archive."
        ),
    ] = None,
    factor: Annotated[
        str, typer.Option(metavar="F", help="Which intensity of Electricity Maps: direct or lifecycle.")
    ] = "direct",
    signal: Annotated[
        str, typer.Option(metavar="SIGNAL", help="What a trace file measures: average, marginal, unknown.")
    ] = "unknown",
    archive_dir: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Take in what happened from files that were downloaded: for a backtest, or as history."""
    downloads = read_all(files, factor, signal)
    if to is not None:
        told = write_trace(downloads, to)
        where = str(to)
    else:
        settings = _settings(archive_dir=archive_dir)
        archive = _opened(settings)
        told = into_archive(downloads, archive, settings.archive_days)
        where = str(archive.path)
    if as_json:
        output.write_document(
            {"schema_version": SCHEMA_VERSION, "path": where, "locations": [asdict(each) for each in told]}
        )
        return
    screen = output.console()
    output.print_title(screen, f"kept in {where}")
    columns = [
        output.Column("location", whole=True), output.Column("source"), output.Column("signal"),
        output.Column("from (UTC)"), output.Column("to (UTC)"), output.Column("known, h", right=True),
    ]  # fmt: skip
    rows = [
        (each.location, each.source, each.signal,
         formatting.instant(each.first), formatting.instant(each.last), f"{each.hours:g}")
        for each in told
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


@app.command(cls=Command, epilog=examples("lowcarb archive prune --days 90"))
def prune(
    days: Annotated[
        int | None,
        typer.Option(min=0, max=3650, metavar="N", help="Keep so many days. Default: LOWCARB_ARCHIVE_DAYS."),
    ] = None,
    archive_dir: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Drop what is old."""
    archive = _opened(settings := _settings(archive_dir=archive_dir))
    keep = settings.archive_days if days is None else days
    there = archive.path.exists()
    issues, steps = archive.prune(timedelta(days=keep)) if there else (0, 0)
    size = archive.path.stat().st_size if there else 0
    if as_json:
        document = {"issues": issues, "actuals": steps, "size_bytes": size}
        output.write_document({"schema_version": SCHEMA_VERSION, "days": keep, **document})
        return
    dropped = (
        f"dropped {formatting.counted(issues, 'forecast')} and {formatting.counted(steps, 'actual value')} "
        f"older than {formatting.counted(keep, 'day')}"
    )
    output.print_line(output.console(), f"{dropped}; {archive.path} takes {size / _MEGABYTE:.1f} MB")


def _settings(**given: Any) -> Settings:
    from lowcarb_scheduler.settings import Settings

    return Settings.load(options=given)


def _opened(settings: Settings) -> Archive:
    """Return the archive.

    Raises
    ------
    InputError
        If the settings want none.
    """
    from lowcarb_scheduler.forecasts.registry import open_archive

    archive = open_archive(settings)
    if archive is None:
        raise InputError("archive-dir", "is none: nothing is kept", "set LOWCARB_ARCHIVE_DIR to a folder")
    return archive


# -- What ``archive import`` does with downloaded files -----------------------------------------------------

_FACTORS = "direct", "lifecycle"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was taken in of a location.

    Parameters
    ----------
    location, source, signal : str
        What it is.
    first, last : datetime
        Where it begins and ends.
    hours : float
        For how long it is known [h].
    """

    location: str
    source: str
    signal: str
    first: datetime
    last: datetime
    hours: float


def read_all(files: Sequence[Path], factor: str, signal: str) -> list[Download]:
    """Read files, in their order.

    Raises
    ------
    InputError
        If one of them cannot be read, or no such factor or signal exists.
    """
    if factor not in _FACTORS:
        raise unknown_name("--factor", factor, _FACTORS)
    measured = checked_signal(cast("Signal", signal))
    return [read_download(file, cast("Factor", factor), measured) for file in files]


def write_trace(downloads: Sequence[Download], path: Path) -> list[Imported]:
    """Write one trace file of all of them; where they overlap, the first counts.

    Raises
    ------
    InputError
        If they measure different signals, or the file cannot be written.
    """
    whole = merged([each.table for each in downloads])
    with TraceWriter(path, issued=False, field="--to") as writer:
        for location, series in columns_of(whole).items():
            writer.add(location, [(0, series)])
    return list(_told(whole))


def into_archive(downloads: Sequence[Download], archive: Archive, keep_days: int) -> list[Imported]:
    """Keep all of them as history.

    Raises
    ------
    InputError
        If one of them is older than anything the archive keeps, or it cannot be written.
    """
    from lowcarb_scheduler.clock import SystemClock

    oldest = SystemClock().now() - timedelta(days=keep_days)
    for each in downloads:
        if each.table.end <= oldest:
            problem = f"ends {each.table.end:%Y-%m-%d}, and the archive keeps {keep_days} days"
            fix = "give --to FILE for a backtest, or set LOWCARB_ARCHIVE_DAYS"
            raise InputError("--to", problem, fix)
    told: list[Imported] = []
    for each in downloads:
        archive.put_actual(Feed(each.table.source, each.table.signal, each.server), each.table)
        told += _told(each.table)
    return told


def _told(table: IntensityTable) -> Iterator[Imported]:
    for location, series in columns_of(table).items():
        edges = np.append(series.times_us, series.end_us)
        hours = float(np.diff(edges)[~np.isnan(series.values)].sum() / HOUR_US)
        yield Imported(location, table.source, table.signal, from_us(edges[0]), from_us(edges[-1]), hours)
