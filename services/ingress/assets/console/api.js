// The only module that calls the broker and knows the token. The token is a variable of this module:
// no storage, URL or element contains it once it was submitted.

/** Longest wait for an answer; a run's request is answered within half a minute. */
const ANSWER_MS_MAX = 60_000;
/** Pause before a lost stream is asked for again, until the broker names another one. */
const COME_BACK_MS = 2_000;

let token = null;
let operator = "";

/** What the broker, or the way to it, refused. */
export class Refused extends Error {
  constructor(status, detail = {}, requestId = null, retryAfterSeconds = null) {
    super(detail.message || `the answer was ${status}, and no reason was given`);
    this.status = status;
    this.code = detail.code || `HTTP_${status}`;
    this.requestId = detail.request_id || requestId;
    this.retryAfterSeconds = detail.retry_after ?? retryAfterSeconds;
  }
}

export function isSignedIn() {
  return token !== null;
}

/** Uses this token from now on. `name` goes into the history of what is done. */
export function signIn(newToken, name) {
  token = newToken;
  operator = name;
}

export function signOut() {
  token = null;
  operator = "";
}

/** Asks, and returns `{status, body}` of an answer that is none of a failure. Throws `Refused`, or the signal's reason. */
export async function ask(method, path, { query, body, signal } = {}) {
  const limit = AbortSignal.timeout(ANSWER_MS_MAX);
  const answer = await send(method, path, {
    query,
    body,
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
  });
  return { status: answer.status, body: await readJson(answer) };
}

/** `/readyz`, whose failure is an answer too. */
export async function readiness(signal) {
  const answer = await reach("/readyz", { signal, cache: "no-store" });
  const body = await readJson(answer);
  if (!body || !body.checks) throw refusal(answer, body);
  return body;
}

/**
 * Follows Server-Sent Events, and comes back with `Last-Event-ID` when the stream ends. (EventSource cannot send a token.)
 * `tell` is called with `{state, seconds?, fault?}`. Yields `{id, event, data}`; ends when the signal says so.
 */
export async function* follow(path, { query, signal, tell }) {
  const place = { id: null, comeBackMs: COME_BACK_MS };
  while (!signal.aborted) {
    let pauseMs = place.comeBackMs;
    try {
      tell({ state: "connecting" });
      const headers = place.id === null ? {} : { "Last-Event-ID": place.id };
      const answer = await send("GET", path, { query, signal, headers: { ...headers, Accept: "text/event-stream" } });
      tell({ state: "following" });
      yield* messages(answer.body, place);
      pauseMs = place.comeBackMs;
      tell({ state: "away", seconds: pauseMs / 1_000 });
    } catch (fault) {
      if (signal.aborted) return;
      // A wrong request does not become right by a repeat.
      if (fault instanceof Refused && fault.status >= 400 && fault.status < 500 && fault.status !== 429) throw fault;
      pauseMs = Math.max(pauseMs, (fault.retryAfterSeconds ?? 0) * 1_000);
      tell({ state: "away", seconds: pauseMs / 1_000, fault });
    }
    await pause(pauseMs, signal);
  }
}

/** Waits for a time, or until the signal says that no caller waits any more. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    return signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

async function send(method, path, { query, body, signal, headers = {} }) {
  const words = Object.entries(query || {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const tail = words.length ? `?${new URLSearchParams(words)}` : "";
  const sent = token;
  const all = { Authorization: `Bearer ${sent}`, ...headers };
  if (operator && method !== "GET") all["X-Operator"] = operator;
  if (body !== undefined) all["Content-Type"] = "application/json";
  const answer = await reach(path + tail, {
    method,
    headers: all,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    redirect: "error",
  });
  if (answer.ok) return answer;
  const fault = refusal(answer, await readJson(answer));
  // A late answer to an earlier token says nothing about the current one.
  if (answer.status === 401 && sent === token) {
    signOut();
    document.dispatchEvent(new CustomEvent("token-refused", { detail: fault }));
  }
  throw fault;
}

async function reach(path, how) {
  try {
    return await fetch(path, { credentials: "omit", ...how });
  } catch (error) {
    if (how.signal?.aborted && how.signal.reason?.name !== "TimeoutError") throw error;
    const message = error.name === "TimeoutError" ? "no answer came in time" : "the broker cannot be reached";
    throw new Refused(0, { code: "NO_ANSWER", message });
  }
}

async function readJson(answer) {
  try {
    return await answer.json();
  } catch {
    return null;
  }
}

function refusal(answer, body) {
  const seconds = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  const detail = body && typeof body.detail === "object" && body.detail ? body.detail : {};
  return new Refused(answer.status, detail, answer.headers.get("X-Request-ID"), Number.isNaN(seconds) ? null : seconds);
}

// The messages of one answer. `place` is updated, so that the next answer continues there.
async function* messages(body, place) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      // A truncated message is ignored; it will come again.
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const message = parse(block, place);
        if (message) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block, place) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) || [];
    if (field === "id" && !value.includes("\0")) place.id = value;
    if (field === "event") event = value;
    if (field === "data") data.push(value);
    if (field === "retry" && /^\d+$/.test(value)) place.comeBackMs = Number(value);
  }
  return data.length ? { id: place.id, event, data: data.join("\n") } : null;
}
