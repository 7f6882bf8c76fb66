// The views: the overview, the fleet, and every view in a narrow window, in light and dark mode.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { answer, enter, fact, rows, says } from "./steps.mjs";
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

  "nodes are shown, drained for a time and put back": async (rig) => {
    const { page } = rig;
    const load = {
      sandboxes: 3, leased: 1, sandboxes_max: 8, cpu_milli: 1_500, cpu_milli_max: 8_000, memory_mb: 1_536, memory_mb_max: 8_192,
    };
    const node = (name, more) => ({
      node: name, engine: "namespaces", isolation: "process", version: "0.1.0", generation: 1, registered_at: 1_763_683_200, ...more,
    });
    const nodes = [node("node-a", { status: "active", load }), node("<b>", { status: "lost", lost_at: 1_763_690_000, load: null })];
    await page.route("**/v1/nodes", (route) => route.fulfill({ json: { nodes, cursor: null } }));
    const sent = [];
    await page.route("**/v1/nodes/**", (route) => {
      sent.push(new URL(route.request().url()));
      const isDrain = sent.at(-1).pathname.endsWith("/drain");
      nodes[0] = node("node-a", isDrain ? { status: "draining", drained_at: 1, leases_end_at: 1_763_690_000, load } : { status: "active", load });
      return route.fulfill({ json: nodes[0] });
    });
    await enter(rig, "fleet");
    await says(page.locator("#nodes"), "node-a");
    const shown = (await rows(page.locator("#nodes"))).map((cells) => cells.slice(0, 6).concat(cells.at(-1)));
    assert.deepEqual(shown, [
      ["node-a", "active", "3 of 8", "1", "1.5 of 8", "1536 of 8192 MiB", "Drain"], ["<b>", "lost", "", "", "", "", "Drain"],
    ]);
    await page.getByRole("button", { name: "Drain" }).first().click();
    await answer(page, { minutes: 2, yes: "Drain" });
    await says(page.locator("#nodes"), "draining");
    assert.equal(sent[0].pathname + sent[0].search, "/v1/nodes/node-a/drain?leases_end_in_seconds=120");
    await page.getByRole("button", { name: "Activate" }).click();
    await says(page.locator("#nodes"), "active");
    assert.equal(sent[1].pathname, "/v1/nodes/node-a/activate");
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
