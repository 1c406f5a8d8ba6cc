import { ask, bar, element, follow, show, zone } from "./live.js";
import { draw } from "./charts.js";

const name = decodeURIComponent(location.pathname.split("/")[2]);
const address = `/api/runs/${encodeURIComponent(name)}`;
let page = null;
let ahead = 0; // of the server's clock [ms]

// -- Countdown ----------------------------------------------------------------------------------------------

function left(ms) {
  const s = Math.max(0, Math.round(ms / 1000)), [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m ? `${m} min ${String(s % 60).padStart(2, "0")} s` : `${s % 60} s`;
}

function count() {
  if (!page) return;
  const big = document.getElementById("countdown");
  if (page.counts_to === null) {
    big.textContent = page.progress;
    return;
  }
  const ms = Date.parse(page.counts_to) - (Date.now() + ahead);
  big.textContent = ms > 0 ? left(ms) : "opens now";
  document.title = `${big.textContent} · ${page.title}`;
}

// -- Content ------------------------------------------------------------------------------------------------

function fill() {
  document.title = `${page.headline} · ${page.title}`;
  show("title", page.title);
  show("about", page.about);
  document.getElementById("notes").replaceChildren(...page.notes.map((text) => element("p", { className: "note", text })));
  const counts = page.counts_to !== null;
  show("state", counts ? page.headline : page.state).className = `pill ${page.tone}`;
  show("opening", page.opening && (counts ? `until round ${page.round} opens, ${page.opening}` : `round ${page.round}: ${page.opening}`));
  show("why", page.why);
  show("waiting", page.waiting_saves && `Waiting saves ${page.waiting_saves}.`);
  const saved = show("saved", page.saved ?? "–");
  saved.className = `big ${page.saved === null ? "none" : page.saved.startsWith("-") ? "loss" : "accent"}`;
  show("saved-told", page.saved_told);
  document.getElementById("expects").hidden = page.expected_told === null;
  show("expected", page.expected);
  show("expected-told", page.expected_told);
  const part = page.rounds ? page.rounds_done / page.rounds : 1;
  document.querySelector("#progress i").style.width = `${100 * part}%`;
  document.getElementById("progress").setAttribute("aria-label", `${page.rounds_done} of ${page.rounds} rounds done`);
  show("steps", `${page.rounds_done} of ${page.rounds} rounds done`);
  document.getElementById("release").hidden = !page.can_release || page.was_released;
  if (page.was_released) told(`Round ${page.round} has been released: it opens within seconds.`);
  else if (!page.can_release) document.getElementById("released").hidden = true;
  fillLists();
  show("labels", `${page.labels}. CO2eq of training only.`);
  count();
}

function fillLists() {
  const facts = page.facts.flatMap(([key, text]) => [element("dt", { text: key }), element("dd", { text })]);
  document.getElementById("facts").replaceChildren(...facts);
  const places = page.participation.map((each) => element("li", {}, element("b", { text: each.place }), bar(each.part),
    element("span", { text: `${each.turns} · ${each.clients}` })));
  document.getElementById("participation").replaceChildren(...(places.length ? places : [nothing("No node is known yet.")]));
  log("problems", page.problems, "None so far.");
  if (page.more_problems) document.getElementById("problems").append(nothing(`and ${page.more_problems} more before`));
  log("events", page.events, "Nothing yet.");
}

const nothing = (text) => element("li", {}, element("span", { className: "nothing", text }));

function log(id, lines, none) {
  const items = lines.map((each) => element("li", {}, element("time", { text: each.at }),
    element("span", { text: each.times > 1 ? `${each.text} (${each.times} times)` : each.text })));
  document.getElementById(id).replaceChildren(...(items.length ? items : [nothing(none)]));
}

async function refresh() {
  const problem = document.getElementById("problem");
  try {
    page = await ask(`${address}/page?zone=${encodeURIComponent(zone)}`);
  } catch (error) {
    if (error.told) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    throw error;
  }
  ahead = Date.parse(page.now) - Date.now();
  problem.hidden = true;
  document.getElementById("content").hidden = false;
  fill();
  await draw(page);
}

// -- Release ------------------------------------------------------------------------------------------------

function told(text, refused = false) {
  const line = show("released", text);
  line.className = refused ? "told refused" : "told";
}

document.getElementById("release-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.getElementById("token"), button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const body = new URLSearchParams({ round: page.round });
    const done = await ask(`${address}/release`, { method: "POST", body, headers: { "X-Lowcarb-Token": token.value } });
    document.getElementById("release").hidden = true;
    told(done.message);
  } catch (error) {
    told(error.message, true);
  } finally {
    token.value = "";
    button.disabled = false;
  }
});

document.getElementById("json").href = address;
setInterval(count, 1000);
for (const query of ["(prefers-color-scheme: dark)", "(max-width: 46rem)"]) matchMedia(query).addEventListener("change", () => page && draw(page));
follow(`${address}/events`, refresh);
