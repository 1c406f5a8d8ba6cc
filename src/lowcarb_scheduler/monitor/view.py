"""View of one run in a terminal: a pure function from its state and the time to lines that fit any width."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.monitor.cells import edges_of, means_of
from lowcarb_scheduler.monitor.facts import doing, facts_of, problems_of, told
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from lowcarb_scheduler.events import Window
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.monitor.state import RunState
    from lowcarb_scheduler.report.formatting import Times

MOST_PLACES: Final = 8
_MOST_ROUNDS, _MOST_PROBLEMS, _MOST_EVENTS = 5, 3, 5
_NEXT_ROUNDS: Final = 8  # in the strip of hours: as many as each plan in a ledger lists
_LABEL, _LONGEST_NAME, _BAR, _TIME = 16, 14, 30, 9  # columns
_DAY: Final = timedelta(days=1)
_WIDEST_CELL, _WIDEST_STRIP = 3, 120  # columns
# Anchors of cividis, as in the charts: even to the eye, also with a colour vision deficiency; dark is clean.
_RAMP: Final = np.array([(0, 34, 78), (67, 78, 108), (125, 124, 120), (188, 174, 108), (254, 232, 56)], float)


@dataclass(frozen=True, slots=True)
class Look:
    """Signs that a terminal can show.

    Parameters
    ----------
    shades : str
        Characters for intensities, from the cleanest to the dirtiest.
    bar : str
        Characters for the done and the remaining part of a bar.
    gap, cut : str
        Characters for an unknown value, and for the end of text that is too long.
    is_ascii : bool
        Whether it shows nothing but ASCII.
    has_colour : bool
        Whether intensities are colours instead of characters.
    """

    shades: str = "▁▂▃▄▅▆▇█"
    bar: str = "█░"
    gap: str = "·"
    cut: str = "…"
    is_ascii: bool = False
    has_colour: bool = False


PLAIN: Final = Look()
COLOUR: Final = Look(has_colour=True)
ASCII: Final = Look(shades=".:-=+*#@", bar="#-", gap="?", cut="~", is_ascii=True)


@dataclass(frozen=True, slots=True)
class RunView:
    """Renderable of rich: lines as wide as the console, none of them wrapped by it.

    Parameters
    ----------
    run : RunState
        The run.
    now : datetime
        Present.
    times : Times
        Writer of times.
    look : Look
        Signs to draw with.
    """

    run: RunState
    now: datetime
    times: Times
    look: Look = PLAIN

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        yield from self.lines(options.max_width)

    def lines(self, width: int) -> Iterator[Text]:
        """Yield the view as lines of at most ``width`` columns."""
        run, moment = self.run, self.run.moment(self.now)
        yield self._line(f"Run {run.run_id}: {doing(run)}", width, "bold")
        filled = round(_BAR * run.rounds_done / run.rounds) if run.rounds else _BAR
        bar = self.look.bar[0] * filled + self.look.bar[1] * (_BAR - filled)
        progress = "rounds done", f"{run.rounds_done} of {run.rounds} {bar}"
        for name, fact in (progress, *facts_of(run, self.now, self.times)):
            # A reason is only of use if it is whole, so facts are folded; names elsewhere are cut.
            folded = textwrap.wrap(self._plain(fact), max(width - _LABEL, _LABEL)) or [""]
            for k, part in enumerate(folded):
                yield self._cut(Text().append(("" if k else name).ljust(_LABEL), "dim").append(part), width)
        blocks = () if run.is_over else (self._strip(moment, width), self._rounds(moment, width))
        for block in (*blocks, self._problems(moment, width), self._events(moment, width)):
            lines = list(block)
            if lines:
                yield Text()
                yield from lines

    # -- Coming hours ------------------------------------------------------------------------------------

    def _strip(self, moment: datetime, width: int) -> Iterator[Text]:
        """Yield intensity by hour for the places that train next, above the openings of rounds."""
        width = min(width, _WIDEST_STRIP)
        if not (upcoming := self.run.upcoming[:_NEXT_ROUNDS]):
            return
        clients: Counter[str] = Counter()
        for window in upcoming:
            clients.update({name: n for name, n in window.locations.items() if name != UNKNOWN_PLACE})
        forecast = self.run.forecast
        if not clients or forecast is None or forecast.intensity.end <= moment:
            missing = "no forecast is known" if clients else "the locations of the next rounds are not known"
            yield self._line(f"Coming hours: {missing}", width, "bold")
            return
        places = sorted(clients, key=lambda name: (-clients[name], name))[:MOST_PLACES]
        names = [self._short(name) for name in places]
        label = max(map(cell_len, [*names, "opens"])) + 2
        columns = max(width - label, 1)  # of a terminal that is narrower than the names, nothing is left
        # Far beyond the next rounds the cells would only become coarser.
        end = max(upcoming[-1].closes_at, moment + _DAY)
        edges = edges_of(moment, min(end, forecast.intensity.end), columns)
        values = means_of(forecast.intensity, places, edges)
        known = values[np.isfinite(values)]
        if not len(known):
            yield self._line("Coming hours: no forecast is known for these locations", width, "bold")
            return
        low, high = float(known.min()), float(known.max())
        levels = (values - low) / (high - low) if high > low else np.where(np.isfinite(values), 0.0, np.nan)
        cell = min(_WIDEST_CELL, columns // len(levels))
        begins = [from_us(edge) for edge in edges[:-1]]
        head = f"Coming hours ({self.times.name(moment)})"
        if len(clients) > len(places):
            head += f", {len(places)} of {len(clients)} locations that train next"
        yield self._line(head, width, "bold")
        yield self._cut(Text().append(" " * label + self._axis(begins, cell), "dim"), width)
        for name, row in zip(names, levels.T, strict=True):
            line = Text(set_cell_size(name, label)).append_text(self._cells(row, cell))
            yield self._cut(line, width)
        opens = {window.round: window.opens_at for window in upcoming}
        marks = _marks(opens, edges, cell)
        yield self._cut(Text().append("opens".ljust(label), "dim").append(marks, "bold"), width)
        scale = self._cells(np.linspace(0, 1, len(self.look.shades)), 1)
        provenance = forecast.intensity.provenance
        about = "synthetic (made-up)" if provenance.synthetic else f"from {provenance.source}"
        signal = "unknown signal" if provenance.signal == "unknown" else provenance.signal
        issued = self.times.weekday(forecast.generated_at, moment)
        legend = Text().append(f"{formatting.significant(low)} ").append_text(scale)
        unit = f"{formatting.significant(high)} g/kWh, {signal}, {about}, issued {issued}"
        yield self._cut(legend.append(" ").append(self._plain(unit)), width)

    def _cells(self, levels: Floats, cell: int) -> Text:
        """Draw values between 0 and 1, each so many columns wide."""
        text, shades = Text(), self.look.shades
        for level in levels.tolist():
            if math.isnan(level):
                text.append(self.look.gap * cell, "dim")
            elif self.look.has_colour:
                text.append(" " * cell, Style(bgcolor=_colour(level)))
            else:
                text.append(shades[round(level * (len(shades) - 1))] * cell)
        return text

    def _axis(self, begins: Sequence[datetime], cell: int) -> str:
        """Write hours over cells, and the weekday at midnight, where there is room."""
        axis, day = "", self.times.local(begins[0]).date()
        for k, begin in enumerate(begins):
            here = self.times.local(begin)
            text = f"{here:%H}" if k == 0 or here.hour % 6 == 0 else ""
            text = text if here.date() == day else f"{here:%a}"
            day = here.date()
            if text and (not axis or len(axis) < k * cell):
                axis = axis.ljust(k * cell) + text
        return axis[: len(begins) * cell]

    # -- Rounds, problems, events --------------------------------------------------------------------------

    def _rounds(self, moment: datetime, width: int) -> Iterator[Text]:
        """Yield the rounds that come next, with their planned emissions and clients."""
        shown = self.run.upcoming[:_MOST_ROUNDS]
        if not shown:
            return
        rows = [(f"Upcoming rounds ({self.times.name(moment)})", "opens", "closes", "planned", "clients")]
        rows += [
            (
                f"round {window.round}", self.times.weekday(window.opens_at, moment),
                self.times.weekday(window.closes_at, moment), formatting.mass(window.emissions_g),
                self._clients(window),
            )
            for window in shown
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for k, row in enumerate(rows):
            yield self._row(row, widths, width, "" if k else "bold")
        if (more := self.run.rounds - shown[-1].round) > 0:
            yield self._line(f"and {formatting.counted(more, 'round')} more", width, "dim")

    def _clients(self, window: Window) -> str:
        """Write the number of clients by place, the most first; two long names may look alike."""
        by_place = sorted(window.locations.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{self._short(name)} {count}" for name, count in by_place)

    def _problems(self, moment: datetime, width: int) -> Iterator[Text]:
        if not self.run.incidents:
            return
        yield self._line(f"Problems: {len(self.run.incidents)}", width, "bold")
        for problem in problems_of(self.run)[-_MOST_PROBLEMS:]:
            times = f"({problem.times} times) " if problem.times > 1 else ""
            row = (self.times.weekday(problem.at, moment), f"{times}{problem.text}")
            yield self._row(row, (_TIME, 0), width, "yellow")

    def _events(self, moment: datetime, width: int) -> Iterator[Text]:
        yield self._line(f"Last events ({self.times.name(moment)})", width, "bold")
        for event in self.run.events[-_MOST_EVENTS:]:
            row = (self.times.weekday(event.at, moment), told(event, self.times))
            yield self._row(row, (_TIME, 0), width)

    # -- Lines -------------------------------------------------------------------------------------------

    def _plain(self, text: str) -> str:
        """Return text from outside as printable characters that the terminal has."""
        text = one_line(text, 1000)
        return text.encode("ascii", "backslashreplace").decode() if self.look.is_ascii else text

    def _short(self, name: str) -> str:
        """Return a name, cut where it is long."""
        return self._cut(Text(self._plain(name)), _LONGEST_NAME).plain

    def _line(self, text: str, width: int, style: str = "") -> Text:
        return self._row((text,), (0,), width, style)

    def _row(self, cells: Sequence[str], widths: Sequence[int], width: int, style: str = "") -> Text:
        """Return cells side by side, the last one as wide as it is."""
        *first, last = map(self._plain, cells)
        padded = [set_cell_size(cell, size) for cell, size in zip(first, widths, strict=False)]
        return self._cut(Text("  ".join([*padded, last]), style), width)

    def _cut(self, line: Text, width: int) -> Text:
        """Return a line, cut where it is too wide."""
        line.no_wrap, line.overflow = True, "crop"
        if line.cell_len > width:
            line.truncate(max(width - 1, 0), overflow="crop")
            line.append(self.look.cut)
        return line


def _marks(opens: dict[int, datetime], edges: Ints, cell: int) -> str:
    """Write numbers of rounds under the cells in which they open, where there is room."""
    marks = ""
    for number, when in sorted(opens.items()):
        column = (int(np.searchsorted(edges, to_us(when), side="right")) - 1) * cell
        if 0 <= column < (len(edges) - 1) * cell and len(marks) <= column:
            marks = marks.ljust(column) + str(number)
    return marks


def _colour(level: float) -> str:
    at = np.linspace(0, 1, len(_RAMP))
    red, green, blue = (round(float(np.interp(level, at, channel))) for channel in _RAMP.T)
    return f"#{red:02x}{green:02x}{blue:02x}"
