// Runs on demand, and their reports.

import assert from "node:assert/strict";
import { answer, enter, fact, says } from "./steps.mjs";

const panel = (page, name) => page.getByRole("region", { name, exact: true });

export const checks = {
  "every run is started by its button, and its report shown": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "runs");
    const runs = [
      ["Sync", "Sync", "sync", false], ["Sync", "Force a sync", "sync", true], ["Expiry", "Expire", "expiry", false],
      ["Cleanup", "Clean up", "sweep", false], ["Census", "Count", "census", false],
      ["Stale sandboxes", "Delete stale ones", "stale", true],
    ];
    for (const [name, button, kind, isAsked] of runs) {
      const section = panel(page, name);
      await section.getByRole("button", { name: button, exact: true }).click();
      if (isAsked) await answer(page, { yes: button });
      await says(page.locator("#said"), `The ${kind} run ended: completed.`);
      await says(section, "Report: completed");
      const { body } = { body: await fleet.admin("GET", `reports/${kind}/0`) };
      assert.ok(Number(await fact(section, "tick").innerText()) <= body.tick);
      assert.equal(await fact(section, "kind").innerText(), kind);
      // The next report belongs to the next run.
      await page.evaluate(() => { document.getElementById("said").textContent = ""; });
    }
    assert.equal(await fact(panel(page, "Sync"), "forced_by").innerText(), "alice");
    assert.equal(await fact(panel(page, "Census"), "violations.held_twice").innerText(), "0");
    await page.getByRole("link", { name: "Overview" }).click();
    await page.getByRole("link", { name: "Runs", exact: true }).click();
    await says(panel(page, "Sync"), "Last report: completed");
  },

  "a run that takes longer is waited for": async (rig) => {
    const { page } = rig;
    await enter(rig, "runs");
    await says(panel(page, "Expiry"), "report");
    let tick = null;
    let polls = 0;
    await page.route("**/v1/admin/expire", async (route) => {
      const report = await (await route.fetch()).json();
      tick = report.tick;
      await route.fulfill({ status: 202, json: { status: "accepted", report_id: `expiry/${tick}` } });
    });
    await page.route("**/v1/admin/reports/expiry/*", (route) => {
      polls += 1;
      return polls > 1 ? route.continue() : route.fulfill({ status: 202, json: { status: "accepted", report_id: `expiry/${tick}` } });
    });
    await panel(page, "Expiry").getByRole("button", { name: "Expire" }).click();
    await says(panel(page, "Expiry"), "The run takes longer; waiting for the report expiry/");
    await says(page.locator("#said"), "The expiry run ended: completed.");
    assert.ok(polls >= 2 && Number(await fact(panel(page, "Expiry"), "tick").innerText()) >= tick);
  },

  "a run that fails says why, and is tried again when the broker says": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "runs");
    await fleet.faults({ list: { faults: [{ kind: "status", status: 400 }] } });
    const button = panel(page, "Sync").getByRole("button", { name: "Sync", exact: true });
    await rig.watch.expect([503], async () => {
      await button.click();
      await says(panel(page, "Sync").locator(".fault"), /UPSTREAM_UNAVAILABLE: the sync run for tick \d+ failed: .* Request /);
    });
    await fleet.faults();
    await page.waitForFunction((node) => node.ariaDisabled === "false", await button.elementHandle());
    await button.click();
    await says(page.locator("#said"), "The sync run ended: completed.");
    assert.equal(await panel(page, "Sync").locator(".fault").count(), 0);
  },
};
