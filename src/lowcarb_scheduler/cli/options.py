"""Options that several commands share, the forecast source that they choose, and the style of help pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo

from lowcarb_scheduler.errors import InputError, LowcarbError
from lowcarb_scheduler.forecasts import registry
from lowcarb_scheduler.intensity import SIGNALS
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    import click

    from lowcarb_scheduler.cli.runtime import Runtime
    from lowcarb_scheduler.forecasts.base import ForecastSource


Function = TypeVar("Function", bound="Callable[..., Any]")
PLOT_FORMATS: Final = (".pdf", ".png", ".svg")


# -- Shell completion of values ----------------------------------------------------------------------------
# Completion must answer within a keystroke, so it never asks a server.


def sources(incomplete: str) -> list[str]:
    """Complete the name of a source, also after a comma."""
    # Several sources are given in one option, separated by commas.
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in registry.SOURCES if name.startswith(last)]


def signals(incomplete: str) -> list[str]:
    """Complete the name of a signal."""
    return [name for name in SIGNALS if name.startswith(incomplete)]


def locations(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a location, from sources on this machine and from the archive."""
    try:
        names = set(_known_locations(context.params))
    except (LowcarbError, OSError):
        return []  # the command itself reports the error
    return sorted(name for name in names if name.lower().startswith(incomplete.lower()))


def _known_locations(given: Mapping[str, Any]) -> Iterator[str]:
    options = {name: given.get(name) for name in ("source", "traces", "archive_dir")}
    settings = Settings.load(options=options)
    for name in registry.named_sources(settings):
        # Other sources would have to be asked over the network.
        if name in ("synthetic", "traces"):
            yield from registry.open_source(name, settings).locations or ()
    archive = registry.open_archive(settings)
    # Opening the database would create it.
    if archive is not None and archive.path.exists():
        yield from (holding.location for holding in archive.holdings())


def _plot_file(path: Path | None) -> Path | None:
    """Refuse a chart file that cannot be written, before anything is computed."""
    if path is None:
        return None
    # matplotlib would refuse the format only after the planning.
    if path.suffix.lower() not in PLOT_FORMATS:
        raise InputError("--plot", f"{path} is not a chart file", f"end it in {', '.join(PLOT_FORMATS)}")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError("--plot", f"{path} cannot be written", "give a file in a folder that exists")
    return path


def location_option(help_text: str) -> Any:
    """Return the option that names locations, one each time it is given."""
    return typer.Option("--location", metavar="L", autocompletion=locations, help=help_text)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=_plot_file, help="Also save a chart: .png, .svg or .pdf."),
]
_IN_ORDER: Final = "Forecast source(s), in fallback order: a,b [LOWCARB_SOURCE]."
Source = Annotated[str | None, typer.Option(metavar="NAME", autocompletion=sources, help=_IN_ORDER)]
_SDK_URL: Final = "Address of the Carbon Aware SDK server [LOWCARB_CARBON_AWARE_SDK_URL]."
# The second name is the former one, which scripts may still use.
SdkUrl = Annotated[
    str | None, typer.Option("--carbon-aware-sdk-url", "--sdk-url", metavar="URL", help=_SDK_URL)
]
_SDK_SIGNAL: Final = "Signal of that server: average, marginal, unknown [LOWCARB_SDK_SIGNAL]."
SdkSignal = Annotated[str | None, typer.Option(metavar="SIGNAL", autocompletion=signals, help=_SDK_SIGNAL)]
_TRACES: Final = "CSV or Parquet file of the source traces [LOWCARB_TRACES]."
AllowImplausible = Annotated[
    bool, typer.Option("--allow-implausible", help="Accept implausible values in files.")
]
Traces = Annotated[Path | None, typer.Option(metavar="FILE", help=_TRACES)]


def source_options(
    source: str | None, carbon_aware_sdk_url: str | None, sdk_signal: str | None, traces: Path | None
) -> dict[str, Any]:
    """Return the options that choose a source as settings by field name; None is not given."""
    return {
        "source": source, "carbon_aware_sdk_url": carbon_aware_sdk_url, "sdk_signal": sdk_signal,
        "traces": traces,
    }  # fmt: skip


def configured_source(options: Mapping[str, Any], runtime: Runtime) -> ForecastSource:
    """Open the source, or several in fallback order, that options, environment or ``.env`` name.

    Raises
    ------
    InputError
        If no source is named, or a source cannot be opened.
    """
    opened = registry.open_sources(Settings.load(options=options), runtime.clock, runtime.open_source)
    if opened is None:
        raise no_source()
    return opened


def no_source() -> InputError:
    """Return the error for a command that needs a source where none is named."""
    fix = f"give --source or set LOWCARB_SOURCE: {', '.join(registry.SOURCES)}"
    return InputError("--source", "no forecast source is named", fix)


# -- Help pages: drawn on a terminal, plain in a pipe, with examples at the end -----------------------------

_PARAGRAPH = "\n\n"  # typer joins lines that only a single newline separates


class Command(TyperCommand):
    """Command whose help ends with examples, one on each line, also in plain text."""

    helps: ClassVar[Mapping[str, str]] = {}  # of its arguments, by name

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # With click 8.4 typer 0.20 loses the help of arguments: click's own constructor sets it to None.
        for each in self.params:
            if isinstance(each, TyperArgument) and not each.help:
                each.help = self.helps.get(each.name or "")

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: typer writes the arguments, and click 8.5 would write them a second time."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, without the backslashes that typer leaves before brackets in plain text."""
        return super().get_help(ctx).replace("\\[", "[")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples unwrapped, so that they can be copied."""
        if self.epilog:
            title, *lines = self.epilog.split(_PARAGRAPH)
            formatter.write(f"\n{title}\n")
            formatter.write("".join(f"  {line}\n" for line in lines))


def command(
    app: typer.Typer, name: str, *examples: str, hidden: bool = False
) -> Callable[[Function], Function]:
    """Return a decorator that registers a command with examples at the end of its help."""

    def register(function: Function) -> Function:
        helps = {"helps": dict(_argument_helps(function))}
        made = type("Command", (Command,), helps)
        epilog = _PARAGRAPH.join(("Examples:", *examples))
        return app.command(name, cls=made, epilog=epilog, hidden=hidden)(function)

    return register


def _argument_helps(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Yield name and help of the arguments of a command."""
    for name, hint in get_type_hints(function, include_extras=True).items():
        for each in getattr(hint, "__metadata__", ()):
            if isinstance(each, ArgumentInfo) and each.help:
                yield name, each.help
