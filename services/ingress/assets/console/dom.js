// Creates elements. Data from the broker is inserted as text only: no function here parses markup, and the page's policy
// (`require-trusted-types-for 'script'`) would block one that did.

const TONES = {
  available: "good", closed: "good", running: "good", ok: "good", ready: "good", completed: "good",
  active: "good", draining: "warn", silent: "warn", lost: "bad",
  allocated: "", pending_deletion: "warn", waiting: "", retrying: "warn", unannounced: "warn", stale: "warn", paused: "warn",
  held: "warn", half_open: "warn", quarantined: "warn", refused: "warn", deletion_failed: "bad", provision_failed: "bad", parked: "bad",
  provisioning: "", open: "bad", breaker_open: "bad", unauthorized: "bad", not_ready: "bad", failed: "bad",
};

/** An element. Attributes that are null are left out; children may be text. */
export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "onclick") node.addEventListener("click", value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map(fit));
  return node;
}

function fit(child) {
  return child instanceof Node ? child : String(child);
}

/** A state as a badge. The words are the broker's; the colour is ours. */
export function state(word) {
  if (word === null || word === undefined) return "–";
  const tone = Object.hasOwn(TONES, word) ? TONES[word] : "";
  return make("span", { class: `state ${tone}`.trim() }, String(word).replaceAll("_", " "));
}

/** A moment in Unix seconds, in the time of this machine. */
export function moment(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const date = new Date(seconds * 1_000);
  if (Number.isNaN(date.getTime())) return String(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return make("time", { datetime: date.toISOString(), title: date.toISOString() }, `${day} ${time}`);
}

/** A span of time in words. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

/** A list of names and values. */
export function facts(rows) {
  return make("dl", {}, rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value ?? "–")]));
}

/** Everything in an object, whatever it is, by dotted names. */
export function allFacts(object) {
  const rows = [];
  const walk = (prefix, value) => {
    if (value !== null && typeof value === "object") {
      for (const [key, inner] of Object.entries(value)) walk(prefix ? `${prefix}.${key}` : key, inner);
    } else {
      rows.push([prefix, value === null ? "–" : String(value)]);
    }
  };
  walk("", object);
  return facts(rows);
}

/** A table that scrolls by itself where the page is narrow. Columns that begin with `#` are numbers. */
export function table(caption, columns, rows, empty = "none.") {
  if (!rows.length) return make("p", { class: "soft" }, `${caption}: ${empty}`);
  const number = columns.map((column) => column.startsWith("#"));
  const head = columns.map((column, index) =>
    make("th", { scope: "col", class: number[index] ? "number" : null }, column.replace(/^#/, "")));
  const body = rows.map((cells) =>
    make("tr", {}, cells.map((cell, index) => make("td", { class: number[index] ? "number" : null }, cell ?? "–"))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
}

/** A link to a view, with what it is to show. */
export function link(text, view, parameters = {}) {
  const words = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  return make("a", { href: `#${view}${words.size ? `?${words}` : ""}` }, text);
}

/** A labelled field of a form. */
export function field(id, label, value = "", attributes = {}) {
  const input = make("input", { id, type: "text", autocomplete: "off", ...attributes });
  input.value = value ?? "";
  return make("p", {}, make("label", { for: id }, label), input);
}

/** A labelled choice of a form. */
export function choice(id, label, value, options) {
  const select = make("select", { id }, options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value ?? options[0][0];
  return make("p", {}, make("label", { for: id }, label), select);
}

/** A failure, with what a person needs to find it in the logs. */
export function fault(problem) {
  const words = problem.code ? [make("strong", {}, problem.code), ": ", problem.message] : [String(problem.message || problem)];
  if (problem.retryAfterSeconds) words.push(` Try again in ${problem.retryAfterSeconds} s.`);
  if (problem.requestId) words.push(" Request ", make("code", {}, problem.requestId), ".");
  return make("p", { class: "fault bad", role: "alert" }, words);
}

/** Replaces what an element holds, and keeps the focus where it was: on the control of the same `data-key`. */
export function swap(node, ...children) {
  const key = node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  if (key) [...node.querySelectorAll("[data-key]")].find((other) => other.dataset.key === key)?.focus();
}

/** Announces something to all users, also to those with a screen reader. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
