// A client of the sandbox broker on NATS: claims a sandbox, reads it, extends its lease and releases it.
// The settings come from the environment; see README.md in the folder above.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, errors, headers, type Msg, type NatsConnection } from "@nats-io/transport-node";

const ATTEMPT_MS = 2_000;
const OVERALL_MS = 90_000;
const REPEATED = ["POOL_EXHAUSTED", "CONTENDED", "NO_WORKERS", "NOT_HERE", "STORE_UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "TIMEOUT"];

/** The answer to `allocate` and `extend`; nats/schemas/AllocateReply.json. */
interface Lease {
  sandbox_id: string;
  expires_at: number;
  lease_epoch: number;
}

/** `detail` of nats/schemas/Fault….json. */
interface Detail {
  code: string;
  message: string;
  request_id: string;
  retry_after?: number;
}

/** A failure that the broker answered with. */
class Fault extends Error {
  constructor(readonly status: number, readonly detail: Detail) {
    super(`${detail.code}: ${detail.message} (request ${detail.request_id})`);
  }

  /** Those that say when, and one bug of theirs once. An unknown code is judged by its status. */
  mayRepeat(attempt: number): boolean {
    if (this.detail.code === "INTERNAL_ERROR") return attempt === 1;
    return REPEATED.includes(this.detail.code) || this.status === 429 || this.status > 500;
  }
}

const ends = Date.now() + OVERALL_MS;

/**
 * Repeats a request until the answer is no temporary failure. All attempts have the same body, key and request id.
 */
async function ask(nats: NatsConnection, verb: string, requestId: string, body: object, key?: string): Promise<Msg> {
  for (let attempt = 1; ; attempt++) {
    let pauseMs = 100 + Math.random() * 400;
    try {
      return await attemptOnce(nats, verb, requestId, body, key);
    } catch (error) {
      if (error instanceof Fault) {
        if (!error.mayRepeat(attempt)) throw error;
        pauseMs += (error.detail.retry_after ?? 0) * 1_000;
      } else if (!isLost(error)) {
        throw error;
      }
      if (Date.now() + pauseMs > ends) throw error;
      console.error(`${verb}: attempt ${attempt}: ${error}; again in ${Math.round(pauseMs)} ms`);
    }
    await sleep(pauseMs);
  }
}

/** No worker is subscribed now, or the request or its reply was lost: it may have been done. */
function isLost(error: unknown): boolean {
  if (error instanceof errors.RequestError) return error.isNoResponders();
  return error instanceof errors.TimeoutError || error instanceof errors.NoRespondersError;
}

async function attemptOnce(nats: NatsConnection, verb: string, requestId: string, body: object, key?: string) {
  const sent = headers();
  sent.set("X-Request-ID", requestId);
  sent.set("Sandbox-Deadline-Ms", String(Date.now() + ATTEMPT_MS));
  if (key) sent.set("Idempotency-Key", key);
  const reply = await nats.request(`sandbox.v1.${verb}`, JSON.stringify(body), { timeout: ATTEMPT_MS, headers: sent });
  const status = reply.headers?.get("Nats-Service-Error-Code");
  if (status) throw new Fault(Number(status), reply.json<{ detail: Detail }>().detail);
  return reply;
}

const owner = process.env.OWNER || `example-typescript-${Date.now()}`;
const user = process.env.NATS_USER;
const nats = await connect({
  servers: (process.env.NATS_URL || "nats://127.0.0.1:4222").replace("nats://", ""),
  // A server without users needs none of these.
  ...(user && { user, pass: process.env.NATS_PASSWORD, inboxPrefix: `_INBOX.${user}` }),
});

const claim = { owner, lab: "nats-examples" };
const first = await ask(nats, "allocate", `${owner}-claim`, claim, "first");
const lease = first.json<Lease>();
console.log("claimed", lease.sandbox_id, first.headers?.get("Sandbox-Outcome"));

// A repeat of the claim returns the same lease and no second sandbox.
const again = await ask(nats, "allocate", `${owner}-again`, claim, "first");
assert.equal(again.headers?.get("Sandbox-Outcome"), "existing");
assert.equal(again.string(), first.string());

const mine = { owner, sandbox_id: lease.sandbox_id };
const view = await ask(nats, "get", `${owner}-get`, mine);
assert.equal(view.json<{ status: string }>().status, "allocated");

const more = { ...mine, lab_duration_hours: 5, lease_epoch: lease.lease_epoch };
const extended = await ask(nats, "extend", `${owner}-extend`, more);
assert(extended.json<Lease>().expires_at > lease.expires_at);

// Another owner is refused, and a repeat would not help: ask throws at once.
await assert.rejects(
  ask(nats, "get", `${owner}-stranger`, { ...mine, owner: "another-owner" }),
  (error) => error instanceof Fault && error.detail.code === "NOT_SANDBOX_OWNER",
);

const released = await ask(nats, "release", `${owner}-release`, mine);
const twice = await ask(nats, "release", `${owner}-release-again`, mine);
assert.equal(twice.string(), released.string());
console.log("released", lease.sandbox_id);
await nats.close();
