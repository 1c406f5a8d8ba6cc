"""Readers of figures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lowcarb_scheduler.report.figure import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def texts(figure: Figure) -> list[str]:
    """Return all texts of a figure."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def words(figure: Figure) -> str:
    """Return all texts of a figure in one line: a caption may be wrapped anywhere."""
    return " ".join(" ".join(texts(figure)).split())


def svg(figure: Figure) -> str:
    """Return a figure as it is saved to an SVG file."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "figure.svg"
        save(figure, file)
        return file.read_text(encoding="utf-8")
