// Runs on demand, and their reports. If a run takes longer than a request may, the page polls for its report.

import { Refused, ask, pause } from "/console/api.js";
import { allFacts, fault, make, state, swap } from "/console/dom.js";
import { action, change, confirmed } from "/console/work.js";

const POLL_MS = 2_000;
/** Time after which the page stops waiting for a report. */
const POLLS_MAX = 300;

const RUNS = [
  ["sync", "Sync", "Compares the provider's listing with the table.", [
    ["Sync", "/v1/admin/sync", {}, null],
    ["Force a sync", "/v1/admin/sync", { force: "true" },
      "Follows the listing even if it is empty or marks much of the pool stale. Check the listing before."],
  ]],
  ["expiry", "Expiry", "Ends leases that are over.", [["Expire", "/v1/admin/expire", {}, null]]],
  ["sweep", "Cleanup", "Announces deletions whose messages were lost, and completes the event log.",
    [["Clean up", "/v1/admin/cleanup", {}, null]]],
  ["census", "Census", "Counts the pools, and compares leases with claim items.", [["Count", "/v1/admin/census", {}, null]]],
  ["stale", "Stale sandboxes", "Removes records of sandboxes that the provider has not listed for long.",
    [["Delete stale ones", "/v1/admin/auto-delete-stale", {},
      "Records that were stale for longer than STALE_KEPT_HOURS become tombstones."]]],
];

export function runs(root, _parameters, signal) {
  for (const [kind, title, purpose, ways] of RUNS) {
    const notice = make("div");
    const report = make("div", { role: "status", id: `report-${kind}` });
    const buttons = ways.map(([text, path, query, warning]) => action(text, `run ${text}`, notice, async () => {
      if (warning && !(await confirmed({ title: `${text}?`, text: warning, yes: text }))) return null;
      swap(report, make("p", {}, "The run is in progress…"));
      return run(path, query, report, signal).catch((problem) => {
        report.replaceChildren();
        throw problem;
      });
    }));
    root.append(make("section", { class: "panel", "aria-label": title },
      make("h2", {}, title), make("p", { class: "soft" }, purpose), make("p", { class: "row changes" }, buttons), notice, report));
    showLast(kind, report, signal);
  }
}

async function showLast(kind, report, signal) {
  try {
    const { status, body } = await ask("GET", `/v1/admin/reports/${kind}/0`, { signal });
    if (report.childElementCount) return;
    if (status === 200) swap(report, showReport("Last report", body));
    else swap(report, make("p", { class: "soft" }, "There is no report yet."));
  } catch (problem) {
    if (!signal.aborted && !report.childElementCount) swap(report, fault(problem));
  }
}

async function run(path, query, report, signal) {
  let answer = await change("POST", path, { query });
  for (let poll = 0; answer.status === 202 && !signal.aborted; poll += 1) {
    const id = String(answer.body.report_id);
    if (poll >= POLLS_MAX) throw new Refused(202, { code: "NO_REPORT", message: `there is no report ${id} yet; look again later` });
    swap(report, make("p", {}, "The run takes longer; waiting for the report ", make("code", {}, id), "…"));
    await pause(POLL_MS, signal);
    if (signal.aborted) return null;
    const parts = id.split("/").map(encodeURIComponent).join("/");
    answer = await patiently(() => ask("GET", `/v1/admin/reports/${parts}`, { signal }), signal);
  }
  if (signal.aborted) return null;
  swap(report, showReport("Report", answer.body));
  return `The ${answer.body.kind} run ended: ${answer.body.status}.`;
}

// A poll that is refused for its rate is only too early.
async function patiently(poll, signal) {
  try {
    return await poll();
  } catch (problem) {
    if (problem.status !== 429) throw problem;
    await pause((problem.retryAfterSeconds ?? 1) * 1_000, signal);
    return poll();
  }
}

function showReport(title, report) {
  const { status, ...rest } = report;
  return [make("p", {}, `${title}: `, state(status)), allFacts(rest)];
}
