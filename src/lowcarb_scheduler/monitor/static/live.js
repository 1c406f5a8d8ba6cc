// What both pages share: elements of text, the zone of who looks, and news from the server.

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

/** Return an element; all text is set as text, so that no name becomes markup. */
export function element(tag, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function bar(part) {
  const fill = element("i");
  fill.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
  return element("span", { className: "track" }, fill);
}

export function show(id, text) {
  const found = document.getElementById(id);
  found.textContent = text ?? "";
  found.hidden = text === null || text === undefined || text === "";
  return found;
}

export async function ask(path, options) {
  const answer = await fetch(path, options);
  const content = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(content.error.message), { told: true });
  return content;
}

/** Call for the content now, when there is news, and once a minute; pages that nobody sees rest. */
export function follow(news, refresh) {
  const lost = document.getElementById("lost");
  let source = null, minute = null;
  const again = () => refresh().then(() => { lost.hidden = true; }, (error) => { if (!error.told) lost.hidden = false; });
  const start = () => {
    if (source) return;
    source = new EventSource(news);
    source.addEventListener("changed", again);
    source.onerror = () => { lost.hidden = source.readyState === EventSource.OPEN; if (source.readyState === EventSource.CLOSED) { stop(); setTimeout(start, 5000); } };
    minute = setInterval(again, 60000);
  };
  const stop = () => { source?.close(); clearInterval(minute); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  start();
}
