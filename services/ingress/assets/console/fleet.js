// Every live worker of every role.

import { ask } from "/console/api.js";
import { allFacts, facts, make, moment, swap, table } from "/console/dom.js";
import { keepLooking } from "/console/work.js";

export function fleet(root, _parameters, signal) {
  const notice = make("div");
  const roles = make("section", { class: "panel", id: "roles", "aria-label": "Roles" });
  const workers = make("section", { id: "workers" });
  root.append(notice, roles, workers);
  const open = new Set();
  keepLooking(signal, notice, async () => {
    const { body } = await ask("GET", "/v1/admin/fleet", { signal });
    if (signal.aborted) return;
    swap(roles, make("h2", {}, "Roles"), facts(Object.entries(body.roles).map(([role, count]) =>
      // A fleet without containers needs no runner.
      [role, count === 0 && role !== "runner" ? make("strong", { class: "bad" }, "0: none") : count])));
    swap(workers, table("Workers", ["Role", "Id", "Version", "Started", "#Under way", "#Done", "#Failed", "Last failure", "Numbers"],
      body.workers.map((worker) => showWorker(worker, open)), "no process answers."));
  });
}

function showWorker(worker, open) {
  const work = Object.values(worker.work);
  const sum = (name) => work.reduce((total, one) => total + one[name], 0);
  const last = Object.entries(worker.work).filter(([, one]) => one.last_error).map(([name, one]) => `${name}: ${one.last_error}`);
  const summary = make("summary", { "data-key": worker.id }, "Show");
  const numbers = make("details", { open: open.has(worker.id) }, summary, allFacts({ ...worker.work, numbers: worker.numbers }));
  numbers.addEventListener("toggle", () => (numbers.open ? open.add(worker.id) : open.delete(worker.id)));
  return [worker.role, make("code", {}, worker.id), worker.version, moment(worker.started_at), worker.in_flight,
    sum("requests"), sum("errors"), last.join(", "), numbers];
}
