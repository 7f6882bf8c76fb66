// The views: the overview, the fleet, and every view in a narrow window, in light and dark mode.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { enter, fact, rows, says } from "./steps.mjs";
import { assertFits, assertNamed, assertWholeWords, watched } from "./watch.mjs";

/** Each view, and an element that is present once its data is loaded. */
const VIEWS = {
  overview: "#labs > *", sandboxes: "#list table", deletions: "#parked > *", runs: "#report-stale > *", fleet: "#workers table",
  events: "#feed",
};

export const checks = {
  "the overview shows the counts, and new ones by itself": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig);
    const shown = async () => (await rows(page.locator("#pools")))[0].map((cell) => cell.trim());
    const matches = async () => {
      const stats = await fleet.stats();
      const counts = ["total", "available", "allocated", "pending_deletion", "stale", "deletion_failed", "quarantined"];
      assert.deepEqual(await shown(), ["All", ...counts.map((name) => String(stats[name]))]);
      return stats;
    };
    const before = await eventually("the counts", matches);
    assert.equal((await rows(page.locator("#pools"))).length, 1 + Object.keys(before.pools).length);
    await fleet.claim("overview-1", "overview-lab");
    const after = await eventually("the counts after a claim", async () => {
      const stats = await matches();
      assert.equal(stats.allocated, before.allocated + 1);
      return stats;
    });
    assert.equal(await fact(page.locator("#line"), "State").innerText(), after.deletions.state);
    assert.equal(await fact(page.locator("#line"), "Breaker").innerText(), "closed");
    assert.equal(await fact(page.locator("#line"), "Pace").innerText(), "6000 of at most 6000 in a minute");
    await says(page.locator("#readiness h2"), "ready");
    assert.equal(await fact(page.locator("#readiness"), "queue").innerText(), "ok");
    assert.equal(await fact(page.locator("#readiness"), "store").innerText(), "ok");
  },

  "the overview shows which labs hold sandboxes when a census says it": async (rig) => {
    const { page } = rig;
    const stats = await rig.fleet.stats();
    await page.route("**/v1/admin/stats", (route) => route.fulfill({
      json: { ...stats, labs: { main: { "a<b>lab": 3 } }, counted: { by: "census", at: 1, age_seconds: 7 } },
    }));
    await enter(rig);
    await says(page.locator("#pools caption"), "Counted by census 7 s ago");
    assert.deepEqual(await rows(page.locator("#labs")), [["main", "a<b>lab", "3"]]);
    await page.getByRole("link", { name: "a<b>lab" }).click();
    await page.locator("#f-lab").waitFor();
    assert.equal(await page.locator("#f-lab").inputValue(), "a<b>lab");
    assert.equal(await page.locator("#f-pool").inputValue(), "main");
  },

  "what is not ready, and what an operator should know, is named": async (rig) => {
    const { page } = rig;
    await page.route("**/readyz", (route) => route.fulfill({
      status: 503, json: { status: "not_ready", checks: { queue: "ok", store: "no worker is available" }, notes: { tokens: "an old file" } },
    }));
    await rig.watch.expect([503], async () => {
      await enter(rig);
      await says(page.locator("#readiness h2"), "not ready");
      assert.equal(await fact(page.locator("#readiness"), "store").innerText(), "no worker is available");
      await says(page.locator("#readiness .warn"), "tokens: an old file");
    });
  },

  "a look that comes too early, or meets nobody, is repeated when the broker says": async (rig) => {
    const { page } = rig;
    await page.clock.install();
    await enter(rig, "fleet");
    await says(page.locator("#roles"), "allocator");
    await page.clock.pauseAt(Date.now() + 3_600_000);
    for (const [status, code] of [[429, "RATE_LIMIT_EXCEEDED"], [503, "NO_WORKERS"]]) {
      let asked = 0;
      await page.route("**/v1/admin/fleet", (route) => {
        asked += 1;
        return route.fulfill({
          status, headers: { "Retry-After": "40", "X-Request-ID": "r-1" },
          json: { detail: { code, message: "later", request_id: "r-1", retry_after: 40 } },
        });
      });
      await rig.watch.expect([status], async () => {
        await eventually("the look", async () => {
          await page.clock.runFor(1_000);
          return asked;
        });
        await says(page.locator("#view .fault"), `${code}: later Try again in 40 s. Request r-1.`);
        await page.clock.runFor(30_000);
        assert.equal(asked, 1);
        await page.unroute("**/v1/admin/fleet");
        await page.clock.runFor(11_000);
        await page.locator("#view .fault").waitFor({ state: "detached" });
      });
    }
  },

  "the fleet is everybody who works": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "fleet");
    const expected = await fleet.admin("GET", "fleet");
    await says(page.locator("#roles"), "allocator");
    for (const [role, count] of Object.entries(expected.roles)) assert.equal(await fact(page.locator("#roles"), role).innerText(), String(count));
    const shown = (await rows(page.locator("#workers"))).map(([role, id, version]) => [role, id, version]);
    assert.deepEqual(shown, expected.workers.map(({ role, id, version }) => [role, id, version]));
    await page.locator("#workers summary").first().click();
    await fact(page.locator("#workers details").first(), "work.requests").waitFor();
  },

  "every view fits a narrow window, in the light and in the dark, and names what can be used": async (rig) => {
    const { fleet, browser } = rig;
    const backs = new Set();
    // An owner and a lab of the maximum length, without a position for a line break.
    const { sandbox_id: id } = await fleet.claim("o".repeat(256), "l".repeat(256));
    for (const colorScheme of ["light", "dark"]) {
      const watch = await watched(browser, fleet.url, { viewport: { width: 360, height: 740 }, colorScheme });
      const { page } = watch;
      await page.goto(`${fleet.url}/console`);
      await page.getByLabel("Admin or read-only token").waitFor();
      await assertFits(page);
      await enter({ page, fleet });
      for (const [view, there] of [...Object.entries(VIEWS), [`sandbox?id=${id}`, "#record table"]]) {
        await page.evaluate((hash) => { location.hash = hash; }, `#${view}`);
        await page.locator("#view h1:focus").waitFor();
        await page.locator(there).first().waitFor();
        await assertFits(page);
        await assertWholeWords(page);
        await assertNamed(page);
      }
      await page.evaluate(() => { location.hash = "#deletions"; });
      await page.getByRole("button", { name: "Pause", exact: true }).click();
      await page.getByRole("dialog").waitFor();
      await assertFits(page);
      await assertNamed(page);
      backs.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
      watch.assertQuiet();
      await watch.close();
    }
    assert.equal(backs.size, 2);
  },
};
