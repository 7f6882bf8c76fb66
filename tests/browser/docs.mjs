// The page with the API's description.

import assert from "node:assert/strict";
import { eventually } from "./rig.mjs";
import { assertFits, watched } from "./watch.mjs";

const METHODS = ["get", "post", "put", "patch", "delete"];

async function open({ page, fleet }) {
  await page.goto(`${fleet.url}/v1/docs`);
  await page.locator(".opblock").first().waitFor();
}

export const checks = {
  "every operation is listed": async (rig) => {
    const { page, fleet } = rig;
    const { paths } = await (await fetch(`${fleet.url}/v1/openapi.json`)).json();
    const described = Object.entries(paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => `${method.toUpperCase()} ${path}`));
    await open(rig);
    const listed = () => page.locator(".opblock").evaluateAll((blocks) => blocks.map((block) => {
      const path = block.querySelector(".opblock-summary-path, .opblock-summary-path__deprecated");
      return `${block.querySelector(".opblock-summary-method").textContent} ${path.dataset.path}`;
    }));
    await eventually("all of them", async () => (await listed()).length === described.length);
    assert.deepEqual((await listed()).sort(), described.sort());
    assert.ok(described.length > 25);
  },

  "a request is tried out with a token": async (rig) => {
    const { page, fleet } = rig;
    await open(rig);
    await page.getByRole("button", { name: "Authorize" }).first().click();
    const admin = page.locator(".auth-container").filter({ hasText: /^admin/ });
    await admin.locator("input").fill(fleet.tokens.admin);
    await admin.getByRole("button", { name: "Apply credentials" }).or(admin.getByRole("button", { name: "Authorize" })).first().click();
    await page.locator(".close-modal").click();
    const stats = page.locator(".opblock").filter({ has: page.locator('[data-path="/v1/admin/stats"]') });
    await stats.locator(".opblock-summary-control").click();
    await stats.getByRole("button", { name: "Try it out" }).click();
    await stats.getByRole("button", { name: "Execute" }).click();
    const answer = stats.locator(".live-responses-table .response").first();
    await answer.waitFor();
    assert.match(await answer.locator(".response-col_status").innerText(), /^200/);
    const shown = JSON.parse(await answer.locator("code.language-json, .highlight-code pre").first().innerText());
    assert.equal(shown.total, (await fleet.stats()).total);
  },

  "it fits a narrow window": async ({ browser, fleet }) => {
    const watch = await watched(browser, fleet.url, { viewport: { width: 360, height: 740 } });
    await open({ page: watch.page, fleet });
    await assertFits(watch.page);
    watch.assertQuiet();
    await watch.close();
  },
};
