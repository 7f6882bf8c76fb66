// A watched page: a browser warning, a request to another host, or a page that is too wide fails the run.

import assert from "node:assert/strict";

/** Opens a page and collects its problems. A check declares intentional error statuses with `expect`. */
export async function watched(browser, origin, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const complaints = [];
  const expected = new Set();
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (status && expected.has(Number(status))) return;
    complaints.push(`console: ${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(`script: ${error.stack}`));
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const { protocol, origin: there } = new URL(request.url());
    if (protocol !== "data:" && there !== origin) complaints.push(`request to elsewhere: ${request.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  return {
    page,
    /** Declares the error statuses that `work` causes intentionally. */
    async expect(statuses, work) {
      statuses.forEach((status) => expected.add(status));
      await work();
      statuses.forEach((status) => expected.delete(status));
    },
    assertQuiet() {
      assert.deepEqual(complaints, []);
    },
    close: () => context.close(),
  };
}

/** Fails if the page is wider than its window. */
export async function assertFits(page) {
  const [inner, needed, widest] = await page.evaluate(() => {
    const tooWide = [...document.querySelectorAll("body *")].filter((node) =>
      !node.closest(".scroll table, .skip, [hidden]") && node.getBoundingClientRect().right > innerWidth + 0.5);
    return [innerWidth, document.documentElement.scrollWidth, tooWide.map((node) => node.outerHTML.slice(0, 120))];
  });
  assert.ok(needed <= inner && !widest.length, `${needed} of ${inner} px: ${widest.slice(0, 3).join("\n")}`);
}

/** Fails if a word or an id is broken although it would fit a line. */
export async function assertWholeWords(page) {
  const broken = await page.evaluate(() => {
    const found = [];
    const texts = document.createTreeWalker(document.querySelector("#view"), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      for (const word of text.data.matchAll(/(?<!\w)\w{2,24}(?!\w)/g)) {
        const range = document.createRange();
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((part) => part.top)).size > 1) found.push(word[0]);
      }
    }
    return found;
  });
  assert.deepEqual(broken, []);
}

/** Fails if a control has no accessible name. */
export async function assertNamed(page) {
  const nameless = await page.evaluate(() => {
    const isShown = (node) => node.checkVisibility();
    const fields = [...document.querySelectorAll("input, select")].filter(isShown).filter((node) => !node.labels?.length);
    const controls = [...document.querySelectorAll("button, a, summary")].filter(isShown).filter((node) => !node.textContent.trim());
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    const twice = ids.filter((id, index) => ids.indexOf(id) !== index);
    const headings = [...document.querySelectorAll("h1")].filter(isShown).length;
    return [...fields, ...controls].map((node) => node.outerHTML).concat(twice, headings === 1 ? [] : [`${headings} h1`]);
  });
  assert.deepEqual(nameless, []);
}
