"""Options that several commands share, and the forecast source they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    import click

    from lowcarb_scheduler.forecasts.base import ForecastSource


PLOT_FORMATS: Final = (".pdf", ".png", ".svg")


# -- What a shell completes beside commands and options: sources, signals and places, without asking the web


def sources(incomplete: str) -> list[str]:
    """Return the sources that may be meant, after a comma too."""
    from lowcarb_scheduler.forecasts.registry import SOURCES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in SOURCES if name.startswith(last)]


def signals(incomplete: str) -> list[str]:
    """Return the signals that may be meant."""
    from lowcarb_scheduler.intensity import SIGNALS

    return [name for name in SIGNALS if name.startswith(incomplete)]


def locations(context: typer.Context, incomplete: str) -> list[str]:
    """Return the places that may be meant: of a source on this machine, and of the archive."""
    from lowcarb_scheduler.errors import LowcarbError

    try:
        names = set(_places(context.params))
    except (LowcarbError, OSError):
        return []  # the command itself will say what is wrong
    return sorted(name for name in names if name.lower().startswith(incomplete.lower()))


def _places(given: Mapping[str, Any]) -> Iterator[str]:
    from lowcarb_scheduler.forecasts.registry import named_sources, open_archive, open_source
    from lowcarb_scheduler.settings import Settings

    options = {name: given.get(name) for name in ("source", "traces", "archive_dir")}
    settings = Settings.load(options=options)
    for name in named_sources(settings):
        if name in ("synthetic", "traces"):
            yield from open_source(name, settings).locations or ()
    archive = open_archive(settings)
    if archive is not None and archive.path.exists():
        yield from (holding.location for holding in archive.holdings())


def _plot_file(path: Path | None) -> Path | None:
    """Refuse a picture that could not be written before anything is computed."""
    if path is None:
        return None
    if path.suffix.lower() not in PLOT_FORMATS:
        raise InputError("--plot", f"{path} is no picture file", f"end it in {', '.join(PLOT_FORMATS)}")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError("--plot", f"{path} cannot be written", "give a file in a folder that exists")
    return path


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", callback=_plot_file, help="Draw it too: .png, .svg or .pdf."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        autocompletion=sources,
        help="Who is asked, or several in order: a,b [LOWCARB_SOURCE].",
    ),
]
SdkUrl = Annotated[
    str | None,
    typer.Option(
        "--carbon-aware-sdk-url",
        "--sdk-url",
        metavar="URL",
        help="Address of the Carbon Aware SDK server [LOWCARB_CARBON_AWARE_SDK_URL].",
    ),
]
SdkSignal = Annotated[
    str | None,
    typer.Option(
        "--sdk-signal",
        metavar="SIGNAL",
        autocompletion=signals,
        help="average, marginal or unknown [LOWCARB_SDK_SIGNAL].",
    ),
]
Traces = Annotated[
    Path | None,
    typer.Option("--traces", metavar="FILE", help="CSV or Parquet of the source traces [LOWCARB_TRACES]."),
]


def source_options(
    source: str | None, carbon_aware_sdk_url: str | None, sdk_signal: str | None, traces: Path | None
) -> dict[str, Any]:
    """Return the options that choose a source as settings by field name; None is not given."""
    return {
        "source": source, "carbon_aware_sdk_url": carbon_aware_sdk_url, "sdk_signal": sdk_signal,
        "traces": traces,
    }  # fmt: skip


def configured_source(options: Mapping[str, Any]) -> ForecastSource:
    """Open the source, or several in fallback order, that options, environment or ``.env`` name.

    Raises
    ------
    InputError
        If no source is named, or a source cannot be opened.
    """
    from lowcarb_scheduler.forecasts.registry import open_sources
    from lowcarb_scheduler.settings import Settings

    opened = open_sources(Settings.load(options=options))
    if opened is None:
        raise no_source()
    return opened


def no_source() -> InputError:
    """Return the error for a command that needs a source where none is named."""
    from lowcarb_scheduler.forecasts.registry import SOURCES

    fix = f"give --source or set LOWCARB_SOURCE: {', '.join(SOURCES)}"
    return InputError("--source", "no forecast source is named", fix)


# -- How a command's help looks: drawn on a terminal, plain in a pipe, with examples at its end -------------

_PARAGRAPH = "\n\n"  # what typer makes a line each of


def examples(*lines: str) -> str:
    """Return the epilog of a command's help."""
    return _PARAGRAPH.join(("Examples:", *lines))


class Command(TyperCommand):
    """A command whose examples stand a line each, in plain text too."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help; in plain text typer leaves a backslash before each bracket of its own."""
        return super().get_help(ctx).replace("\\[", "[")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, so that they can be copied."""
        if self.epilog:
            title, *lines = self.epilog.split(_PARAGRAPH)
            formatter.write(f"\n{title}\n")
            formatter.write("".join(f"  {line}\n" for line in lines))
