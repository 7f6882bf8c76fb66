// Counts of the pools, the state of deletions, and readiness.

import { ask, readiness } from "/console/api.js";
import { facts, link, make, moment, span, state, swap, table } from "/console/dom.js";
import { keepLooking } from "/console/work.js";

/** The states in the order in which a sandbox goes through them. */
export const STATES = ["available", "allocated", "pending_deletion", "stale", "deletion_failed", "quarantined"];
/** The states of sandboxes that the fleet creates. Their counts are shown while there are any: accounts have none. */
export const CREATION_STATES = ["provisioning", "provision_failed"];

export function overview(root, _parameters, signal) {
  const notice = make("div");
  const ready = make("section", { class: "panel", id: "readiness", "aria-label": "Readiness" });
  const pools = make("section", { id: "pools" });
  const line = make("section", { class: "panel", id: "line", "aria-label": "Provider throttle" });
  const labs = make("section", { id: "labs" });
  root.append(notice, ready, pools, line, labs);
  keepLooking(signal, notice, async () => {
    const [readyNow, stats] = await Promise.allSettled([readiness(signal), ask("GET", "/v1/admin/stats", { signal })]);
    if (signal.aborted) return;
    if (readyNow.status === "fulfilled") swap(ready, showReadiness(readyNow.value));
    if (stats.status === "rejected") throw stats.reason;
    swap(pools, showPools(stats.value.body));
    swap(line, make("h2", {}, "Deletions"), showLine(stats.value.body.deletions));
    swap(labs, showLabs(stats.value.body.labs));
    if (readyNow.status === "rejected") throw readyNow.reason;
  });
}

function showReadiness({ status, checks, notes }) {
  return [
    make("h2", {}, "Readiness ", state(status)),
    facts(Object.entries(checks).map(([name, finding]) => [name, finding === "ok" ? state("ok") : finding])),
    ...Object.entries(notes ?? {}).map(([name, note]) => make("p", { class: "warn" }, `${name}: ${note}`)),
  ];
}

function showPools(stats) {
  const shown = [...STATES, ...CREATION_STATES.filter((one) => stats[one])];
  const row = (name, counts, pool) => [
    name,
    counts.total,
    ...shown.map((one) => (counts[one] ? link(counts[one], "sandboxes", { status: one, pool }) : counts[one])),
  ];
  const rows = Object.entries(stats.pools).map(([pool, counts]) => row(pool, counts, pool));
  const { counted } = stats;
  const how = counted ? `Counted by ${counted.by} ${span(counted.age_seconds)} ago` : "Pools";
  return table(how, ["Pool", "#Total", ...shown.map((one) => `#${one.replaceAll("_", " ")}`)],
    [row("All", stats, null), ...rows]);
}

/** The provider throttle; null if the broker cannot say. */
export function showLine(line) {
  if (!line) return make("p", { class: "warn" }, "The state of deletions is not available now.");
  const rows = [
    ["State", state(line.state)],
    ["Breaker", [state(line.breaker.state), ...because(line.breaker)]],
    ["Pace", `${line.rate_per_minute} of at most ${line.rate_per_minute_max} in a minute`],
  ];
  if (line.paused) {
    const { by, since, until, reason } = line.paused;
    rows.push(["Paused", [`by ${by} since `, moment(since), until ? [" until ", moment(until)] : " until an operator resumes",
      reason ? `: ${reason}` : ""].flat()]);
  }
  if (line.held_until) rows.push(["Held by the provider until", moment(line.held_until)]);
  if (line.consumer_paused_until) rows.push(["The queue's consumers are paused until", moment(line.consumer_paused_until)]);
  for (const [pool, work] of Object.entries(line.pools)) {
    rows.push([`Pool ${pool}`, `${work.waiting} waiting, ${work.under_way} under way`]);
  }
  return facts(rows);
}

function because({ reason, until, failures }) {
  const words = [];
  if (reason) words.push(` ${reason}`);
  if (until) words.push(" until ", moment(until));
  if (failures) words.push(` after ${failures} failures in a row`);
  return words;
}

function showLabs(labs) {
  if (!labs) return make("p", { class: "soft" }, "These counts have no labs; the next census will have them.");
  const rows = Object.entries(labs).flatMap(([pool, held]) =>
    Object.entries(held).map(([lab, count]) => [pool, link(lab, "sandboxes", { lab, pool }), count]));
  return table("Sandboxes held, by lab", ["Pool", "Lab", "#Held"], rows, "no lab holds one.");
}
