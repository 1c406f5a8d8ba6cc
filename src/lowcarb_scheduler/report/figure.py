"""A picture of the report: drawn once for a file, and for the page twice, wide and for a phone.

In a file it has a heading and says below what is to be seen. On the page both are text of the page, and its
colours are those of the page, so that light, dark and print need no drawing of their own.
"""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report.style import (
    DEADLINE,
    FAINT,
    INK,
    LINE,
    NARROW_IN,
    NO_VALUE,
    PAGE_IN,
    PLANNED,
    SOFT,
    WIDTH_IN,
    head,
    writing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure

_LONGEST_LINE: Final = 165  # characters
_WORDS_IN: Final = 0.9  # what heading and explanation take of a file's height
_EDGE: Final = {"w_pad": 0.12, "h_pad": 0.1}  # inches left free around what stands in a file
_ROLES: Final[Mapping[str, str]] = {
    INK: "ink", SOFT: "soft", FAINT: "faint", NO_VALUE: "grid", LINE: "accent", PLANNED: "planned",
    DEADLINE: "deadline",
}  # fmt: skip
_TAG: Final = re.compile(r"<[^>]+>")  # in text, both brackets are escaped
_NAME: Final = re.compile(r' id="([^"]*)"')
_COLOUR: Final = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn, and what is said of it.

    Parameters
    ----------
    name : str
        Of its files, without a suffix.
    title : str
        What one sees, in a few words.
    labels : str
        What its numbers are.
    says : tuple of str
        What each mark means.
    draw : callable
        Draws it so many inches wide, without a heading.
    """

    name: str
    title: str
    labels: str
    says: tuple[str, ...]
    draw: Callable[[float], Figure]

    @property
    def caption(self) -> str:
        """What each mark means, and what the numbers are, as sentences."""
        return " ".join(f"{part[:1].upper()}{part[1:]}." for part in map(one_line, (*self.says, self.labels)))

    def figure(self) -> Figure:
        """Return it as it stands in a file, with its heading and what it says."""
        figure = self.draw(WIDTH_IN)
        figure.set_figheight(figure.get_figheight() + _WORDS_IN)
        if (layout := figure.get_layout_engine()) is not None:
            layout.set(**_EDGE)
        head(figure.axes[0], _plain(self.title), self.labels)
        says = _plain(textwrap.fill("; ".join(self.says), _LONGEST_LINE))
        figure.supxlabel(says, fontsize=8, color=INK)
        return figure

    def inline(self) -> str:
        """Return it as two elements of a page, ``.wide`` and ``.narrow``; only one of them is to be shown."""
        return self._element("wide", PAGE_IN) + self._element("narrow", NARROW_IN)

    def _element(self, variant: str, width_in: float) -> str:
        buffer = io.BytesIO()
        # The salt keeps names of parts apart: one that is hidden must not lend its parts to another.
        with writing(salt=f"{self.name} {variant}", text="none"):
            figure = self.draw(width_in)
            figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=110, transparent=True)
        return element(buffer.getvalue().decode(), variant, f"{self.title}. {self.caption}")


def element(svg: str, variant: str, label: str) -> str:
    """Return an SVG file as an element of a page, in the page's colours."""
    start = svg.index("<svg")
    view = re.search(r'viewBox="[^"]*"', svg[start:])
    assert view is not None  # matplotlib writes one
    body = svg[svg.index("<g ", start) :].rstrip()  # not its defs before, whose style would be the page's
    used = set(re.findall(r"#([\w.]+)", body))

    def of_the_page(tag: re.Match[str]) -> str:
        named = _NAME.sub(lambda name: name[0] if name[1] in used else "", tag[0])
        return _COLOUR.sub(lambda colour: f"{colour[1]}: {_colour(colour[2])}", named)

    body = _TAG.sub(of_the_page, body)
    opening = f'<svg class="{variant}" {view[0]} role="img" aria-label="{escape(label)}" '
    return f'{opening}xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def _plain(text: str) -> str:
    """Return text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")


def _colour(colour: str) -> str:
    return f"var(--{_ROLES[colour]})" if colour in _ROLES else colour
