// Every live worker of every role, and the nodes that run containers.

import { ask } from "/console/api.js";
import { allFacts, facts, make, moment, state, swap, table } from "/console/dom.js";
import { action, change, confirmed, keepLooking, Pages } from "/console/work.js";

const SECONDS_IN_A_MINUTE = 60;

export function fleet(root, _parameters, signal) {
  const notice = make("div");
  const roles = make("section", { class: "panel", id: "roles", "aria-label": "Roles" });
  const nodes = make("section", { id: "nodes" });
  const workers = make("section", { id: "workers" });
  const pages = new Pages(() => look());
  root.append(notice, roles, nodes, pages.node, workers);
  const open = new Set();
  const look = keepLooking(signal, notice, async () => {
    const [{ body }, { body: found }] = await Promise.all([
      ask("GET", "/v1/admin/fleet", { signal }),
      ask("GET", "/v1/nodes", { query: { cursor: pages.cursor }, signal }),
    ]);
    if (signal.aborted) return;
    swap(roles, make("h2", {}, "Roles"), facts(Object.entries(body.roles).map(([role, count]) =>
      // A fleet without containers needs no runner.
      [role, count === 0 && role !== "runner" ? make("strong", { class: "bad" }, "0: none") : count])));
    // A fleet of accounts has none.
    const isEmpty = found.nodes.length === 0 && pages.number === 1;
    swap(nodes, ...(isEmpty ? [] : [table("Nodes",
      ["Node", "State", "#Sandboxes", "#Leased", "#Processors", "#Memory", "Engine", "Version", "Registered", "Leases end", "Actions"],
      found.nodes.map((node) => showNode(node, notice, look)))]));
    pages.show(found.cursor);
    pages.node.hidden = pages.number === 1 && !found.cursor;
    swap(workers, table("Workers", ["Role", "Id", "Version", "Started", "#Under way", "#Done", "#Failed", "Last failure", "Numbers"],
      body.workers.map((worker) => showWorker(worker, open)), "no process answers."));
  });
}

function showNode(node, notice, look) {
  const { load } = node;
  const part = (used, most, unit = "") => (load ? `${used} of ${most}${unit}` : "");
  const path = `/v1/nodes/${node.node}`;
  const drain = action("Drain", `drain ${node.node}`, notice, async () => {
    const answer = await confirmed({
      title: `Drain ${node.node}?`,
      text: "It takes no more work, and its free sandboxes are given up. Leases run to their ends, or to the time that you name.",
      yes: "Drain", minutes: "Minutes; empty: leases run to their ends",
    });
    if (!answer) return null;
    const seconds = answer.minutes ? { leases_end_in_seconds: answer.minutes * SECONDS_IN_A_MINUTE } : {};
    await change("POST", `${path}/drain`, { query: seconds });
    look();
    return `${node.node} is being drained.`;
  });
  const activate = action("Activate", `activate ${node.node}`, notice, async () => {
    await change("POST", `${path}/activate`);
    look();
    return `${node.node} takes work again.`;
  });
  return [make("code", {}, node.node), state(node.status), part(load?.sandboxes, load?.sandboxes_max), load?.leased ?? "",
    part(load?.cpu_milli / 1_000, load?.cpu_milli_max / 1_000), part(load?.memory_mb, load?.memory_mb_max, " MiB"), node.engine,
    node.version, moment(node.registered_at), node.leases_end_at ? moment(node.leases_end_at) : "",
    node.drained_at ? activate : drain];
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
