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

from lowcarb_scheduler.clock import EPOCH, HOUR_US, MICROSECOND, format_duration, from_us, to_us
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.events import (
    UNKNOWN_PLACE,
    Degraded,
    ForecastReceived,
    HoldStarted,
    NodesAwaited,
    NodesChanged,
    Planned,
    Released,
    RoundClosed,
    RoundOpened,
    RunFinished,
    RunResumed,
    RunStarted,
)
from lowcarb_scheduler.monitor.state import GONE, HOLDING, TRAINING, RunState
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from lowcarb_scheduler.events import Event, NodeFailed, Window
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.report.formatting import Times

MOST_PLACES: Final = 8
_MOST_ROUNDS, _MOST_PROBLEMS, _MOST_EVENTS = 5, 3, 5
_NEXT_ROUNDS: Final = 8  # in the strip of hours: as many as each plan in a ledger lists
_LABEL, _LONGEST_NAME, _BAR, _TIME = 16, 14, 30, 9  # columns
_STEPS: Final = tuple(timedelta(hours=h) for h in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 672))
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
        # In other states the number means the next round, which the opening time below describes.
        which = f" round {run.round}" if run.state in (HOLDING, TRAINING) else ""
        yield self._line(f"Run {run.run_id}: {run.state}{which}", width, "bold")
        for name, fact in self._facts(moment):
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

    # -- Facts -------------------------------------------------------------------------------------------

    def _facts(self, moment: datetime) -> Iterator[tuple[str, str]]:
        run, times = self.run, self.times
        filled = round(_BAR * run.rounds_done / run.rounds) if run.rounds else _BAR
        bar = self.look.bar[0] * filled + self.look.bar[1] * (_BAR - filled)
        yield "rounds done", f"{run.rounds_done} of {run.rounds} {bar}"
        # A process that is gone opens nothing, whatever its last plan was.
        if run.opens_at is not None and not run.is_over:
            opens = times.opening(run.opens_at, moment, is_virtual=run.is_virtual)
            yield "opened" if run.state == TRAINING else "next opening", opens
        if run.why is not None:
            yield "why", run.why
        if run.saves_g is not None:
            yield "waiting saves", f"{_of(run.saves_g, run.at_once_g)} in this round"
        yield "saved" if run.round is None else "saved so far", self._saved()
        if (expected := self._expected()) is not None:
            yield "plan expects", expected
        if run.to_come_g is not None and run.opened < run.rounds:
            yield (
                "still to come",
                f"{formatting.mass(run.to_come_g)} CO2eq in {self._rounds_from(run.opened + 1)}",
            )
        if run.finish is not None:
            yield "finish" if run.round is None else "planned finish", self._finish(run.finish)
        if (slack := run.slack(self.now)) is not None and not run.is_over:
            late = f"none: {format_duration(-slack)} late, even without waiting"
            yield "slack left", format_duration(slack) if slack >= timedelta(0) else late
        yield "process", self._process()
        yield "last event", times.instant(run.last_event_at)

    def _saved(self) -> str:
        saved, done = self.run.saved, self.run.rounds_done
        if saved is None:
            return "not known: no actual intensity of its rounds" if done else "no round is done yet"
        part = formatting.percent(saved.saving)
        text = f"{_of(saved.avoided_g, saved.run_now_g)} ({part})"
        if saved.rounds < done:
            text += f", in {saved.rounds} of {formatting.counted(done, 'round')}: of others it is not known"
        return text

    def _expected(self) -> str | None:
        """Return the saving that the newest plan expects, from its first round on."""
        plan = self.run.plan
        if plan is None or self.run.is_over:
            return None
        if plan.emissions_g is None:
            return "nothing: without a forecast rounds open as soon as they can"
        if plan.run_now_emissions_g is None:
            return None
        avoided = _of(plan.run_now_emissions_g - plan.emissions_g, plan.run_now_emissions_g)
        # A plan has one sum at once for all its rounds, also for those that have closed since.
        return f"to save {avoided} ({formatting.percent(plan.saving)}) in {self._rounds_from(plan.round)}"

    def _rounds_from(self, first: int) -> str:
        last = self.run.rounds
        return f"round {last}" if first == last else f"rounds {first} to {last}"

    def _finish(self, finish: datetime) -> str:
        text, finish_by = self.times.instant(finish), self.run.finish_by
        if finish_by is None:
            return text
        side = "after" if self.run.late else "before"
        return f"{text}, {format_duration(abs(finish_by - finish))} {side} the deadline"

    def _process(self) -> str:
        if self.run.state == GONE:
            return "ended without closing its ledger; start it again with this run-dir to resume"
        return {True: "alive", False: "ended", None: "unknown: this file system has no locks"}[self.run.alive]

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
            missing = "no forecast is known" if clients else "the places of the next rounds are not known"
            yield self._line(f"Coming hours: {missing}", width, "bold")
            return
        places = sorted(clients, key=lambda name: (-clients[name], name))[:MOST_PLACES]
        names = [self._short(name) for name in places]
        label = max(map(cell_len, [*names, "opens"])) + 2
        columns = max(width - label, 1)  # of a terminal that is narrower than the names, nothing is left
        # Far beyond the next rounds the cells would only become coarser.
        end = max(upcoming[-1].closes_at, moment + _DAY)
        edges = _edges(moment, min(end, forecast.intensity.end), columns)
        values = _means(forecast, places, edges)
        known = values[np.isfinite(values)]
        if not len(known):
            yield self._line("Coming hours: no forecast is known of these places", width, "bold")
            return
        low, high = float(known.min()), float(known.max())
        levels = (values - low) / (high - low) if high > low else np.where(np.isfinite(values), 0.0, np.nan)
        cell = min(_WIDEST_CELL, columns // len(levels))
        begins = [from_us(edge) for edge in edges[:-1]]
        head = f"Coming hours ({self.times.name(moment)})"
        if len(clients) > len(places):
            head += f", {len(places)} of {len(clients)} places that train next"
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
        incidents = self.run.incidents
        if not incidents:
            return
        yield self._line(f"Problems: {len(incidents)}", width, "bold")
        # A source that is down says the same every hour: each problem is shown once, as of its last time.
        last = {_problem(event): event.at for event in incidents}
        often = Counter(map(_problem, incidents))
        for problem, when in sorted(last.items(), key=lambda item: item[1])[-_MOST_PROBLEMS:]:
            times = f"({often[problem]} times) " if often[problem] > 1 else ""
            row = (self.times.weekday(when, moment), f"{times}{problem}")
            yield self._row(row, (_TIME, 0), width, "yellow")

    def _events(self, moment: datetime, width: int) -> Iterator[Text]:
        yield self._line(f"Last events ({self.times.name(moment)})", width, "bold")
        for event in self.run.events[-_MOST_EVENTS:]:
            row = (self.times.weekday(event.at, moment), _told(event, self.times))
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


def _of(part_g: float, whole_g: float | None) -> str:
    return f"{formatting.mass(part_g)} of {formatting.mass(whole_g)} CO2eq"


def _problem(event: Degraded | NodeFailed) -> str:
    if isinstance(event, Degraded):
        return f"{event.what}: {event.why}; {event.consequence}"
    return f"node {event.id} failed in round {event.round}: {event.reason}"


def _told(event: Event, times: Times) -> str:
    """Return an event as a line."""
    match event:
        case RunStarted():
            return f"the run started: {formatting.counted(event.rounds, 'round')}"
        case RunResumed():
            return f"the run was started again after round {max(event.round, 0)}"
        case NodesAwaited():
            return f"round {event.round} waits for nodes: {event.reason}"
        case NodesChanged():
            return f"nodes: {len(event.joined)} joined or changed, {len(event.left)} left"
        case ForecastReceived():
            return f"forecast of {formatting.counted(len(event.intensity.locations), 'place')} received"
        case Planned():
            return f"planned from round {event.round} on: {event.reason}"
        case HoldStarted():
            until = times.weekday(event.until, event.at)
            return f"round {event.round} held until {until}: {event.reason}"
        case Released():
            return f"round {event.round} released"
        case RoundOpened():
            held = f" after a hold of {format_duration(event.held)}" if event.held else ""
            return f"round {event.round} opened with {formatting.counted(len(event.nodes), 'node')}{held}"
        case RoundClosed():
            done, failed = formatting.counted(event.nodes_done, "node"), event.nodes_failed
            return f"round {event.round} closed: {done} done" + (f", {failed} failed" if failed else "")
        case RunFinished():
            return f"the run ended: {event.status}"
    return event.name


def _edges(start: datetime, end: datetime, columns: int) -> Ints:
    """Return edges of cells on whole hours, as few hours each as the columns allow [µs since 1970 UTC]."""
    step = next((s for s in _STEPS if (end - start) / s <= columns - 1), _STEPS[-1])
    first = EPOCH + (start - EPOCH) // step * step
    cells = min(-((first - end) // step), columns)
    return to_us(first) + np.arange(cells + 1, dtype=np.int64) * (step // MICROSECOND)


def _means(forecast: ForecastReceived, places: Sequence[str], edges: Ints) -> Floats:
    """Return the mean intensity in cells, shape (cells, places) [gCO2eq/kWh]; NaN where it is not known."""
    table = forecast.intensity.align(places)
    # The first and the last cell may reach beyond the forecast.
    starts, ends = np.clip(edges[:-1], *table.edges_us[[0, -1]]), np.clip(edges[1:], *table.edges_us[[0, -1]])
    hours = (ends - starts)[:, None] / HOUR_US
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(hours > 0, table.integrate(starts, ends) / hours, np.nan)


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
