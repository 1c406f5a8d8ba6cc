"""``lowcarb archive``: list, fetch, import, export or prune stored forecasts and past intensity."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Column, Utc, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import HOUR_US, from_us
from lowcarb_scheduler.errors import InputError, one_line, unknown_name
from lowcarb_scheduler.forecasts import registry
from lowcarb_scheduler.forecasts.archive.backfill import Filled, back_fill, steps
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed, Holding
from lowcarb_scheduler.forecasts.archive.export import choose, write_traces
from lowcarb_scheduler.forecasts.base import ForecastSource, read_names
from lowcarb_scheduler.forecasts.series import columns_of
from lowcarb_scheduler.forecasts.sources.importers import Download, Factor, read_download
from lowcarb_scheduler.forecasts.sources.traces import TraceWriter
from lowcarb_scheduler.intensity import IntensityTable, Provenance, Signal
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

EXIT_MISSING: Final = 1
_MEGABYTE: Final = 1e6

app = typer.Typer(help="List, fetch, import, export or prune stored intensity data.")

ArchiveDir = Annotated[
    str | None,  # not a Path, because the word none switches the archive off
    typer.Option(metavar="DIR", help="Archive directory [LOWCARB_ARCHIVE_DIR]."),
]
Location = Annotated[
    list[str] | None, options.location_option("Location, repeatable. Default: all in the archive.")
]


@app.callback(invoke_without_command=True)
def _archive(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@options.command(app, "list", "lowcarb archive list")
def show(
    context: typer.Context, archive_dir: ArchiveDir = None, utc: Utc = False, as_json: options.Json = False
) -> None:
    """List archived locations and dates."""
    runtime = context.ensure_object(Runtime)
    archive = _opened(runtime, settings := Settings.load(options={"archive_dir": archive_dir}))
    holdings = archive.holdings()
    size = archive.path.stat().st_size if archive.path.exists() else 0
    if as_json:
        output.write_document(
            {
                "path": str(archive.path), "size_bytes": size,
                "keep_days": settings.archive_days, "holdings": [_document(each) for each in holdings],
            }
        )  # fmt: skip
        return
    screen = runtime.console()
    kept = formatting.counted(settings.archive_days, "day")
    output.print_title(screen, f"{archive.path}, {size / _MEGABYTE:.1f} MB, keeps {kept}")
    if not holdings:
        output.print_line(screen, "the archive is empty; next: lowcarb archive fetch --days 28 --location L")
        return
    # One table for each feed: values of different signals or servers must not be compared.
    for feed, group in groupby(holdings, key=lambda each: each.feed):
        output.print_line(screen, f"{feed.source}, signal {feed.signal}, from {feed.server}")
        _print_holdings(screen, list(group), Times.of(utc))


def _print_holdings(screen: Console, holdings: Sequence[Holding], times: Times) -> None:
    def column(title: str, whens: Iterable[datetime | None]) -> tuple[str, list[str]]:
        # Sources issue at any second, which nobody needs in a list of days.
        return times.column(title, [when and when.replace(second=0) for when in whens])

    first, firsts = column("first issue", (each.first_issued for each in holdings))
    last, lasts = column("last issue", (each.last_issued for each in holdings))
    until, untils = column("history ends", (each.actual_until for each in holdings))
    columns = ("location", right("forecasts"), first, last, right("history"), until, right("size"))
    rows = [
        (each.location, each.issues, firsts[k], lasts[k], f"{each.actual_hours / 24:.1f} d", untils[k],
         f"{each.size_bytes / _MEGABYTE:.2f} MB")
        for k, each in enumerate(holdings)
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


def _document(holding: Holding) -> dict[str, Any]:
    document = asdict(holding)
    return dict(document.pop("feed")._asdict(), **document)


@options.command(
    app,
    "fetch",
    "lowcarb archive fetch --days 28 --location GB --location London --source uk-carbon-intensity",
)
def fetch(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, metavar="N", help="Number of days to fetch.")] = 28,
    location: Location = None,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    archive_dir: ArchiveDir = None,
    as_json: options.Json = False,
) -> None:
    """Fetch past forecasts and intensity, so that a first run can correct its forecasts."""
    runtime = context.ensure_object(Runtime)
    chosen = options.source_options(source, sdk_url, sdk_signal, None)
    settings = Settings.load(options={"archive_dir": archive_dir, **chosen})
    # Older data would be deleted by the next write.
    if days > settings.archive_days:
        problem = f"{days} is more than the archive keeps, {settings.archive_days}"
        raise InputError("--days", problem, "ask for fewer, or set LOWCARB_ARCHIVE_DAYS")
    archive, clock = _opened(runtime, settings), runtime.clock
    # Before minutes of requests, not after them.
    archive.check()
    sources, now = _web_sources(runtime, settings), clock.now()
    period = now - timedelta(days=days), now
    # All names first: a source without locations is refused before any request.
    called: Mapping[str, Mapping[str, str]] = {}
    if location and settings.locations is not None:
        called = read_names(settings.locations, {*registry.SOURCES, *(each.name for each in sources)})
    names = [_names(each, called.get(each.name, {}), archive, location) for each in sources]
    total = sum(steps(asked, period) * len(own) for asked, own in zip(sources, names, strict=True))
    filled: list[Filled] = []
    with output.progress(runtime.console(stderr=True), "fetching", total) as done:
        for asked, own in zip(sources, names, strict=True):
            filled += back_fill(asked, own, archive, period, clock, done)
    if as_json:
        output.write_document({"days": days, "locations": [asdict(each) for each in filled]})
    else:
        screen = runtime.console()
        span = "day" if days == 1 else f"{days} days"
        output.print_title(screen, f"The last {span}, stored in {archive.path}")
        place = Column("location", whole=True)
        columns = ("source", place, right("history"), right("past forecasts"), "problem")
        rows = [
            (each.source, each.location, f"{each.actual_hours / 24:.1f} d",
             # None is no answer at all, 0 is an answer without data.
             "not offered" if each.past_forecasts is None else each.past_forecasts, each.why or "")
            for each in filled
        ]  # fmt: skip
        output.print_table(screen, columns, rows)
    # One source of several is enough for a location.
    found = {each.location for each in filled if each.actual_hours or each.past_forecasts}
    if lacking := [each for each in filled if each.location not in found]:
        for each in lacking:
            why = one_line(each.why or "the source has no data")
            output.log(f"lowcarb: no data for {one_line(each.location)} from {each.source}: {why}")
        raise typer.Exit(EXIT_MISSING)


def _web_sources(runtime: Runtime, settings: Settings) -> list[ForecastSource]:
    """Open the named sources, without fallback from one to the next."""
    opened = []
    for name in registry.named_sources(settings):
        source = runtime.open_source(name, settings)
        # Trace files and synthetic numbers are reproducible, so the archive does not store them.
        if source.issued_every is None:
            raise InputError("--source", f"{name} is not archived", "name a web source")
        opened.append(source)
    if not opened:
        raise options.no_source()
    return opened


def _names(
    source: ForecastSource, called: Mapping[str, str], archive: Archive, places: Sequence[str] | None
) -> dict[str, str]:
    """Return a source's own name for each location; by default for all archived locations of the source."""
    if not places:
        feed = Feed(source.name, source.signal or "unknown", source.server)
        # A location that the archive already knows is spelled as the source spells it.
        held = [each.location for each in archive.holdings() if each.feed == feed]
        if not held:
            fix = f"give --location L, as {source.name} or the locations file calls it"
            raise InputError("--location", f"is not given, and no location of {source.name} is archived", fix)
        # The archive holds the names of the source, so nothing is translated.
        return dict(zip(held, held, strict=True))
    return {place: called.get(place, place) for place in places}


@options.command(
    app, "export", "lowcarb archive export --forecasts forecasts.csv --actuals actuals.csv --location GB"
)
def export(
    context: typer.Context,
    forecasts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write forecasts: .csv or .parquet.")
    ] = None,
    actuals: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write past intensity: .csv or .parquet.")
    ] = None,
    location: Location = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this source. Default: all.")
    ] = None,
    signal: Annotated[
        str | None,
        typer.Option(metavar="SIGNAL", help="Only this signal: average, marginal or unknown."),
    ] = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Only data from this server.")] = None,
    archive_dir: ArchiveDir = None,
    as_json: options.Json = False,
) -> None:
    """Write trace files for the source traces and for backtests."""
    if forecasts is None and actuals is None:
        raise InputError("--forecasts", "no output file is given", "give --forecasts or --actuals, or both")
    runtime = context.ensure_object(Runtime)
    archive = _opened(runtime, Settings.load(options={"archive_dir": archive_dir}))
    # Values of different feeds in one file could not be told apart.
    wanted = {"source": source, "signal": signal, "server": server}
    chosen = choose(archive, location or (), {key: value for key, value in wanted.items() if value})
    documents: dict[str, dict[str, Any]] = {}
    for kind, path in (("forecasts", forecasts), ("actuals", actuals)):
        if path is not None:
            with output.progress(runtime.console(stderr=True), "writing", len(chosen)) as done:
                rows, locations = write_traces(archive, kind, chosen, path, done)
            documents[kind] = {"path": str(path), "rows": rows, "locations": locations}
    if as_json:
        output.write_document(documents)
        return
    screen = runtime.console()
    for kind, file in documents.items():
        places = ", ".join(file["locations"])
        output.print_line(screen, f"{kind}: {file['rows']} rows of {places} in {file['path']}")


@options.command(
    app,
    "import",
    "lowcarb archive import DE_2023_hourly.csv FR_2023_hourly.csv --to actual.parquet",
    "lowcarb archive import Carbon_Intensity_Data.csv",
)
def import_files(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Files of Electricity Maps (CSV) or NESO (CSV, JSON), or traces."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a trace file: .csv or .parquet. Default: the archive."),
    ] = None,
    factor: Annotated[
        str, typer.Option(metavar="F", help="Emission factor of Electricity Maps: direct or lifecycle.")
    ] = "direct",
    signal: Annotated[
        str, typer.Option(metavar="SIGNAL", help="Signal of trace files: average, marginal or unknown.")
    ] = "unknown",
    archive_dir: ArchiveDir = None,
    as_json: options.Json = False,
) -> None:
    """Import past intensity from downloaded files, into the archive or a trace file."""
    runtime = context.ensure_object(Runtime)
    downloads = read_all(files, factor, signal)
    if to is not None:
        imported = write_trace(downloads, to)
        where = str(to)
    else:
        archive = _opened(runtime, settings := Settings.load(options={"archive_dir": archive_dir}))
        imported = into_archive(downloads, archive, settings.archive_days, runtime.clock.now())
        where = str(archive.path)
    if as_json:
        output.write_document({"path": where, "locations": [asdict(each) for each in imported]})
        return
    screen = runtime.console()
    output.print_title(screen, f"Stored in {where}")
    place = Column("location", whole=True)
    columns = (place, "source", "signal", "from (UTC)", "to (UTC)", right("hours"))
    rows = [
        (each.location, each.source, each.signal,
         formatting.instant(each.first), formatting.instant(each.last), f"{each.hours:g}")
        for each in imported
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


@options.command(app, "prune", "lowcarb archive prune --days 90")
def prune(
    context: typer.Context,
    days: Annotated[
        int | None,
        typer.Option(min=0, max=3650, metavar="N", help="Days to keep. Default: LOWCARB_ARCHIVE_DAYS."),
    ] = None,
    archive_dir: ArchiveDir = None,
    as_json: options.Json = False,
) -> None:
    """Delete old data."""
    runtime = context.ensure_object(Runtime)
    archive = _opened(runtime, settings := Settings.load(options={"archive_dir": archive_dir}))
    # Zero days empty the archive, so only None means the setting.
    keep = settings.archive_days if days is None else days
    exists = archive.path.exists()  # opening the database would create it
    issues, values = archive.prune(timedelta(days=keep)) if exists else (0, 0)
    size = archive.path.stat().st_size if exists else 0
    if as_json:
        output.write_document({"days": keep, "issues": issues, "actuals": values, "size_bytes": size})
        return
    deleted = (
        f"deleted {formatting.counted(issues, 'forecast')} and {formatting.counted(values, 'actual value')} "
        f"older than {formatting.counted(keep, 'day')}"
    )
    output.print_line(runtime.console(), f"{deleted}; {archive.path} takes {size / _MEGABYTE:.1f} MB")


def _opened(runtime: Runtime, settings: Settings) -> Archive:
    """Return the archive.

    Raises
    ------
    InputError
        If the settings switch the archive off.
    """
    archive = registry.open_archive(settings, runtime.clock)
    if archive is None:
        raise InputError("archive-dir", "is none: the archive is off", "set LOWCARB_ARCHIVE_DIR to a folder")
    return archive


# -- lowcarb archive import --------------------------------------------------------------------------------

_FACTORS = "direct", "lifecycle"


@dataclass(frozen=True, slots=True)
class Imported:
    """Imported series of a location.

    Parameters
    ----------
    location, source, signal : str
        The location, and where its values come from.
    first, last : datetime
        Start and end of the series.
    hours : float
        Time with a value [h], which gaps make shorter than the period.
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
        If a file is unreadable, or the factor or signal is unknown.
    """
    if factor not in _FACTORS:
        raise unknown_name("--factor", factor, _FACTORS)
    # Provenance refuses an unknown signal.
    measured = Provenance(None, cast("Signal", signal)).signal
    return [read_download(file, cast("Factor", factor), measured) for file in files]


def write_trace(downloads: Sequence[Download], path: Path) -> list[Imported]:
    """Write all downloads to one trace file; where they overlap, the first one counts.

    Raises
    ------
    InputError
        If the signals differ, or writing fails.
    """
    # Files of several years or locations become one table.
    whole = reduce(IntensityTable.fill, (each.table for each in downloads))
    with TraceWriter(path, issued=False, field="--to") as writer:
        for location, series in columns_of(whole).items():
            writer.add(location, [(0, series)])
    return list(_imported(whole))


def into_archive(
    downloads: Sequence[Download], archive: Archive, keep_days: int, now: datetime
) -> list[Imported]:
    """Store all downloads as history.

    Raises
    ------
    InputError
        If a download is older than the archive keeps, or writing fails.
    """
    # The archive would delete such data at its next write.
    oldest = now - timedelta(days=keep_days)
    for each in downloads:
        if each.table.end <= oldest:
            problem = f"ends {each.table.end:%Y-%m-%d}, and the archive keeps {keep_days} days"
            fix = "give --to FILE for a backtest, or set LOWCARB_ARCHIVE_DAYS"
            raise InputError("--to", problem, fix)
    imported: list[Imported] = []
    for each in downloads:
        # A download of data that a web source gives too has the address of that source, and continues it.
        archive.put_actual(Feed(each.table.source, each.table.signal, each.server), each.table)
        imported += _imported(each.table)
    return imported


def _imported(table: IntensityTable) -> Iterator[Imported]:
    for location, series in columns_of(table).items():
        # The last value holds until the end of the series.
        edges = np.append(series.times_us, series.end_us)
        hours = float(np.diff(edges)[~np.isnan(series.values)].sum() / HOUR_US)
        yield Imported(location, table.source, table.signal, from_us(edges[0]), from_us(edges[-1]), hours)
