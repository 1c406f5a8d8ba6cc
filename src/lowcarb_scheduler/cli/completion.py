"""What a shell completes beside commands and options: sources, signals and places, without asking the web."""

# No `from __future__ import annotations`: typer reads the annotations as it completes.

from collections.abc import Iterator, Mapping
from typing import Any

import typer


def sources(incomplete: str) -> list[str]:
    """Return the sources that may be meant, after a comma too."""
    from lowcarb_scheduler.forecasts.opening import SOURCES

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
    from lowcarb_scheduler.forecasts.opening import named_sources, open_archive, open_source
    from lowcarb_scheduler.settings import Settings

    options = {name: given.get(name) for name in ("source", "traces", "archive_dir")}
    settings = Settings.load(options=options)
    for name in named_sources(settings):
        if name in ("synthetic", "traces"):
            yield from getattr(open_source(name, settings), "locations", ())
    archive = open_archive(settings)
    if archive is not None and archive.path.exists():
        yield from (holding.location for holding in archive.holdings())
