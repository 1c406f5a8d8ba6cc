"""Charts with their texts, drawn for a file, and for the page twice: for a desktop and for a phone.

In a file a chart has a heading and a caption. In the page both are text of the page, and the chart takes the
page's colours, so that light mode, dark mode and print need no drawing of their own.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.report import style

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

_LONGEST_LINE, _LONGEST_HEADING = 165, 120  # characters
_TEXTS_IN: Final = 0.9  # height of heading and caption in a file
_EDGE: Final = {"w_pad": 0.12, "h_pad": 0.1}  # inches left free around a chart in a file
_ROLES: Final[Mapping[str, str]] = {
    style.INK: "ink", style.SOFT: "soft", style.FAINT: "faint", style.NO_VALUE: "grid", style.LINE: "accent",
    style.PLANNED: "planned", style.DEADLINE: "deadline",
}  # fmt: skip
_TAG: Final = re.compile(r"<[^>]+>")  # brackets in text are escaped, so this matches tags only
_NAME: Final = re.compile(r' id="([^"]*)"')
_TIPPED: Final = re.compile(rf'<g id="{style.TIPPED}([0-9a-f]+)">')
_PATH, _USE = re.compile(r"<path\b[^>]*/>"), re.compile(r"<use\b[^>]*/>")
_GROUP: Final = re.compile(r"</?g\b[^>]*>")
_COLOUR: Final = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its texts.

    Parameters
    ----------
    name : str
        Name of its files, without a suffix.
    title : str
        Heading.
    labels : str
        Source and signal of the intensity, and whether it is synthetic.
    legend : tuple of str
        Meaning of the marks, a phrase each.
    height_in : float
        Height without heading and caption [inches].
    paint : callable
        Draws the chart on an empty figure, which may be wide or narrow.
    """

    name: str
    title: str
    labels: str
    legend: tuple[str, ...]
    height_in: float
    paint: Callable[[Figure], None]

    @property
    def caption(self) -> str:
        """Legend and labels as sentences."""
        parts = map(one_line, (*self.legend, self.labels))
        return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)

    def draw(self, width_in: float) -> Figure:
        """Draw the chart alone, without heading and caption."""
        figure = style.new_figure(self.height_in, width_in)
        with style.theme():
            self.paint(figure)
        return figure

    def figure(self) -> Figure:
        """Draw the chart as it is saved to a file, with heading and caption."""
        figure = self.draw(style.WIDTH_IN)
        # The chart keeps its height; heading and caption get their own.
        figure.set_figheight(figure.get_figheight() + _TEXTS_IN)
        if (layout := figure.get_layout_engine()) is not None:
            layout.set(**_EDGE)
        # The layout leaves room for one heading only: the labels take its second line, which is empty.
        title = figure.suptitle(
            f"{style.plain(self.title)}\n",
            x=0.012,
            ha="left",
            fontsize=11,
            fontweight="bold",
            color=style.INK,
        )
        labels = style.short_name(self.labels, _LONGEST_HEADING)
        figure.axes[0].annotate(
            labels, (0, 0), xycoords=title, annotation_clip=False, fontsize=8.5, color=style.INK
        ).set_in_layout(False)
        legend = style.plain(textwrap.fill("; ".join(map(one_line, self.legend)), _LONGEST_LINE))
        figure.supxlabel(legend, x=0.012, ha="left", fontsize=8, color=style.INK)
        return figure

    def inline(self) -> str:
        """Return two elements of a page, ``.wide`` and ``.narrow``, of which the page shows one."""
        return self._element("wide", style.PAGE_IN) + self._element("narrow", style.NARROW_IN)

    def _element(self, variant: str, width_in: float) -> str:
        buffer = io.BytesIO()
        # Text stays text, which can be searched and read aloud, in the font of the page.
        # The salt keeps ids apart: one element must not refer to parts of another that is hidden.
        with style.reproducible(salt=f"{self.name} {variant}", text="none"):
            figure = self.draw(width_in)
            figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=110, transparent=True)
        return element(with_tips(buffer.getvalue().decode()), variant, f"{self.title}. {self.caption}")


def element(svg: str, variant: str, label: str) -> str:
    """Return an SVG file as an element of a page, in the page's colours."""
    start = svg.index("<svg")
    view = re.search(r'viewBox="[^"]*"', svg[start:])
    assert view is not None  # matplotlib writes one
    body = svg[svg.index("<g ", start) :].rstrip()  # without its style, which would apply to the whole page
    # matplotlib numbers all groups alike: ids without a reference would clash with those of other charts.
    used = set(re.findall(r"#([\w.]+)", body))

    def adapt(tag: re.Match[str]) -> str:
        named = _NAME.sub(lambda name: name[0] if name[1] in used else "", tag[0])
        return _COLOUR.sub(lambda c: f"{c[1]}: var(--{_ROLES[c[2]]})" if c[2] in _ROLES else c[0], named)

    body = _TAG.sub(adapt, body)
    opening = f'<svg class="{variant}" {view[0]} role="img" aria-label="{escape(label)}" '
    return f'{opening}xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def with_tips(svg: str) -> str:
    """Return an SVG file in which the texts of :func:`~lowcarb_scheduler.report.style.tip` are titles."""
    pieces, at = [], 0
    for found in _TIPPED.finditer(svg):
        pieces += [svg[at : found.start()], "<g>"]
        at = found.end()
        titles = [f"<title>{escape(text)}</title>" for text in json.loads(bytes.fromhex(found[1]).decode())]
        if len(titles) == 1:
            pieces.append(titles[0])
            continue
        end = _end_of_group(svg, at)
        group = svg[at:end]
        # Marks of one shape are drawn by reference to it. Marks that are pixels stay without texts.
        pattern = _USE if _USE.search(group) else _PATH
        if len(pattern.findall(group)) == len(titles):
            left = iter(titles)
            group = pattern.sub(lambda mark, left=left: f"<g>{next(left)}{mark[0]}</g>", group)  # type: ignore[misc]
        pieces.append(group)
        at = end
    return "".join([*pieces, svg[at:]])


def _end_of_group(svg: str, at: int) -> int:
    """Return where the group ends whose content begins at a position."""
    depth = 1
    for tag in _GROUP.finditer(svg, at):
        depth += -1 if tag[0].startswith("</") else 0 if tag[0].endswith("/>") else 1
        if not depth:
            return tag.start()
    return len(svg)


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of the file.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    kind = file.suffix[1:].lower()
    # A date in the metadata would make equal figures differ.
    undated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    buffer = io.BytesIO()
    with style.reproducible():
        figure.savefig(buffer, format=kind, metadata=undated, dpi=150, facecolor="white")
        content = buffer.getvalue()
        try:
            file.write_bytes(with_tips(content.decode()).encode() if kind == "svg" else content)
        except OSError as error:
            problem = f"{file} cannot be written ({error.strerror})"
            raise InputError("plot", problem, "give another file") from None
