"""Formulas of notebooks as pictures in the page: nothing is loaded for them, and they follow dark mode."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_CODE = re.compile(r"(^ *(````?)\w*\n.*?^ *\2$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+)\$", re.DOTALL)
_NAMES = {r"\\ge(?![a-z])": r"\\geq", r"\\le(?![a-z])": r"\\leq"}  # short names that matplotlib does not have
_NOISE = re.compile(
    r'<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>| id="(?:figure|text|axes|patch)_\d+"', re.DOTALL
)
_PX = 1.2 * 16 / 12  # of a page, by point of a letter; a little larger, as its letters are small


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Draw each formula of a notebook; in code a dollar is a dollar."""
    if not page.file.src_path.startswith("notebooks/"):
        return markdown
    parts = _CODE.split(markdown)  # text, code, its fence or None, text, ...
    for k in range(0, len(parts), 3):
        parts[k] = _FORMULA.sub(_drawn, parts[k])
    return "".join(part for k, part in enumerate(parts) if k % 3 != 2)


def _drawn(found: re.Match[str]) -> str:
    tex = " ".join((found["block"] or found["inline"]).split())
    picture = svg(tex)
    return f'<div class="formula">{picture}</div>' if found["block"] else picture


def svg(tex: str) -> str:
    """Return a formula as an SVG element in the colour of the text, with its source as a label."""
    import matplotlib  # only where a page has a formula
    from matplotlib.mathtext import math_to_image

    file = io.BytesIO()
    # Ids of glyphs must differ between the formulas of a page.
    style = {
        "svg.hashsalt": tex,
        "svg.fonttype": "path",
        "mathtext.fontset": "cm",
        "savefig.transparent": True,
    }
    known = tex
    for name, other in _NAMES.items():
        known = re.sub(name, other, known)
    with matplotlib.rc_context(style):
        depth = math_to_image(f"${known}$", file, dpi=72, format="svg")
    drawn = file.getvalue().decode()
    drawn = _NOISE.sub("", drawn[drawn.index("<svg") :])
    width, height = (float(size) * _PX for size in re.findall(r'(?:width|height)="([\d.]+)pt"', drawn))
    view = re.search(r'viewBox="[^"]+"', drawn)[0]
    inner = " ".join(drawn[drawn.index(">") + 1 :].split())
    shown = f"vertical-align:{-depth * _PX:.1f}px;fill:currentColor"
    size = f'width="{width:.1f}" height="{height:.1f}" {view} style="{shown}"'
    label = f'role="img" aria-label="{html.escape(tex)}"'
    return f'<svg class="formula" {label} {size} xmlns:xlink="http://www.w3.org/1999/xlink">{inner}'
