#!/usr/bin/env node
// Opens /console and /v1/docs of a real fleet in headless chromium, and uses them as an operator would.
//
//     BROKER=… NATS_SERVER=… tests/browser/run.mjs <folder of playwright-core> <path of chromium> [part of a name]…
//
// Prints the number of checks, and exits with 1 if one failed or if there was none.

import { Fleet, launch } from "./rig.mjs";
import { watched } from "./watch.mjs";
import * as docs from "./docs.mjs";
import * as entering from "./entering.mjs";
import * as looking from "./looking.mjs";
import * as sandboxes from "./sandboxes.mjs";
import * as deletions from "./deletions.mjs";
import * as runs from "./runs.mjs";
import * as events from "./events.mjs";

const SUITES = { entering, looking, sandboxes, runs, events, docs, deletions };
const [home, chromium, ...wanted] = process.argv.slice(2);
const began = Date.now();
let passed = 0;
const failed = [];

const fleet = await Fleet.start(process.env.BROKER);
const browser = await launch(home, chromium);
for (const [suite, { checks }] of Object.entries(SUITES)) {
  for (const [name, check] of Object.entries(checks)) {
    const title = `${suite}: ${name}`;
    if (wanted.length && !wanted.some((word) => title.includes(word))) continue;
    const begun = Date.now();
    const watch = await watched(browser, fleet.url);
    try {
      await check({ fleet, watch, page: watch.page, browser });
      watch.assertQuiet();
      passed += 1;
      console.log(`ok      ${title} (${((Date.now() - begun) / 1_000).toFixed(1)} s)`);
    } catch (error) {
      failed.push(title);
      console.log(`failed  ${title}\n${error.stack}\n${await watch.page.locator("body").innerText().catch(() => "")}`);
    }
    await watch.close();
  }
}
await browser.close();
await fleet.stop();
if (failed.length) console.log(`what the fleet said:\n${fleet.lines().split("\n").slice(-40).join("\n")}`);
console.log(`${((Date.now() - began) / 1_000).toFixed(1)} s; failed: ${failed.join(", ") || "none"}`);
console.log(`${passed} checks passed, ${failed.length} failed`);
process.exit(failed.length || !passed ? 1 : 0);
