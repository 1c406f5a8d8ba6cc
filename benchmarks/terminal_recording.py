"""Record ``lowcarb status --watch`` during the demo, as an animated picture for README and docs.

    python benchmarks/terminal_recording.py [--run-dir runs/demo] [--out docs/how-to/watch.svg]

Runs ``lowcarb demo`` first if RUN_DIR has no ledger yet. Each frame is the view of the run as it was when an
event came, drawn by the code of the command; colours and letters are those of a terminal of 80 columns. The
picture needs no script and loads nothing. All its numbers are synthetic.
"""

from __future__ import annotations

import argparse
import io
from datetime import UTC
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from lowcarb_scheduler.demo.runner import run_demo
from lowcarb_scheduler.events import HoldStarted, RoundOpened, RunFinished
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.monitor.state import RunState
from lowcarb_scheduler.monitor.view import COLOUR, RunView
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.segment import Segment

WIDTH = 80  # columns
CELL, LINE, MARGIN = 8.4, 18, 16  # size of a letter, distance of lines, and border [px]
FRAME_S, LAST_S = 1.0, 4.0
MOST_FRAMES = 24
INK, DIM, PAPER = "#d7ddd8", "#8b958d", "#161a18"
THEME = TerminalTheme((22, 26, 24), (215, 221, 216), [(0, 0, 0)] * 8, [(128, 128, 128)] * 8)


def frames_of(run_dir: Path) -> list[list[list[Segment]]]:
    """Return the lines of each frame: holds and openings, spread over the run, and its end."""
    events = read_ledger(run_dir)
    kinds = (HoldStarted, RoundOpened, RunFinished)
    chosen = [k for k, event in enumerate(events) if isinstance(event, kinds)]
    step = max(1, -(-len(chosen) // MOST_FRAMES))
    chosen = sorted({*chosen[::step], chosen[-1]})
    screen = Console(
        width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    frames = []
    for k in chosen:
        run = RunState.of(events[: k + 1], is_alive=True)
        view = RunView(run, events[k].at, Times(UTC), COLOUR)
        frames.append(screen.render_lines(view, pad=False))
    return frames


def drawn(line: Sequence[Segment], at: float) -> str:
    """Return a line of a terminal: backgrounds as rectangles, letters of one style as one text."""
    boxes, texts, column = [], [], 0
    for style, run in groupby(line, key=lambda segment: segment.style):
        text = "".join(segment.text for segment in run)
        x, width = MARGIN + column * CELL, len(text) * CELL
        column += len(text)
        if style is not None and style.bgcolor is not None and not style.bgcolor.is_default:
            colour = style.bgcolor.get_truecolor(THEME).hex
            boxes.append(
                f'<rect x="{x:g}" y="{at - 13:g}" width="{width:g}" height="{LINE}" fill="{colour}"/>'
            )
        if not text.strip():
            continue
        colour = INK
        if style is not None and style.color is not None and not style.color.is_default:
            colour = style.color.get_truecolor(THEME).hex
        elif style is not None and style.dim:
            colour = DIM
        bold = ' font-weight="700"' if style is not None and style.bold else ""
        kept = escape(text)
        texts.append(f'<text x="{x:g}" y="{at:g}" textLength="{width:g}" fill="{colour}"{bold}>{kept}</text>')
    return "".join(boxes + texts)


def picture(frames: Sequence[Sequence[Sequence[Segment]]]) -> str:
    """Return the recording as SVG; who prefers no motion sees the frame in the middle."""
    height = MARGIN * 2 + 28 + LINE * max(map(len, frames))
    width = MARGIN * 2 + WIDTH * CELL
    whole_s = FRAME_S * (len(frames) - 1) + LAST_S
    rules, groups = [], []
    for k, frame in enumerate(frames):
        since = 100 * FRAME_S * k / whole_s
        until = 100 * FRAME_S * (k + 1) / whole_s if k + 1 < len(frames) else 100.0
        rules.append(
            f"@keyframes f{k}{{0%{{opacity:{int(k == 0)}}}{since:.3f}%{{opacity:1}}{until:.3f}%,100%"
            f"{{opacity:{int(k + 1 == len(frames))}}}}}#f{k}{{animation:f{k} {whole_s:g}s step-end infinite}}"
        )
        top = MARGIN + 28 + 13
        lines = "".join(drawn(line, top + LINE * row) for row, line in enumerate(frame))
        groups.append(f'<g id="f{k}">{lines}</g>')
    middle = f"g{{animation:none!important}}#f{len(frames) // 2}{{opacity:1}}"
    still = f"@media (prefers-reduced-motion:reduce){{{middle}}}"
    style = "g{opacity:0}text{white-space:pre}" + "".join(rules) + still
    command = "$ lowcarb status runs/demo --watch"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'shape-rendering="crispEdges" '
        'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="14">'
        f"<title>lowcarb status --watch during the demo</title><style>{style}</style>"
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{PAPER}"/>'
        f'<text x="{MARGIN}" y="{MARGIN + 10}" fill="{DIM}">{command}</text>{"".join(groups)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/how-to/watch.svg"))
    given = parser.parse_args()
    if not (given.run_dir / FILE_NAME).exists():
        run_demo(Console(stderr=True), given.run_dir)
    given.out.write_text(picture(frames_of(given.run_dir)), encoding="utf-8")


if __name__ == "__main__":
    main()
