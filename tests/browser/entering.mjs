// The token: login, where the page stores it, and what a read-only token shows.

import assert from "node:assert/strict";
import { answer, assertTokenIsNowhere, enter, says } from "./steps.mjs";
import { eventually } from "./rig.mjs";
import { assertNamed } from "./watch.mjs";

async function tryToken({ page, fleet }, token) {
  await page.goto(`${fleet.url}/console`);
  await page.getByLabel("Admin or read-only token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

export const checks = {
  "a wrong token is refused, with code, message and request": async (rig) => {
    await rig.watch.expect([401], async () => {
      await tryToken(rig, "wrong");
      await says(rig.page.getByRole("alert"), /^UNAUTHORIZED: a valid token is needed.* Request [0-9a-f-]{36}\.$/);
    });
    assert.equal(await rig.page.locator("#view").isVisible(), false);
    await assertNamed(rig.page);
  },

  "a token of a lab is told that it is none of an operator": async (rig) => {
    await rig.watch.expect([403], async () => {
      await tryToken(rig, rig.fleet.tokens.lab);
      await says(rig.page.getByRole("alert"), "FORBIDDEN: this token is none of an operator.");
    });
  },

  "the token is sent as a header, kept in memory only, and forgotten": async (rig) => {
    const { page, fleet } = rig;
    const sent = [];
    page.on("request", (request) => sent.push([request.url(), request.headers().authorization, request.postData()]));
    await enter(rig);
    for (const view of ["Sandboxes", "Deletions", "Runs", "Fleet", "Events"]) await page.getByRole("link", { name: view, exact: true }).click();
    await eventually("the requests", () => sent.some(([url]) => url.includes("/v1/admin/fleet")));
    await assertTokenIsNowhere(page, fleet.tokens.admin);
    for (const [url, authorization, body] of sent) {
      assert.ok(!url.includes(fleet.tokens.admin) && !body?.includes(fleet.tokens.admin), url);
      assert.equal(authorization, url.includes("/v1/") ? `Bearer ${fleet.tokens.admin}` : undefined, url);
    }
    await page.reload();
    await page.getByLabel("Admin or read-only token").waitFor();
    await enter(rig);
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Admin or read-only token").waitFor();
    assert.equal(await page.getByLabel("Admin or read-only token").inputValue(), "");
    await page.goBack();
    assert.equal(await page.locator("#view").isVisible(), false);
  },

  "keys alone lead in and from view to view": async (rig) => {
    const { page, fleet } = rig;
    const focused = () => page.evaluate(() => `${document.activeElement.tagName} ${document.activeElement.textContent.trim()}`);
    await page.goto(`${fleet.url}/console`);
    await page.locator("#token:focus").waitFor();
    await page.keyboard.type(fleet.tokens.admin);
    await page.keyboard.press("Enter");
    await page.locator("#view h1:focus").waitFor();
    assert.equal(await focused(), "H1 Overview");
    // Backwards over the button and the last links of the navigation.
    for (let presses = 0; (await focused()) !== "A Runs"; presses += 1) {
      assert.ok(presses < 10, await focused());
      await page.keyboard.press("Shift+Tab");
    }
    await page.keyboard.press("Enter");
    await page.locator('#view h1:focus:text-is("Runs")').waitFor();
    assert.equal(await page.locator("nav a[aria-current=page]").innerText(), "Runs");
    for (let presses = 0; (await focused()) !== "BUTTON Force a sync"; presses += 1) {
      assert.ok(presses < 10, await focused());
      await page.keyboard.press("Tab");
    }
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: "Force a sync?" }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    await eventually("the focus back on the button", async () => (await focused()) === "BUTTON Force a sync");
  },

  "a read-only token shows everything and hides actions after a refusal": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "deletions", { token: fleet.tokens.looker });
    await says(page.locator("#line"), "running");
    await rig.watch.expect([403], async () => {
      await page.getByRole("button", { name: "Pause", exact: true }).click();
      await answer(page, { yes: "Pause" });
      await says(page.locator("#view .fault"), /FORBIDDEN: this token does not give the right to do this/);
    });
    await says(page.locator("#said"), "This token is read-only.");
    assert.equal(await page.locator(".changes:visible").count(), 0);
    await page.getByRole("link", { name: "Runs", exact: true }).click();
    await page.getByRole("heading", { name: "Census" }).waitFor();
    assert.equal(await page.locator(".changes:visible").count(), 0);
    assert.equal((await fleet.stats()).deletions.paused, null);
  },

  "whoever only wants to look sees no button that changes something": async (rig) => {
    const { page } = rig;
    await enter(rig, "runs", { looksOnly: true });
    await page.getByRole("heading", { name: "Census" }).waitFor();
    assert.ok((await page.locator("button.changes").count()) > 5);
    assert.equal(await page.locator(".changes:visible").count(), 0);
  },

  "a token that is taken away is asked for again": async (rig) => {
    const { page, fleet } = rig;
    await enter(rig, "fleet", { token: await fleet.addToken("leaver") });
    await says(page.locator("#roles"), "allocator");
    await rig.watch.expect([401], async () => {
      fleet.removeToken("leaver");
      await page.getByLabel("Admin or read-only token").waitFor();
    });
    await says(page.getByRole("alert"), "UNAUTHORIZED");
    await enter(rig, "fleet");
    await says(page.locator("#roles"), "allocator");
  },
};
