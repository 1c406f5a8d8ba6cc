"""Interactive page of a run: its charts to zoom and to hover over, in one file with plotly's JavaScript."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lowcarb_scheduler.accounting.attribution import natural_key
from lowcarb_scheduler.clock import format_time, from_us
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import MissingExtraError, one_line
from lowcarb_scheduler.report import charts, formatting, style
from lowcarb_scheduler.report.html import PALETTE, environment_of, hash_of
from lowcarb_scheduler.report.rounds import gantt_of_run
from lowcarb_scheduler.report.tables import replacing
from lowcarb_scheduler.report.zones import with_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.accounting.attribution import RunFront, Step
    from lowcarb_scheduler.report.charts import Choice, Progress
    from lowcarb_scheduler.report.html import Page
    from lowcarb_scheduler.report.rounds import Gantt, RoundBar

FILE_NAME: Final = "interactive.html"
_ROW_PX, _REST_PX = 26, 130  # height of a row of a chart, and of everything else [px]
_TO_COME: Final = "#ff9d3d"
_MARKS: Final[dict[str, dict[str, str]]] = {
    "run-now": {"symbol": "square", "color": "#8a938c"},
    "planned": {"symbol": "diamond-open", "color": style.PLANNED},
    "realised": {"symbol": "diamond", "color": "#3d8bd0"},
}


class Chart(NamedTuple):
    """A chart as plotly takes it: its heading, traces and layout."""

    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]


def write_interactive(page: Page, run_dir: Path) -> Path:
    """Write ``interactive.html`` beside the ledger of a run.

    Raises
    ------
    InputError
        If it cannot be written.
    MissingExtraError
        If plotly is not installed.
    """
    path = run_dir / FILE_NAME
    text = render(page)
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def render(page: Page) -> str:
    """Return the page as HTML."""
    from markupsafe import Markup

    files = resources.files("lowcarb_scheduler.report")
    template, script, palette = (
        files.joinpath(name).read_text("utf-8") for name in ("interactive.html", "interactive.js", PALETTE)
    )
    plotly, found = _plotly(), list(charts_of(page))
    record = page.accounts.run
    # No text ends a script element or begins a comment in it: the escape is JSON's own.
    data = to_json([{"traces": each.traces, "layout": each.layout} for each in found]).replace("<", "\\u003c")
    return environment_of().from_string(template).render(
        summary=page.summary, synthetic=record.provenance.synthetic, charts=found,
        labels=formatting.sentence_case(formatting.labels(record.provenance)),
        hashes=Markup(" ".join(f"'{hash_of(each)}'" for each in (plotly, script))),
        data=Markup(data), plotly=Markup(plotly), script=Markup(script),
        palette=Markup(palette),
    )  # fmt: skip


def _plotly() -> str:
    try:
        return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    except (ImportError, FileNotFoundError):
        raise MissingExtraError("plotly", "interactive") from None


def charts_of(page: Page) -> Iterator[Chart]:
    """Yield the charts of a run, in the order of its report."""
    accounts = page.accounts
    run = accounts.run
    if (gantt := gantt_of_run(run)) is not None:
        yield _rounds(gantt)
    if accounts.waterfall:
        yield _waterfall(accounts.waterfall)
    if accounts.front is not None:
        yield _front(accounts.front)
    if (choice := charts.choice_of_run(run)) is not None:
        yield _choice(choice)
    for progress in charts.progress_of(run):
        yield _progress(progress)
    if run.turns:
        yield _turns(sorted(run.turns.items(), key=lambda item: natural_key(item[0])))


def _text(name: str) -> str:
    """Return an external name as plotly takes text: it reads a few tags, and entities."""
    return escape(one_line(name, 80))


def _times(edges_us: Any) -> list[str]:
    return [format_time(from_us(us)) for us in edges_us]


def _rounds(gantt: Gantt) -> Chart:
    names = [_text(name) for name in gantt.locations]
    traces: list[dict[str, Any]] = []
    if gantt.intensity is not None:
        traces.append({
            "type": "heatmap", "x": _times(gantt.intensity.edges_us), "y": names,
            "z": gantt.intensity.values.T.round(1), "colorscale": "Cividis", "zmin": 0,
            "colorbar": {"title": {"text": style.UNIT, "side": "right"}, "thickness": 12},
            "text": [[_text(with_name(name))] * len(gantt.intensity.values) for name in gantt.locations],
            "hovertemplate": "%{text}<br>%{x|%a %d %b %H:%M}: %{z} g/kWh<extra></extra>",
        })  # fmt: skip
    traces += [
        _boxes(gantt.rounds, gantt.locations, "rounds", "#ffffff"),
        _boxes(gantt.upcoming, gantt.locations, "planned rounds", _TO_COME),
    ]
    layout: dict[str, Any] = {
        "height": _REST_PX + _ROW_PX * len(names), "yaxis": {"autorange": "reversed", "type": "category"},
        "xaxis": {"type": "date"},
    }  # fmt: skip
    if gantt.finish_by is not None:
        layout["shapes"] = [_line_at(gantt.finish_by)]
    return Chart("Rounds by time and location", [each for each in traces if each["x"]], layout)


def _line_at(when: datetime) -> dict[str, Any]:
    at = format_time(when)
    return {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": style.DEADLINE, "width": 2}}  # fmt: skip


def _boxes(rounds: Sequence[RoundBar], rows: Sequence[str], name: str, colour: str) -> dict[str, Any]:
    found = [
        (bar, place, turns)
        for bar in rounds
        for place in bar.clients
        if place in rows
        for turns in bar.turns_at(place)
    ]
    return {
        "type": "bar", "orientation": "h", "name": name, "width": 0.42, "offset": 0.02,
        "base": [format_time(turns.starts_at) for _, _, turns in found],
        "x": [(turns.ends_at - turns.starts_at).total_seconds() * 1000 for _, _, turns in found],
        "y": [_text(place) for _, place, _ in found],
        "text": [turns.clients for *_, turns in found], "textposition": "inside",
        "textfont": {"color": style.ON_HEAT}, "insidetextanchor": "middle",
        "marker": {"color": colour, "line": {"color": style.ON_HEAT, "width": 0.7}},
        "hovertext": [
            f"round {bar.number}: {formatting.counted(turns.clients, 'client')} "
            f"at {_text(with_name(place))}<br>"
            f"{formatting.span(*turns[:2])}"
            for bar, place, turns in found
        ],
        "hoverinfo": "text", "showlegend": False,
    }  # fmt: skip


def _waterfall(steps: Sequence[Step]) -> Chart:
    unit_g, unit = formatting.mass_unit(max(abs(step.change_g) for step in steps))
    base, at_g = [], 0.0
    for step in steps:
        start_g = 0.0 if step.kind == "level" else at_g
        base.append(start_g / unit_g)
        at_g = start_g + step.change_g
    colours = [
        "#8a938c" if s.kind == "level" else style.LINE if s.change_g <= 0 else style.PLANNED for s in steps
    ]
    trace = {
        "type": "bar", "orientation": "h", "y": [step.name for step in steps], "base": base,
        "x": [step.change_g / unit_g for step in steps], "marker": {"color": colours},
        "hovertext": [f"{step.name}: {formatting.mass(step.change_g)}" for step in steps],
        "hoverinfo": "text",
    }  # fmt: skip
    layout = {"height": _REST_PX + _ROW_PX * len(steps), "yaxis": {"autorange": "reversed"},
              "xaxis": {"title": {"text": f"emissions of training [{unit}CO2eq]"}}}  # fmt: skip
    return Chart("From run-now to realised", [trace], layout)


def _front(front: RunFront) -> Chart:
    points, stands = front.frontier.points, front.stands
    traces: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "lines+markers", "name": "plans at the start",
        "x": [format_time(point.finish) for point in points],
        "y": [point.emissions_g / 1000 for point in points],
        "text": [f"patience {formatting.patience(point.patience)}: {formatting.mass(point.emissions_g)}"
                 for point in points],
        "hoverinfo": "text+x", "line": {"color": style.FAINT},
    }]  # fmt: skip
    traces += [
        {"type": "scatter", "mode": "markers", "name": each.name, "x": [format_time(each.finish)],
         "y": [each.emissions_g / 1000], "text": [f"{each.name}: {formatting.mass(each.emissions_g)}"],
         "hoverinfo": "text+x", "marker": {"size": 11, **_MARKS[each.name]}}
        for each in stands
    ]  # fmt: skip
    layout = {"height": 380, "yaxis": {"title": {"text": "emissions of training [kgCO2eq]"}}}
    return Chart("Time-carbon trade-off: options at start, and the outcome", traces, layout)


def _choice(choice: Choice) -> Chart:
    hours = _times(choice.edges_us[:-1])
    shape = {"shape": "hv", "width": 0}
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "x": hours, "y": choice.high.round(1), "line": shape, "hoverinfo": "skip",
         "showlegend": False},
        {"type": "scatter", "x": hours, "y": choice.low.round(1), "line": shape, "fill": "tonexty",
         "fillcolor": "rgba(128,128,128,.3)", "name": "middle 80 % of all clients", "hoverinfo": "skip"},
        {"type": "scatter", "x": hours, "y": choice.mean.round(1), "name": "mean of all clients",
         "line": {"shape": "hv", "color": "#8a938c"}},
    ]  # fmt: skip
    x: list[str | None] = []
    y: list[float | None] = []
    for opens, closes, mean in choice.rounds:  # a gap after each keeps the bars apart
        x += [format_time(opens), format_time(closes), None]
        y += [round(mean, 1), round(mean, 1), None]
    traces.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "rounds",
                   "line": {"color": "#3d8bd0", "width": 5}})  # fmt: skip
    layout = {"height": 360, "yaxis": {"title": {"text": style.UNIT}, "rangemode": "tozero"}}
    return Chart("Intensity while training", traces, layout)


def _progress(progress: Progress) -> Chart:
    name = one_line(progress.metric, 40)
    is_mass = progress.of != "rounds"
    spent = [value / 1000 if is_mass else value for value in progress.spent]
    trace = {"type": "scatter", "mode": "lines+markers", "x": spent, "y": list(progress.values),
             "line": {"color": "#3d8bd0"}, "name": _text(name)}  # fmt: skip
    title = f"cumulative emissions, {progress.of} [kgCO2eq]" if is_mass else "round"
    against = "against emissions" if is_mass else "by round"
    layout = {"height": 340, "xaxis": {"title": {"text": title}}, "yaxis": {"title": {"text": _text(name)}}}
    return Chart(f"{formatting.sentence_case(name)} {against}", [trace], layout)


def _turns(turns: Sequence[tuple[str, int]]) -> Chart:
    trace = {"type": "bar", "x": [_text(name) for name, _ in turns], "y": [count for _, count in turns],
             "marker": {"color": "#3d8bd0"}}  # fmt: skip
    layout = {"height": 320, "yaxis": {"title": {"text": "completed turns"}}, "xaxis": {"type": "category"}}
    return Chart("Completed turns of each client", [trace], layout)
