// The list of sandboxes, page by page, with filters in the URL.

import { ask } from "/console/api.js";
import { choice, fault, field, link, make, moment, state, table } from "/console/dom.js";
import { CREATION_STATES, STATES } from "/console/overview.js";
import { Pages, action, change, confirmed } from "/console/work.js";

const PAGE_SIZE = 50;
/** Records of one call; the broker takes no more. */
const REMOVED_AT_ONCE = 100;
/** Names in the question before a removal. */
const NAMES_SHOWN = 10;
const FILTERS = ["status", "pool", "lab", "owner", "name_prefix"];

export function sandboxes(root, parameters, signal) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const form = make("form", { class: "filters", "aria-label": "Filter of sandboxes" },
    choice("f-status", "State", wanted.status,
      [["", "any but deleted"], ...[...STATES, ...CREATION_STATES, "deleted"].map((one) => [one, one.replaceAll("_", " ")])]),
    field("f-pool", "Pool", wanted.pool), field("f-lab", "Lab", wanted.lab), field("f-owner", "Owner", wanted.owner),
    field("f-name_prefix", "Name begins with", wanted.name_prefix),
    make("p", {}, make("button", { type: "submit", class: "main" }, "Show")));
  const byId = make("form", { class: "filters", "aria-label": "One sandbox" },
    field("f-id", "Or one sandbox, by its id", "", { required: true }), make("p", {}, make("button", { type: "submit" }, "Open")));
  const notice = make("div");
  const list = make("section", { id: "list" });
  const pages = new Pages(() => look());
  const [text, key, work] = orderOnAll(wanted) ?? [];
  const order = work
    ? make("p", { class: "row changes" }, action(text, key, notice, () => work(wanted.pool, signal, look)))
    : null;
  root.append(form, byId, notice, ...(order ? [order] : []), list, pages.node);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const words = FILTERS.map((name) => [name, document.getElementById(`f-${name}`).value.trim()]);
    const tail = new URLSearchParams(words.filter(([, value]) => value)).toString();
    const hash = tail ? `#sandboxes?${tail}` : "#sandboxes";
    if (location.hash === hash) pages.go(null, 1);
    else location.hash = hash;
  });
  byId.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#sandbox?${new URLSearchParams({ id: document.getElementById("f-id").value.trim() })}`;
  });

  async function look() {
    try {
      const query = { ...wanted, limit: PAGE_SIZE, cursor: pages.cursor };
      const { body } = await ask("GET", "/v1/admin/sandboxes", { query, signal });
      notice.replaceChildren();
      list.replaceChildren(showList(body));
      pages.show(body.cursor);
    } catch (problem) {
      if (!signal.aborted) notice.replaceChildren(fault(problem));
    }
  }
  look();
}

// The broker acts on all records in a state, or on those of one pool; it has no narrower filter.
function orderOnAll({ status, lab, owner, name_prefix: prefix }) {
  if (lab || owner || prefix) return null;
  if (status === "stale") return ["Remove these records", "remove", remove];
  if (status === "provision_failed") return ["Replay these creations", "replay-provisions", replayAll];
  return null;
}

async function replayAll(pool, signal, look) {
  const answer = await confirmed({
    title: "Replay parked creations?", yes: "Replay all",
    text: `Every parked creation${pool ? ` of pool ${pool}` : ""} is tried again, with its attempts counted from zero.`,
  });
  if (!answer) return null;
  const { body } = await change("POST", "/v1/admin/provisions/replay", { query: { all: "true", pool }, signal });
  await look();
  const rest = body.cursor ? " There are more: repeat the action." : "";
  return `${body.replayed} replayed, ${body.already_on_the_way} on their way already, ${body.gone} gone, ${body.failed} failed.${rest}`;
}

async function remove(pool, signal, look) {
  const call = (more) => change("POST", "/v1/admin/bulk-delete",
    { query: { status: "stale", pool, limit: REMOVED_AT_ONCE, ...more }, signal });
  const { body: first } = await call({ dry_run: "true" });
  const names = first.sandboxes.map((one) => one.name);
  if (!names.length) return "There is nothing to remove.";
  const shown = names.slice(0, NAMES_SHOWN).join(", ");
  const rest = names.length > NAMES_SHOWN ? `, … (${first.more ? "more than " : ""}${names.length} in all)` : "";
  const answer = await confirmed({
    title: "Remove the records of stale sandboxes?", yes: "Remove",
    text: `The provider has not listed them in two syncs. They become tombstones: ${shown}${rest}.`,
  });
  if (!answer) return null;
  const sums = { removed: 0, raced: 0, failed: 0, untold: 0 };
  let cursor = null;
  do {
    const { body } = await call({ cursor });
    for (const name of Object.keys(sums)) sums[name] += body[name];
    cursor = body.cursor;
  } while (cursor && !signal.aborted);
  await look();
  const left = `${sums.raced} changed meanwhile, ${sums.failed} failed`;
  return `${sums.removed} removed, ${left}${sums.untold ? `, ${sums.untold} not in the event log yet` : ""}.`;
}

function showList({ sandboxes: found, cursor }) {
  const hasCreations = found.some((one) => one.provision);
  const rows = found.map((one) => [
    link(one.sandbox_id, "sandbox", { id: one.sandbox_id }), one.name === one.sandbox_id ? null : one.name, one.pool,
    state(one.status), ...(hasCreations ? [one.provision?.attempts, one.provision?.last_error] : []), one.allocated_to_track,
    one.track_name, moment(one.expires_at), moment(one.changed_at),
  ]);
  const creation = hasCreations ? ["#Attempts", "Last error"] : [];
  return table("Sandboxes", ["Id", "Name", "Pool", "State", ...creation, "Owner", "Lab", "Lease ends", "Changed"], rows,
    cursor ? "none on this page, but there are more pages." : "none.");
}
