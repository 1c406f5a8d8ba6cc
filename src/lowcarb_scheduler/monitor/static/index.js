import { ask, bar, element, follow, show, zone } from "./live.js";

function row(run) {
  const address = run.name.isWellFormed?.() === false ? {} : { href: `/runs/${encodeURIComponent(run.name)}` };
  return element("a", { className: "card run", ...address },
    element("span", {}, element("b", { text: run.title }), element("small", { text: run.about })),
    element("span", { className: `state ${run.tone}`, text: run.state }),
    ...(run.problem ? [element("span", { className: "wide", text: run.problem })] : state(run)));
}

function state(run) {
  return [
    element("span", { text: run.progress && `${run.progress} rounds` }, ...(run.rounds ? [bar(run.rounds_done / run.rounds)] : [])),
    element("span", { text: run.opening && `opens ${run.opening}` }),
    element("span", { text: run.saved && `saved ${run.saved}` })];
}

async function refresh() {
  const page = await ask(`/api/page?zone=${encodeURIComponent(zone)}`);
  show("folder", page.about);
  document.getElementById("empty").hidden = page.runs.length > 0;
  document.getElementById("runs").replaceChildren(...page.runs.map(row));
}

follow("/api/events", refresh);
