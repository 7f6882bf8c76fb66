// The live event log.

import { follow } from "/console/api.js";
import { choice, fault, field, link, make, moment, state } from "/console/dom.js";

/** Rows that are kept on the page; older ones go. */
const ROWS_MAX = 500;
const HOUR_SECONDS = 3_600;
const COLUMNS = ["Place", "When", "What", "Sandbox", "Pool", "State", "Owner", "Lab", "Who", "Why"];

export function events(root, parameters, signal) {
  const form = make("form", { class: "filters", "aria-label": "Filter of events" },
    field("e-sandbox", "Sandbox", parameters.get("sandbox")), field("e-type", "Type, e.g. claimed", parameters.get("type")),
    field("e-pool", "Pool", parameters.get("pool")),
    choice("e-from", "From", parameters.get("from"), [["now", "now"], ["hour", "an hour ago"], ["all", "the beginning"]]),
    make("p", {}, make("button", { type: "submit", class: "main" }, "Follow")));
  const stop = make("button", { type: "button", disabled: true }, "Stop");
  const status = make("span", { role: "status", id: "feed" }, "Not following.");
  const notice = make("div");
  const body = make("tbody");
  const table = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Events, newest first" },
    make("table", {}, make("caption", {}, "Events, newest first"),
      make("thead", {}, make("tr", {}, COLUMNS.map((column) => make("th", { scope: "col" }, column)))), body));
  root.append(form, make("p", { class: "row" }, stop, status), notice, table);

  let reading = new AbortController();
  stop.addEventListener("click", () => {
    reading.abort();
    stop.disabled = true;
    status.textContent = "Stopped.";
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    reading.abort();
    reading = new AbortController();
    body.replaceChildren();
    notice.replaceChildren();
    stop.disabled = false;
    const here = reading;
    const tell = (news) => {
      if (here.signal.aborted) return;
      status.textContent = words(news);
      notice.replaceChildren(...(news.fault ? [fault(news.fault)] : []));
    };
    try {
      const both = AbortSignal.any([signal, here.signal]);
      for await (const message of follow("/v1/admin/events", { query: wanted(), signal: both, tell })) {
        body.prepend(row(message));
        while (body.childElementCount > ROWS_MAX) body.lastElementChild.remove();
      }
    } catch (problem) {
      if (signal.aborted || here.signal.aborted) return;
      stop.disabled = true;
      status.textContent = "Stopped.";
      notice.replaceChildren(fault(problem));
    }
  });
}

function wanted() {
  const value = (name) => document.getElementById(`e-${name}`).value.trim();
  const from = { now: {}, hour: { since: Math.floor(Date.now() / 1_000) - HOUR_SECONDS }, all: { after: 0 } };
  return { sandbox: value("sandbox"), type: value("type"), pool: value("pool"), ...from[value("from")] };
}

function words({ state: word, seconds }) {
  if (word === "following") return "Following.";
  if (word === "connecting") return "Connecting…";
  return `Disconnected; reconnecting in ${seconds} s.`;
}

function row({ id, event, data }) {
  const message = read(data);
  if (event === "gap") {
    const text = `Gap: events after ${message?.after} are not stored any more; continuing at ${message?.next}.`;
    return make("tr", { class: "gap" }, make("td", { colspan: COLUMNS.length, class: "warn" }, text));
  }
  if (!message || !message.data) {
    return make("tr", {}, make("td", {}, id), make("td", { colspan: COLUMNS.length - 1 }, data));
  }
  const { pool, to, owner, lab, by, reason } = message.data;
  const what = String(message.type).replace(/^sandbox\./, "");
  const cells = [id, moment(Date.parse(message.time) / 1_000), what, link(message.subject, "sandbox", { id: message.subject }), pool,
    state(to), owner, lab, by, reason];
  return make("tr", {}, cells.map((cell) => make("td", {}, cell ?? "–")));
}

function read(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
