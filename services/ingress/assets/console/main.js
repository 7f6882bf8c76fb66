// Starts the page: asks for the token and shows a view. The view is in the fragment of the URL; the token never is.

import { ask, isSignedIn, signIn, signOut } from "/console/api.js";
import { make, say } from "/console/dom.js";
import { deletions } from "/console/deletions.js";
import { events } from "/console/events.js";
import { fleet } from "/console/fleet.js";
import { overview } from "/console/overview.js";
import { runs } from "/console/runs.js";
import { sandbox } from "/console/sandbox.js";
import { sandboxes } from "/console/sandboxes.js";

const VIEWS = {
  overview: ["Overview", overview],
  sandboxes: ["Sandboxes", sandboxes],
  sandbox: ["Sandbox", sandbox],
  deletions: ["Deletions", deletions],
  runs: ["Runs", runs],
  fleet: ["Fleet", fleet],
  events: ["Events", events],
};

const part = (id) => document.getElementById(id);
let life = new AbortController();

function show() {
  life.abort();
  life = new AbortController();
  if (!isSignedIn()) return;
  const [word, tail] = location.hash.slice(1).split(/\?(.*)/s);
  const name = Object.hasOwn(VIEWS, word) ? word : "overview";
  const parameters = new URLSearchParams(tail ?? "");
  const [title, open] = VIEWS[name];
  const heading = make("h1", { tabindex: "-1" }, title);
  part("view").replaceChildren(heading);
  for (const link of part("views").querySelectorAll("a")) {
    const isHere = link.hash === `#${name === "sandbox" ? "sandboxes" : name}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} – Sandbox broker`;
  say("");
  open(part("view"), parameters, life.signal);
  heading.focus();
}

function askForToken(why) {
  life.abort();
  signOut();
  document.querySelector("dialog[open]")?.close();
  document.documentElement.classList.remove("looks-only");
  part("view").replaceChildren();
  for (const id of ["view", "views", "sign-out"]) part(id).hidden = true;
  part("sign-in").hidden = false;
  part("sign-in-why").textContent = why;
  part("token").value = "";
  document.title = "Console – Sandbox broker";
  part("token").focus();
}

async function enter(event) {
  event.preventDefault();
  const token = part("token").value.trim();
  const operator = part("operator").value.trim();
  const visibleAscii = /^[\x21-\x7e]*$/;
  if (!visibleAscii.test(token) || !visibleAscii.test(operator)) {
    part("sign-in-why").textContent = "A token and a name contain visible ASCII characters only, without blanks.";
    return;
  }
  signIn(token, operator);
  part("sign-in-why").textContent = "";
  try {
    await ask("GET", "/v1/admin/stats");
  } catch (problem) {
    // Any other error is not about the token, and operators need the page most when something does not work.
    if (problem.status === 401) return;
    if (problem.status === 403) {
      askForToken(`${problem.code}: this token is none of an operator.`);
      return;
    }
  }
  part("token").value = "";
  document.documentElement.classList.toggle("looks-only", part("looks-only").checked);
  part("sign-in").hidden = true;
  for (const id of ["view", "views", "sign-out"]) part(id).hidden = false;
  show();
}

document.addEventListener("token-refused", ({ detail }) => {
  askForToken(`${detail.code}: ${detail.message} Request ${detail.requestId}.`);
});
part("sign-in-form").addEventListener("submit", enter);
part("sign-out").addEventListener("click", () => askForToken(""));
part("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (isSignedIn() ? part("view") : part("token")).focus();
});
addEventListener("hashchange", show);
// A page that the browser restores from its cache starts again.
addEventListener("pageshow", (event) => { if (event.persisted) askForToken(""); });
askForToken("");
