// Charts of a run, drawn by plotly's own script, which the page loads beside everything else.

const script = document.getElementById("plotly");
const loaded = new Promise((done) => {
  if (window.Plotly) done();
  script.addEventListener("load", done);
  script.addEventListener("error", done);
});

const colour = (role) => getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim();
const isNarrow = () => matchMedia("(max-width: 46rem)").matches;
const isTouched = matchMedia("(hover: none)").matches; // a finger that moves scrolls the page
const CONFIG = { responsive: true, displayModeBar: false };
// Even to the eye, also with a colour vision deficiency; dark is clean. The same in light and dark mode.
const CIVIDIS = [[0, "#00224e"], [0.25, "#434e6c"], [0.5, "#7d7c78"], [0.75, "#bcae6c"], [1, "#fee838"]];

function layout(more) {
  const ink = colour("ink"), grid = colour("grid");
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickfont: { color: colour("soft") }, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", size: 12, color: ink },
    margin: { l: 14, r: 14, t: 34, b: 14 }, hoverlabel: { bgcolor: colour("card"), bordercolor: colour("faint"), font: { color: ink, size: 13 }, align: "left" },
    showlegend: false, dragmode: isTouched ? false : "zoom", uirevision: "kept", ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

async function plot(id, traces, more) {
  const figure = document.getElementById(id);
  figure.querySelectorAll(":scope > p").forEach((each) => each.remove());
  const shape = String(isNarrow());
  if ((figure.dataset.narrow ?? shape) !== shape) Plotly.purge(figure); // a colour bar that has turned would stay
  figure.dataset.narrow = shape;
  await Plotly.react(figure, traces, layout(more), CONFIG);
}

let drawing = Promise.resolve();

/** Draw all charts of a page, one page after the other. */
export function draw(page) {
  drawing = drawing.catch(() => {}).then(() => drawAll(page));
  return drawing;
}

async function drawAll(page) {
  await loaded;
  const figure = document.getElementById("rounds"), charts = page.charts;
  document.getElementById("emissions-part").hidden = !charts?.emissions;
  document.getElementById("metric-part").hidden = !charts?.metrics.length;
  if (!charts?.rounds || !window.Plotly) {
    const line = document.createElement("p");
    line.textContent = charts && !charts.rounds ? "There is no plan yet." : page.no_charts ?? "plotly cannot be loaded";
    figure.replaceChildren(line);
    document.getElementById("rounds-text").textContent = "";
    return;
  }
  await drawRounds(charts.rounds);
  if (charts.emissions) await drawEmissions(charts.emissions);
  if (charts.metrics.length) await drawMetric(charts.metrics[0]);
}

// -- Rounds over the heat map -------------------------------------------------------------------------------

function boxes(kind, rounds, marker, hover = true) {
  const of = rounds[kind];
  return {
    type: "bar", orientation: "h", base: of.base, x: of.ms, y: of.place, width: of.width, marker,
    customdata: of.told.map((text, k) => [text, of.count[k]]), showlegend: false,
    hovertemplate: hover ? "%{customdata[0]}<br>%{y}: %{customdata[1]}<extra></extra>" : undefined, hoverinfo: hover ? undefined : "skip",
  };
}

async function drawRounds(rounds) {
  const narrow = isNarrow(), heat = rounds.heat;
  const figure = document.getElementById("rounds"), ink = "#1c1c1c", many = rounds.done.base.length > 600;
  figure.style.height = `${Math.max(240, 110 + rounds.places.length * (narrow ? 22 : 26))}px`;
  const traces = [];
  if (heat) {
    traces.push({
      type: "heatmap", x: heat.edges, y: rounds.places, z: heat.values, zmin: heat.low, zmax: heat.high, colorscale: CIVIDIS, hoverongaps: false,
      hovertemplate: "%{y}, %{x|%a %H:%M}<br>%{z:.0f} gCO2eq/kWh<extra></extra>",
      colorbar: { title: { text: "gCO2eq/kWh", side: narrow ? "top" : "right", font: { size: 11 } }, thickness: 10, outlinewidth: 0,
        ...(narrow ? { orientation: "h", y: -0.18, yanchor: "top", len: 0.9 } : { len: 1, x: 1.01 }) },
    });
  }
  const planned = colour("planned");
  traces.push(boxes("initial", rounds, { color: "rgba(0,0,0,0)", line: { color: planned, width: 1 } }, false));
  traces.push(boxes("planned", rounds, { color: "rgba(255,255,255,0.35)", line: { color: planned, width: 1.6 } }));
  traces.push(boxes("done", rounds, { color: "#ffffff", line: { color: ink, width: many ? 0 : 0.7 } }));
  traces.push(boxes("training", rounds, { color: colour("accent"), line: { color: "#ffffff", width: 1.2 } }));
  const shapes = [], annotations = [];
  const mark = (x, text, role, lines) => {
    if (!x) return;
    for (const line of lines) shapes.push({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line });
    annotations.push({ x, yref: "paper", y: 1, yanchor: "bottom", xanchor: role === "deadline" ? "right" : "center", text, showarrow: false, font: { color: colour(role), size: 12 } });
  };
  // The heat map is dark and bright, in light and dark mode: a white line on a black one is seen on both.
  mark(rounds.now, "now", "ink", [{ color: ink, width: 4 }, { color: "#ffffff", width: 1.6 }]);
  mark(rounds.deadline, "deadline", "deadline", [{ color: colour("deadline"), width: 2.5 }]);
  await plot("rounds", traces, {
    barmode: "overlay", bargap: 0, shapes, annotations, hovermode: "closest",
    xaxis: { type: "date", range: [rounds.start, rounds.end], showgrid: false, tickangle: 0, nticks: narrow ? 4 : 12, tickformatstops: [
      { dtickrange: [null, 43200000], value: "%H:%M\n%a %e %b" }, { dtickrange: [43200000, null], value: "%a %e %b" }] },
    yaxis: { type: "category", categoryorder: "array", categoryarray: rounds.places, autorange: "reversed", showgrid: false, fixedrange: rounds.places.length < 12 },
  });
  const more = rounds.hidden ? ` ${rounds.hidden} more locations are not shown.` : "";
  document.getElementById("rounds-text").textContent =
    `Dark is clean. White: done; orange: planned, thin where the first plan differs; blue: training. Higher boxes: more clients. Time: ${rounds.zone}.${more}${isTouched ? "" : " Drag to zoom, double-click for all."}`;
}

// -- Emissions and metrics ----------------------------------------------------------------------------------

async function drawEmissions(emissions) {
  const looks = { "run-now": ["soft", "dash"], planned: ["planned", "dot"], realised: ["accent", "solid"] };
  const traces = Object.entries(looks).filter(([name]) => emissions.lines[name].some((value) => value !== null)).map(([name, [role, dash]]) => ({
    type: "scatter", mode: "lines", name, x: emissions.rounds, y: emissions.lines[name], customdata: emissions.told[name],
    line: { color: colour(role), width: name === "realised" ? 2.6 : 1.8, dash }, hovertemplate: `${name} %{customdata}<extra></extra>`,
  }));
  await plot("emissions", traces, {
    hovermode: "x unified", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { title: { text: "round", standoff: 4 }, showgrid: false, rangemode: "normal" }, yaxis: { title: { text: `${emissions.unit} CO2eq`, standoff: 6 }, rangemode: "tozero" },
  });
}

async function drawMetric(metric) {
  document.getElementById("metric-name").textContent = `${metric.name}: ${metric.last}`;
  const by = metric.of === "rounds" ? "round" : `kg CO2eq, ${metric.of}`;
  await plot("metric", [{
    type: "scatter", mode: "lines+markers", x: metric.spent, y: metric.values, line: { color: colour("accent"), width: 2 }, marker: { size: 5 },
    hovertemplate: `%{y:.4~g} after %{x:.3~g} ${metric.of === "rounds" ? "rounds" : "kg CO2eq"}<extra></extra>`,
  }], { hovermode: "closest", xaxis: { title: { text: by, standoff: 4 }, rangemode: "tozero" }, yaxis: {} });
}
