// The list of sandboxes, the view of one sandbox, and the operators' actions.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { answer, enter, fact, rows, says } from "./steps.mjs";

const SCRIPT = "<img src=x onerror=alert(1)>";
const OWNER = "<svg/onload=alert(2)>";

async function openOne(rig, id) {
  await enter(rig, `sandbox?id=${id}`, { operator: "al" });
  await says(rig.page.locator("#record"), "History");
}

async function order({ page }, name, reason) {
  await page.getByRole("button", { name, exact: true }).click();
  await answer(page, { reason, yes: name });
}

async function ids(page) {
  return (await rows(page.locator("#list"))).map(([id]) => id);
}

export const checks = {
  "the list holds every sandbox, page by page": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "sandboxes?status=available");
    await says(page.locator("#list caption"), "Sandboxes");
    const seen = [];
    for (;;) {
      seen.push(...(await ids(page)));
      const next = page.getByRole("button", { name: "Next page" });
      if (await next.isDisabled()) break;
      const number = Number(/\d+/.exec(await page.getByText(/^Page \d+$/).innerText())[0]);
      await next.click();
      await page.getByText(`Page ${number + 1}`, { exact: true }).waitFor();
    }
    assert.equal(new Set(seen).size, seen.length);
    assert.equal(seen.length, (await fleet.stats()).available);
    assert.ok(seen.length > 50, "one page would prove nothing");
    await page.getByRole("button", { name: "First page" }).click();
    await page.getByText("Page 1", { exact: true }).waitFor();
    assert.deepEqual(await ids(page), seen.slice(0, (await ids(page)).length));
  },

  "every filter shows what it says, and nothing in a name is markup": async (rig) => {
    const { page, fleet } = rig;
    const held = await fleet.claim(OWNER, "filter-lab");
    const other = await fleet.claim("filter-2", "filter-lab");
    await enter(rig, "sandboxes");
    const show = async (filters) => {
      for (const name of ["pool", "lab", "owner", "name_prefix"]) await page.locator(`#f-${name}`).fill(filters[name] ?? "");
      await page.locator("#f-status").selectOption(filters.status ?? "");
      await page.getByRole("button", { name: "Show", exact: true }).click();
    };
    const shows = (what, wanted) => eventually(what, async () => {
      assert.deepEqual((await ids(page)).sort(), wanted.sort());
      return true;
    });
    await show({ owner: OWNER });
    await shows("the owner's", [held.sandbox_id]);
    assert.equal((await rows(page.locator("#list")))[0][4], OWNER);
    assert.equal(await page.locator("#view img, #view svg").count(), 0);
    await show({ lab: "filter-lab" });
    await shows("the lab's", [held.sandbox_id, other.sandbox_id]);
    await show({ lab: "filter-lab", name_prefix: other.name });
    await shows("the name's", [other.sandbox_id]);
    await show({ lab: "filter-lab", status: "allocated", pool: "main" });
    await shows("the state's", [held.sandbox_id, other.sandbox_id]);
    await show({ lab: "filter-lab", status: "stale" });
    await shows("none", []);
    await page.goBack();
    await shows("those before", [held.sandbox_id, other.sandbox_id]);
    await page.getByRole("link", { name: held.sandbox_id }).click();
    await says(page.locator("#record"), "filter-lab");
    assert.equal(await fact(page.locator("#record"), "Owner").innerText(), OWNER);
  },

  "a sandbox that there is not is said with code and request": async (rig) => {
    const { page } = rig;
    await enter(rig, "sandboxes");
    await page.getByLabel("Or one sandbox").fill("2999999");
    await rig.watch.expect([404], async () => {
      await page.getByRole("button", { name: "Open" }).click();
      await says(page.locator("#view .fault"), /NOT_FOUND: .* Request [0-9a-f-]{36}\./);
    });
  },

  "a quarantine and its end stand in the history, with the reason as it was written": async (rig) => {
    const { page, fleet } = rig;
    const { sandboxes } = await fleet.admin("GET", "sandboxes?status=available&limit=1");
    const id = sandboxes[0].sandbox_id;
    await openOne(rig, id);
    await page.getByRole("button", { name: "Quarantine", exact: true }).click();
    await answer(page, { reason: "never mind", yes: "Cancel" });
    assert.equal((await fleet.admin("GET", `sandboxes/${id}`)).status, "available");
    await order(rig, "Quarantine", SCRIPT);
    await says(page.locator("#said"), `Sandbox ${id} is quarantined now.`);
    await eventually("the history", async () => (await rows(page.locator("#record")))[0][2] === "quarantined");
    const [newest] = await rows(page.locator("#record"));
    assert.equal(newest[6], SCRIPT);
    assert.match(newest[5], /alice.*al/);
    assert.equal(await fact(page.locator("#record"), "Quarantined because").innerText(), SCRIPT);
    assert.equal(await page.locator("#view img").count(), 0);
    await order(rig, "Unquarantine", "it was nothing");
    await eventually("the history", async () => (await rows(page.locator("#record")))[0][2] === "unquarantined");
    assert.equal((await fleet.admin("GET", `sandboxes/${id}`)).status, "available");
  },

  "the end of the quarantine of a used sandbox is its deletion": async (rig) => {
    const { page, fleet } = rig;
    const { sandbox_id: id } = await fleet.claim("quarantined-1", "release-lab");
    await openOne(rig, id);
    await order(rig, "Quarantine", "smoke in it");
    await says(page.locator("#said"), `Sandbox ${id} is quarantined now.`);
    await order(rig, "Unquarantine", "not worth it");
    await says(page.locator("#said"), `Sandbox ${id} is pending deletion now.`);
    await eventually("the end", async () => (await rows(page.locator("#record")))[0][2] === "deleted");
  },

  "a release ends the lease and deletes the sandbox": async (rig) => {
    const { page, fleet } = rig;
    const { sandbox_id: id } = await fleet.claim("released-1", "release-lab");
    await openOne(rig, id);
    assert.equal(await fact(page.locator("#record"), "Owner").innerText(), "released-1");
    await order(rig, "Release", "the lab is over");
    await eventually("the end", async () => (await rows(page.locator("#record")))[0][2] === "deleted");
    await says(page.locator("#record h2"), "Tombstone");
    assert.ok((await rows(page.locator("#record"))).some((row) => row[2] === "ordered" && row[6] === "the lab is over"));
    await rig.watch.expect([409], async () => {
      await order(rig, "Quarantine", "too late");
      await says(page.locator("#view .fault"), "INVALID_STATE");
      assert.equal(await page.locator("#said").innerText(), "", "nothing is said of an earlier action");
    });
    await page.goto(`${fleet.url}/console#sandboxes?status=deleted&owner=released-1`);
    await eventually("the tombstone", async () => (await ids(page)).includes(id));
  },

  "records of stale sandboxes are removed after a question, and no others": async (rig) => {
    const { page, fleet } = rig;
    const { sandboxes } = await fleet.admin("GET", "sandboxes?status=available&limit=2");
    for (const one of sandboxes) await fleet.vanish(one.external_id);
    const isGone = async () => {
      await fleet.admin("POST", "sync");
      return (await fleet.stats()).stale === sandboxes.length;
    };
    await eventually("two listings without them", isGone);
    await enter(rig, "sandboxes");
    const button = page.getByRole("button", { name: "Remove these records" });
    await says(page.locator("#list"), "lab-");
    assert.equal(await button.count(), 0);
    await page.goto(`${fleet.url}/console#sandboxes?status=stale&lab=some`);
    await says(page.locator("#list"), "none.");
    assert.equal(await button.count(), 0);
    await page.goto(`${fleet.url}/console#sandboxes?status=stale&pool=main`);
    await button.click();
    await says(page.getByRole("dialog"), sandboxes[1].name);
    await answer(page, { yes: "Cancel" });
    assert.equal((await fleet.stats()).stale, sandboxes.length);
    await button.click();
    await answer(page, { yes: "Remove" });
    await says(page.locator("#said"), "2 removed, 0 changed meanwhile, 0 failed.");
    await says(page.locator("#list"), "none.");
    const { history } = await fleet.admin("GET", `sandboxes/${sandboxes[0].sandbox_id}`);
    assert.match(JSON.stringify(history.at(-1)), /alice/);
    await button.click();
    await says(page.locator("#said"), "There is nothing to remove.");
  },

  // The fleet of this suite has no nodes, so its answers about creations are made up here.
  "creations are shown with their errors, and parked ones are replayed": async (rig) => {
    const { page, fleet } = rig;
    const stats = await fleet.stats();
    const shells = {
      total: 3, available: 1, allocated: 0, pending_deletion: 0, stale: 0, deletion_failed: 0, quarantined: 0, provisioning: 1,
      provision_failed: 1,
    };
    await page.route("**/v1/admin/stats", (route) => route.fulfill({
      json: { ...stats, provisioning: 1, provision_failed: 1, pools: { ...stats.pools, shells } },
    }));
    const one = {
      sandbox_id: "ctr_1", name: "ctr_1", external_id: "ctr_1", status: "provision_failed", allocated_to_track: OWNER,
      allocated_at: 1_763_683_200, expires_at: 1_763_697_600, track_name: null, sfdc_account_id: null, pool: "shells", version: 2,
      epoch: 1, changed_at: 1_763_683_200, provision: { requested_at: 1_763_683_100, attempts: 5, last_error: SCRIPT },
    };
    const record = {
      ...one, provider_id: "ctr_1", since: null, quarantine_reason: null, lease: null, deletion: null, tombstone: null, history: [],
    };
    await page.route("**/v1/admin/sandboxes?*", (route) => route.fulfill({ json: { sandboxes: [one], count: 1, cursor: null } }));
    await page.route("**/v1/admin/sandboxes/ctr_1", (route) => route.fulfill({ json: record }));
    const asked = [];
    await page.route("**/v1/admin/provisions/**", (route) => {
      const url = new URL(route.request().url());
      asked.push(url.pathname + url.search);
      const counts = { replayed: 1, already_on_the_way: 0, gone: 0, failed: 0, cursor: null };
      return route.fulfill({ json: url.search ? counts : { key: "ctr_1", outcome: "already_on_the_way" } });
    });
    await enter(rig);
    await says(page.locator("#pools"), "shells");
    const counted = Object.fromEntries((await rows(page.locator("#pools"))).map(([name, ...cells]) => [name, cells.slice(-2)]));
    assert.deepEqual(counted, { All: ["1", "1"], main: ["–", "–"], shells: ["1", "1"] });
    await page.locator("#pools tr", { hasText: "shells" }).getByRole("link").last().click();
    await says(page.locator("#list"), SCRIPT);
    assert.deepEqual((await rows(page.locator("#list")))[0].slice(4, 7), ["5", SCRIPT, OWNER]);
    await page.getByRole("button", { name: "Replay these creations" }).click();
    await says(page.getByRole("dialog"), "of pool shells");
    await answer(page, { yes: "Replay all" });
    await says(page.locator("#said"), "1 replayed, 0 on their way already, 0 gone, 0 failed.");
    await page.getByRole("link", { name: "ctr_1" }).click();
    await says(page.locator("#record h2"), "Creation");
    assert.equal(await fact(page.locator("#record"), "Last error").innerText(), SCRIPT);
    await page.getByRole("button", { name: "Replay", exact: true }).click();
    await says(page.locator("#said"), "Creation of ctr_1: already on the way.");
    assert.deepEqual(asked, ["/v1/admin/provisions/replay?all=true&pool=shells", "/v1/admin/provisions/ctr_1/replay"]);
    assert.equal(await page.locator("#view img, #view svg").count(), 0);
  },
};
