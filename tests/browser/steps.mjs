// Steps that many checks of the console share.

import assert from "node:assert/strict";

/** Opens the console and enters a token. `where` is the part after the `#`. */
export async function enter({ page, fleet }, where = "overview", { token = fleet.tokens.admin, operator = "", looksOnly = false } = {}) {
  await page.goto(`${fleet.url}/console#${where}`);
  await page.getByLabel("Admin or read-only token").fill(token);
  if (operator) await page.getByLabel("Your name").fill(operator);
  if (looksOnly) await page.getByLabel("Read-only: hide all actions").check();
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator("#view h1").waitFor();
}

/** Confirms the question of a button. */
export async function answer(page, { reason, minutes, yes }) {
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  if (reason !== undefined) await dialog.getByLabel("Reason").fill(reason);
  if (minutes !== undefined) await dialog.getByLabel("minutes").fill(String(minutes));
  await dialog.getByRole("button", { name: yes, exact: true }).click();
  await dialog.waitFor({ state: "hidden" });
}

/** Waits until a part of the page contains a text. */
export function says(part, words) {
  return part.filter({ hasText: words }).first().waitFor();
}

/** The value of a name in a definition list. */
export function fact(part, name) {
  return part.locator(`dt:text-is("${name}") + dd`);
}

/** The rows of a table by their cells' texts. */
export async function rows(part) {
  const found = await part.locator("tbody tr").all();
  return Promise.all(found.map((row) => row.locator("td").allInnerTexts()));
}

/** Fails if the token is anywhere but in the memory of the script. */
export async function assertTokenIsNowhere(page, token) {
  const kept = await page.evaluate(() => ({
    url: location.href,
    markup: document.documentElement.outerHTML,
    fields: [...document.querySelectorAll("input")].map((field) => field.value),
    stored: [JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie],
    history: JSON.stringify(history.state),
  }));
  assert.ok(!JSON.stringify(kept).includes(token), "the token is somewhere");
}
