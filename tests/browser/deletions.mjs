// The deletions. The last check leaves the provider throttle held for long, so this suite runs last.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { answer, enter, fact, rows, says } from "./steps.mjs";

/** Claims a sandbox and releases it. */
async function wanted(fleet, owner) {
  const { sandbox_id: id } = await fleet.claim(owner, "deletions-lab");
  await fleet.giveBack(owner, id);
  return id;
}

const place = (page, id) => eventually(`${id} in the list`, async () => (await rows(page.locator("#queue"))).find((row) => row[0] === id));
const isGone = (page, id) => eventually(`${id} out of the list`, async () => !(await rows(page.locator("#queue"))).some((row) => row[0] === id));

/** Parks a deletion by letting the provider refuse it. */
async function parked(fleet, owner) {
  const { sandbox_id: id, external_id: account } = await fleet.claim(owner, "deletions-lab");
  await fleet.faults({ delete: { faults: [{ kind: "status", status: 400, message: "<script>alert(3)</script>", account }] } });
  await fleet.giveBack(owner, id);
  await eventually("the parked one", async () => {
    const { parked: found } = await fleet.admin("GET", "deletions/parked");
    return found.some((one) => one.key === id);
  });
  await fleet.faults();
  return id;
}

export const checks = {
  "a pause is shown with who, why and how long, holds deletions, and ends": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "deletions", { operator: "al" });
    await page.getByRole("button", { name: "Pause", exact: true }).click();
    await answer(page, { reason: "<b>maintenance</b>", minutes: 30, yes: "Pause" });
    await says(page.locator("#said"), "Deletions are paused by alice");
    await says(fact(page.locator("#line"), "Paused"), /^by alice.* since .* until .*: <b>maintenance<\/b>$/);
    const { paused } = (await fleet.stats()).deletions;
    assert.deepEqual([paused.reason, paused.until - paused.since], ["<b>maintenance</b>", 1_800]);
    const id = await wanted(fleet, "paused-1");
    // A reaper that had the deletion when the pause began returns it to the queue.
    assert.match((await place(page, id))[3], /^(waiting|retrying)$/);
    await says(fact(page.locator("#line"), "Pending"), /^1$/);
    await page.getByRole("button", { name: "Resume", exact: true }).click();
    await says(page.locator("#said"), "Deletions are resumed.");
    await isGone(page, id);
    await says(fact(page.locator("#line"), "State"), "running");
    assert.equal((await fleet.stats()).deletions.paused, null);
  },

  "parked deletions are shown with their reasons and replayed one by one": async (rig) => {
    const { page, fleet } = rig;
    const id = await parked(fleet, "parked-1");
    await enter(rig, "deletions");
    const row = await place(page, id);
    assert.equal(row[3], "parked");
    assert.equal(row[5], "1");
    const [copy] = await rows(page.locator("#parked"));
    assert.equal(copy[0], id);
    assert.ok(copy[2].length > 3 && row[7].length > 3, copy[2]);
    assert.equal(await page.locator("#view script").count(), 0);
    await page.locator("#parked").getByRole("button", { name: "Replay" }).click();
    await says(page.locator("#said"), `Deletion ${id}: replayed.`);
    await isGone(page, id);
    await says(page.locator("#parked"), "none is parked");
  },

  "parked deletions are replayed together after a confirmation": async (rig) => {
    const { page, fleet } = rig;
    const both = [await parked(fleet, "parked-2"), await parked(fleet, "parked-3")];
    await enter(rig, "deletions");
    for (const id of both) await place(page, id);
    await page.getByRole("button", { name: "Replay all parked deletions" }).click();
    await answer(page, { yes: "Cancel" });
    await page.getByRole("button", { name: "Replay all parked deletions" }).click();
    await answer(page, { yes: "Replay all" });
    await says(page.locator("#said"), /^2 replayed, 0 on their way already, 0 gone, 0 unreadable, 0 failed\.$/);
    for (const id of both) await isGone(page, id);
    await says(fact(page.locator("#line"), "Parked"), /^0$/);
  },

  "a held throttle is shown, and retries with their times": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "deletions");
    await fleet.faults({ delete: { faults: [{ kind: "status", status: 429, retry_after_seconds: 600 }] } });
    const id = await wanted(fleet, "held-1");
    await says(fact(page.locator("#line"), "State"), "held");
    await fact(page.locator("#line"), "Held by the provider until").locator("time").waitFor();
    const row = await eventually("its time", async () => {
      const found = await place(page, id);
      return found[3] === "retrying" && found;
    });
    assert.match(row[6], /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
  },
};
