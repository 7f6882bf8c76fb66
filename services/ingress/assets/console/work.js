// What views share in addition to elements: polling, actions with a confirmation, and paging.

import { ask, pause } from "/console/api.js";
import { fault, make, say, swap } from "/console/dom.js";

/** Time between two looks, in seconds. */
export const LOOK_SECONDS = 5;

/**
 * Calls `look` now and then every some seconds, while the page is seen, no dialog is open, and the view is open.
 * What fails is shown in `notice`, and the next look waits as long as the broker says. Returns a function that looks at
 * once.
 */
export function keepLooking(signal, notice, look) {
  let early = new AbortController();
  const round = async () => {
    try {
      await look();
      notice.replaceChildren();
      return LOOK_SECONDS;
    } catch (problem) {
      if (signal.aborted) return LOOK_SECONDS;
      notice.replaceChildren(fault(problem));
      return Math.max(LOOK_SECONDS, problem.retryAfterSeconds ?? 0);
    }
  };
  (async () => {
    while (!signal.aborted) {
      // Created before the poll, so that a request for another one in the meantime follows directly.
      early = new AbortController();
      const seconds = await round();
      await pause(seconds * 1_000, AbortSignal.any([signal, early.signal]));
      if (!early.signal.aborted) await untilSeen(signal);
    }
  })();
  return () => early.abort();
}

function untilSeen(signal) {
  const isSeen = () => !document.hidden && !document.querySelector("dialog[open]");
  return new Promise((resolve) => {
    const check = () => {
      if (!isSeen() && !signal.aborted) return;
      document.removeEventListener("visibilitychange", check);
      document.removeEventListener("close", check, true);
      resolve();
    };
    document.addEventListener("visibilitychange", check);
    document.addEventListener("close", check, true);
    signal.addEventListener("abort", check, { once: true });
    check();
  });
}

/** Asks a person. `minutes` is the label of the field for them. Returns `{reason, minutes}`, or null if it is not wanted. */
export function confirmed({ title, text, yes, reason = "none", minutes = "" }) {
  const part = (id) => document.getElementById(id);
  const dialog = part("ask");
  part("ask-title").textContent = title;
  part("ask-text").textContent = text;
  part("ask-yes").textContent = yes;
  part("ask-reason-row").hidden = reason === "none";
  part("ask-reason").required = reason === "needed";
  part("ask-reason").value = "";
  part("ask-minutes-row").hidden = !minutes;
  part("ask-minutes-label").textContent = minutes;
  part("ask-minutes").value = "";
  return new Promise((resolve) => {
    let answer = null;
    const submit = (event) => {
      event.preventDefault();
      answer = { reason: part("ask-reason").value.trim(), minutes: Number(part("ask-minutes").value) || null };
      dialog.close();
    };
    const cancel = () => dialog.close();
    part("ask-form").addEventListener("submit", submit);
    part("ask-no").addEventListener("click", cancel);
    dialog.addEventListener("close", () => {
      part("ask-form").removeEventListener("submit", submit);
      part("ask-no").removeEventListener("click", cancel);
      resolve(answer);
    }, { once: true });
    dialog.showModal();
  });
}

/**
 * A button that changes something. `work` returns words for all users; what it throws is shown in `notice`, and the button
 * rests for as long as the broker says.
 */
export function action(text, key, notice, work) {
  const button = make("button", { type: "button", class: "changes", "data-key": key }, text);
  // Not `disabled`: a focused button would lose the focus, and the dialog could not return it.
  const rest = (isResting) => button.setAttribute("aria-disabled", String(isResting));
  rest(false);
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    rest(true);
    // What was done before says nothing about this one, which may fail.
    say("");
    try {
      const words = await work();
      if (words) {
        notice.replaceChildren();
        say(words);
      }
    } catch (problem) {
      notice.replaceChildren(fault(problem));
      if (problem.retryAfterSeconds) await pause(problem.retryAfterSeconds * 1_000);
    } finally {
      rest(false);
    }
  });
  return button;
}

/** Sends what changes something. A token that may not is believed: what changes something is hidden from then on. */
export async function change(method, path, how) {
  try {
    return await ask(method, path, how);
  } catch (problem) {
    if (problem.status === 403 && problem.code === "FORBIDDEN") {
      document.documentElement.classList.add("looks-only");
      say("This token is read-only. Actions are hidden now.");
    }
    throw problem;
  }
}

/** Pages of a list. `load(cursor)` shows one and returns the next cursor, or none after the last. */
export class Pages {
  constructor(look) {
    this.cursor = null;
    this.next = null;
    this.number = 1;
    this.look = look;
    this.node = make("p", { class: "row" });
  }

  /** Shows the buttons after a page was read. */
  show(next) {
    this.next = next ?? null;
    const first = make("button", { type: "button", "data-key": "first", onclick: () => this.go(null, 1) }, "First page");
    const more = make("button", { type: "button", "data-key": "next", onclick: () => this.go(this.next, this.number + 1) },
      "Next page");
    first.disabled = this.number === 1;
    more.disabled = this.next === null;
    swap(this.node, first, more, make("span", { class: "soft" }, `Page ${this.number}`));
  }

  go(cursor, number) {
    this.cursor = cursor;
    this.number = number;
    this.look();
  }
}
