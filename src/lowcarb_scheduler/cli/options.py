"""Options that several commands share, and the forecast source they name."""

# No `from __future__ import annotations` in the modules of commands: typer reads annotations as it runs.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.cli import completion
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.source import ForecastSource

PLOT_FORMATS: Final = (".pdf", ".png", ".svg")


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
        autocompletion=completion.sources,
        help="Who is asked, or several in order: a,b [LOWCARB_SOURCE].",
    ),
]
SdkUrl = Annotated[
    str | None,
    typer.Option("--sdk-url", metavar="URL", help="Where the Carbon Aware SDK answers [LOWCARB_SDK_URL]."),
]
SdkSignal = Annotated[
    str | None,
    typer.Option(
        "--sdk-signal",
        metavar="SIGNAL",
        autocompletion=completion.signals,
        help="average, marginal or unknown [LOWCARB_SDK_SIGNAL].",
    ),
]
Traces = Annotated[
    Path | None,
    typer.Option("--traces", metavar="FILE", help="CSV or Parquet of the source traces [LOWCARB_TRACES]."),
]


def configured_source(
    source: str | None, sdk_url: str | None, sdk_signal: str | None, traces: Path | None
) -> "ForecastSource":
    """Open the source that options, environment or ``.env`` name, or several in order, with its archive.

    Raises
    ------
    InputError
        If none is named, or what is named cannot be opened.
    """
    from lowcarb_scheduler.forecasts.opening import SOURCES, open_sources
    from lowcarb_scheduler.settings import Settings

    settings = Settings.load(
        options={"source": source, "sdk_url": sdk_url, "sdk_signal": sdk_signal, "traces": traces}
    )
    opened = open_sources(settings)
    if opened is None:
        fix = f"give --source or set LOWCARB_SOURCE: {', '.join(SOURCES)}"
        raise InputError("--source", "no forecast source is named", fix)
    return opened
