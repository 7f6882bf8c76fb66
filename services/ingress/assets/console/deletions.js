// The deletion queue: waiting, running, retried and parked deletions; replay, pause and resume.

import { ask } from "/console/api.js";
import { facts, link, make, moment, span, state, swap, table } from "/console/dom.js";
import { showLine } from "/console/overview.js";
import { Pages, action, change, confirmed, keepLooking } from "/console/work.js";

const PAGE_SIZE = 50;

export function deletions(root, _parameters, signal) {
  const done = make("div");
  const notice = make("div");
  const line = make("section", { class: "panel", id: "line", "aria-label": "Provider throttle" });
  const queue = make("section", { id: "queue" });
  const parked = make("section", { id: "parked" });
  let lookNow = () => {};
  const queuePages = new Pages(() => lookNow());
  const parkedPages = new Pages(() => lookNow());
  const buttons = make("p", { class: "row changes" },
    action("Pause", "pause", done, () => pauseAll(lookNow)), action("Resume", "resume", done, () => resumeAll(lookNow)),
    action("Replay all parked deletions", "replay-all", done, () => replayAll(lookNow)));
  root.append(buttons, done, notice, line, queue, queuePages.node, parked, parkedPages.node);

  const replayOne = (key) => action("Replay", `replay ${key}`, done, () => replay(key, lookNow));
  let totals = null;
  lookNow = keepLooking(signal, notice, async () => {
    const page = (pages) => ({ query: { limit: PAGE_SIZE, cursor: pages.cursor }, signal });
    const [stats, waiting, given] = await Promise.all([
      ask("GET", "/v1/admin/stats", { signal }),
      ask("GET", "/v1/admin/deletions", page(queuePages)),
      ask("GET", "/v1/admin/deletions/parked", page(parkedPages)),
    ]);
    if (signal.aborted) return;
    totals = waiting.body.totals ?? totals;
    swap(line, make("h2", {}, "Provider throttle"), showLine(stats.body.deletions), showTotals(totals));
    swap(queue, showQueue(waiting.body, replayOne));
    queuePages.show(waiting.body.cursor);
    swap(parked, showParked(given.body, replayOne));
    parkedPages.show(given.body.cursor);
  });
}

function showTotals(totals) {
  if (!totals) return null;
  return facts([
    ["Pending", totals.pending], ["Waiting", totals.waiting], ["Running", totals.running], ["Retrying", totals.retrying],
    ["Parked", totals.parked], ["Oldest", span(totals.oldest_age_seconds)],
  ]);
}

function showQueue({ deletions: found, cursor }, replayOne) {
  const rows = found.map((one) => [
    link(one.sandbox_id, "sandbox", { id: one.sandbox_id }), one.name, one.pool, state(one.place), span(one.age_seconds),
    one.attempts, moment(one.retry_at), one.last_error ?? one.pre_clean?.summary, one.place === "parked" ? replayOne(one.sandbox_id) : "",
  ]);
  return table("Deletions", ["Id", "Name", "Pool", "Progress", "Age", "#Attempts", "Next attempt", "Last error", "Action"], rows,
    cursor ? "none on this page, but there are more pages." : "none.");
}

function showParked({ parked, cursor }, replayOne) {
  const rows = parked.map((one) => [one.key, one.pool, one.reason, one.attempts, moment(one.parked_at), replayOne(one.key)]);
  return table("Parked copies", ["Key", "Pool", "Why", "#Attempts", "Parked", "Do"], rows,
    cursor ? "none on this page, but there are more pages." : "none is parked.");
}

async function pauseAll(lookNow) {
  const answer = await confirmed({
    title: "Pause all deletions?", text: "No new deletion starts. Syncs, expiry and claims continue.", yes: "Pause",
    reason: "wanted", minutes: "Minutes; empty: until an operator resumes",
  });
  if (!answer) return null;
  const body = {};
  if (answer.reason) body.reason = answer.reason;
  if (answer.minutes) body.until_seconds = answer.minutes * 60;
  const paused = await change("POST", "/v1/admin/deletions/pause", { body });
  lookNow();
  return `Deletions are paused by ${paused.body.paused.by}.`;
}

async function resumeAll(lookNow) {
  const { body } = await change("POST", "/v1/admin/deletions/resume");
  lookNow();
  return body.was_paused ? "Deletions are resumed." : "Deletions were not paused.";
}

async function replay(key, lookNow) {
  const { body } = await change("POST", `/v1/admin/deletions/${encodeURIComponent(key)}/replay`);
  lookNow();
  return `Deletion ${body.key}: ${body.outcome.replaceAll("_", " ")}.`;
}

async function replayAll(lookNow) {
  const answer = await confirmed({
    title: "Replay all parked deletions?", text: "Every parked deletion is tried again, with its attempts counted from zero.",
    yes: "Replay all",
  });
  if (!answer) return null;
  const { body } = await change("POST", "/v1/admin/deletions/replay", { query: { all: "true" } });
  lookNow();
  const rest = body.cursor ? " There are more: repeat the action." : "";
  return `${body.replayed} replayed, ${body.already_on_the_way} on their way already, ${body.gone} gone, ` +
    `${body.unreadable} unreadable, ${body.failed} failed.${rest}`;
}
