// Draws the charts of the page with plotly, in the colours of its mode.
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => charts.forEach(({ traces, layout }, k) => {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name);
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const narrow = innerWidth < 600;
  Plotly.react(`chart-${k}`, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink") },
    margin: { l: 60, r: 20, t: 34, b: 50 }, modebar: { bgcolor: "rgba(0,0,0,0)" }, legend: { orientation: "h", y: -0.2 }, hovermode: "closest", barmode: "overlay",
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { responsive: true, displaylogo: false, displayModeBar: !narrow });
});
draw();
dark.addEventListener("change", draw);
