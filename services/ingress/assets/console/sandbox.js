// One sandbox with its history, and the operator actions.

import { ask } from "/console/api.js";
import { allFacts, facts, make, moment, state, swap, table } from "/console/dom.js";
import { action, change, confirmed, keepLooking } from "/console/work.js";

const ORDERS = [
  ["release", "Release", "Its lease ends, and it is deleted at the provider. Its owner loses it."],
  ["quarantine", "Quarantine", "It is taken out of use until it is unquarantined; its lease ends."],
  ["unquarantine", "Unquarantine", "A sandbox that no owner held is available again; any other one is deleted at the provider."],
];

export function sandbox(root, parameters, signal) {
  const id = parameters.get("id") ?? "";
  const path = `/v1/admin/sandboxes/${encodeURIComponent(id)}`;
  root.querySelector("h1").textContent = `Sandbox ${id}`;
  const done = make("div");
  const notice = make("div");
  const record = make("section", { id: "record" });
  const buttons = make("p", { class: "row changes" });
  root.append(buttons, done, notice, record);
  const replay = action("Replay", "replay", done, async () => {
    const { body } = await change("POST", `/v1/admin/provisions/${encodeURIComponent(id)}/replay`);
    lookNow();
    return `Creation of ${body.key}: ${body.outcome.replaceAll("_", " ")}.`;
  });
  const lookNow = keepLooking(signal, notice, async () => {
    const { body } = await ask("GET", path, { signal });
    if (!signal.aborted) swap(record, showRecord(body, replay));
  });
  for (const [order, text, effect] of ORDERS) {
    buttons.append(action(text, order, done, async () => {
      const answer = await confirmed({ title: `${text} sandbox ${id}?`, text: effect, yes: text, reason: "needed" });
      if (!answer) return null;
      const { body } = await change("POST", `${path}/${order}`, { body: { reason: answer.reason } });
      lookNow();
      return `Sandbox ${body.sandbox_id} is ${body.status.replaceAll("_", " ")} now.`;
    }));
  }
}

function showRecord(record, replay) {
  const rows = [
    ["State", state(record.status)], ["Name", record.name], ["Pool", record.pool], ["External id", record.external_id],
    ["Provider's id", record.provider_id], ["Salesforce account", record.sfdc_account_id],
    ["Version and epoch", `${record.version}, ${record.epoch}`], ["Changed", moment(record.changed_at)],
  ];
  if (record.since) rows.push(["Since", moment(record.since)]);
  if (record.quarantine_reason) rows.push(["Quarantined because", record.quarantine_reason]);
  const history = [...record.history].reverse().map((entry) => [
    entry.version, moment(entry.at), entry.cause, state(entry.status), entry.epoch, entry.by, entry.reason,
  ]);
  return [
    facts(rows),
    record.lease && showLease(record.lease),
    record.provision && showCreation(record, replay),
    record.deletion && [make("h2", {}, "Deletion"), allFacts(record.deletion)],
    record.tombstone && [make("h2", {}, "Tombstone"), facts([["Deleted", moment(record.tombstone.deleted_at)],
      ["May be purged", moment(record.tombstone.purge_at)]])],
    table("History, newest first", ["#Version", "When", "What", "State", "#Epoch", "Who", "Why"], history),
  ].flat();
}

function showCreation({ status, provision }, replay) {
  return [
    make("h2", {}, "Creation"),
    facts([["Asked for", moment(provision.requested_at)], ["Failed attempts", provision.attempts], ["Last error", provision.last_error]]),
    status === "provision_failed" ? make("p", { class: "row changes" }, replay) : null,
  ];
}

function showLease(lease) {
  return [
    make("h2", {}, lease.is_live ? "Lease" : "Last lease"),
    facts([["Owner", lease.owner], ["Lab", lease.lab], ["From", moment(lease.granted_at)], ["To", moment(lease.expires_at)],
      ["Epoch", lease.epoch]]),
  ];
}
