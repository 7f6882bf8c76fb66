// The live event log.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { enter, rows, says } from "./steps.mjs";

const body = (page) => page.locator("#view .scroll");

async function followFrom(page, from, { type = "", sandbox = "" } = {}) {
  await page.getByLabel("From").selectOption(from);
  await page.getByLabel("Type").fill(type);
  await page.getByLabel("Sandbox", { exact: true }).fill(sandbox);
  await page.getByRole("button", { name: "Follow" }).click();
}

export const checks = {
  "what happens is shown as it happens, and nothing after it is stopped": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "events");
    await followFrom(page, "now", { type: "claimed" });
    await says(page.locator("#feed"), "Following.");
    const { sandbox_id: id } = await fleet.claim("<b>events-1</b>", "events-lab");
    await eventually("the event", async () => (await rows(body(page))).length === 1);
    const [row] = await rows(body(page));
    assert.deepEqual(row.slice(2, 9), ["claimed", id, "main", "allocated", "<b>events-1</b>", "events-lab", "lab"]);
    assert.match(row[0], /^\d+$/);
    await page.getByRole("button", { name: "Stop" }).click();
    await says(page.locator("#feed"), "Stopped.");
    await fleet.claim("events-2", "events-lab");
    await followFrom(page, "all", { type: "claimed" });
    await eventually("both", async () => (await rows(body(page))).filter((one) => one[7] === "events-lab").length === 2);
    await followFrom(page, "hour", { sandbox: id });
    await eventually("those of one sandbox", async () => {
      assert.deepEqual((await rows(body(page))).map((one) => [one[2], one[3]]), [["claimed", id], ["listed", id]]);
      return true;
    });
  },

  "a line that ends is taken up where it ended, and a gap is shown": async (rig) => {
    const { page, fleet } = rig;
    const asked = [];
    await enter(rig, "events");
    await fleet.claim("gap-1", "gap-lab");
    await page.route("**/v1/admin/events*", async (route) => {
      asked.push(route.request().headers()["last-event-id"]);
      if (asked.length > 1) return route.continue();
      const event = { type: "sandbox.claimed", subject: "7", time: "2026-01-01T00:00:00Z", data: { pool: "main", to: "allocated" } };
      // A sequence that the event log never had; the last message is incomplete and does not count.
      const text = `retry: 100\n: events\n\nid: 999999999\ndata: ${JSON.stringify(event)}\n\nid: 5\ndata: {"cut`;
      return route.fulfill({ contentType: "text/event-stream", body: text });
    });
    await followFrom(page, "now", { type: "claimed" });
    await says(page.locator(".gap"), /^Gap: events after 999999999 are not stored any more; continuing at 1\.$/);
    await eventually("the contents of the event log", async () => (await rows(body(page))).some((row) => row[6] === "gap-1"));
    assert.deepEqual(asked, [undefined, "999999999"]);
    assert.ok((await rows(body(page))).some((row) => row[0] === "999999999" && row[3] === "7"));
  },

  "what happens while the line is away is shown, also if nothing was shown before": async (rig) => {
    const { page, fleet } = rig;
    const asked = [];
    await enter(rig, "events");
    await page.route("**/v1/admin/events*", async (route) => {
      const request = route.request();
      asked.push(request.headers()["last-event-id"]);
      if (asked.length > 1) return route.continue();
      // The connection is cut after the broker's first message, and an event happens before the reconnect.
      const answer = await fetch(request.url(), { headers: { Authorization: request.headers().authorization } });
      const reader = answer.body.getReader();
      const { value } = await reader.read();
      await reader.cancel();
      await fleet.claim("away-1", "away-lab");
      return route.fulfill({ contentType: "text/event-stream", body: Buffer.from(value) });
    });
    await followFrom(page, "now", { type: "claimed" });
    await eventually("what happened meanwhile", async () => (await rows(body(page))).some((row) => row[6] === "away-1"));
    assert.equal(asked[0], undefined);
    assert.match(asked[1], /^\d+$/);
    assert.equal(await page.locator(".gap").count(), 0);
  },

  "a broker that is away is asked again, and what is wrong in the question is said": async (rig) => {
    const { page } = rig;
    await enter(rig, "events");
    let asked = 0;
    await page.route("**/v1/admin/events*", (route) => {
      asked += 1;
      if (asked > 1) return route.continue();
      const detail = { code: "NO_WORKERS", message: "64 readers follow", request_id: "r-9", retry_after: 1 };
      return route.fulfill({ status: 503, headers: { "Retry-After": "1" }, json: { detail } });
    });
    await rig.watch.expect([503], async () => {
      await followFrom(page, "now");
      await says(page.locator("#view .fault"), "NO_WORKERS: 64 readers follow Try again in 1 s. Request r-9.");
      await says(page.locator("#feed"), "Following.");
    });
    await page.locator("#view .fault").waitFor({ state: "detached" });
    await rig.watch.expect([400], async () => {
      await followFrom(page, "now", { type: "nothing" });
      await says(page.locator("#view .fault"), "INVALID_REQUEST");
    });
    await says(page.locator("#feed"), "Stopped.");
  },
};
