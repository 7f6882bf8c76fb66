// The fleet and the browser of one run: `broker up --ephemeral` with separate tokens, and headless chromium.

import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const POOL = 60;
/** The longest wait for any condition, on a slow and loaded machine. */
export const PATIENCE_MS = 60_000;
const POLL_MS = 100;
const STOP_MS_MAX = 20_000;

const secret = () => randomBytes(24).toString("hex");

/** Calls the function until it returns a true value, and returns that. After the timeout, names the last failure. */
export async function eventually(what, look) {
  const end = Date.now() + PATIENCE_MS;
  let last = "nothing";
  for (;;) {
    try {
      const found = await look();
      if (found) return found;
      last = found;
    } catch (error) {
      last = error.message;
    }
    if (Date.now() > end) throw new Error(`waited ${PATIENCE_MS / 1_000} s for ${what}; last: ${last}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** A running `broker up`. */
export class Fleet {
  static async start(broker) {
    const fleet = new Fleet();
    fleet.folder = mkdtempSync(join(tmpdir(), "console-"));
    fleet.tokens = { lab: secret(), admin: secret(), looker: secret(), provider: secret() };
    fleet.kept = new Map([
      ["lab", { token: fleet.tokens.lab, scope: "lab" }],
      ["alice", { token: fleet.tokens.admin, scope: "admin" }],
      ["looker", { token: fleet.tokens.looker, scope: "read-only" }],
    ]);
    fleet.writeTokens();
    const flags = ["http", "nats-listen", "simulator-listen"].flatMap((flag) => [`--${flag}`, "127.0.0.1:0"]);
    fleet.process = spawn(broker, ["up", "--nodes", "0", "--ephemeral", "--pool", String(POOL), ...flags], {
      cwd: fleet.folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        TOKENS_FILE: join(fleet.folder, "tokens"),
        TOKENS_FILE_LOOK_SECONDS: "1",
        CSP_API_TOKEN: fleet.tokens.provider,
        // Every count is taken at the moment of the request, not by the last census.
        STATS_CENSUS_AGE_SECONDS_MAX: "0",
        // A deletion is parked after one failed attempt, and the throttle causes no waits.
        DELETION_ATTEMPTS_MAX: "1",
        DELETIONS_PER_MINUTE: "6000",
      },
    });
    fleet.printed = "";
    for (const stream of [fleet.process.stdout, fleet.process.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => { fleet.printed += text; });
    }
    fleet.ended = new Promise((resolve) => { fleet.process.on("exit", resolve); });
    process.on("exit", () => { fleet.process.kill("SIGKILL"); });
    const address = (name) => fleet.lines().match(new RegExp(`^ +${name} +(http://\\S+)`, "m"))?.[1];
    fleet.url = await eventually("the fleet", () => {
      if (fleet.process.exitCode !== null) throw new Error(`broker up ended:\n${fleet.printed}`);
      return address("http");
    });
    fleet.provider = new URL(address("simulator")).origin;
    await eventually("a full pool", async () => (await fleet.stats()).available === POOL);
    return fleet;
  }

  /** An additional read-only token, which is valid some moments later. */
  async addToken(name) {
    const token = secret();
    this.kept.set(name, { token, scope: "read-only" });
    this.writeTokens();
    await eventually("the new token", () => this.call("GET", "/v1/admin/stats", token));
    return token;
  }

  removeToken(name) {
    this.kept.delete(name);
    this.writeTokens();
  }

  // Written under another name first: the ingress would report half a file as an error.
  writeTokens() {
    const digest = (token) => createHash("sha256").update(token).digest("hex");
    const lines = [...this.kept].map(([name, { token, scope }]) => `${name} ${scope} sha256:${digest(token)}\n`);
    writeFileSync(join(this.folder, "tokens.new"), lines.join(""));
    renameSync(join(this.folder, "tokens.new"), join(this.folder, "tokens"));
  }

  lines() {
    // eslint-disable-next-line no-control-regex
    return this.printed.replace(/\x1b\[[0-9;]*m/g, "");
  }

  async stop() {
    this.process.kill("SIGTERM");
    const late = setTimeout(() => this.process.kill("SIGKILL"), STOP_MS_MAX);
    await this.ended;
    clearTimeout(late);
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** One call of the API; fails unless it succeeds. */
  async call(method, path, token, { headers = {}, body } = {}) {
    const answer = await fetch(this.url + path, {
      method,
      headers: { Authorization: `Bearer ${token}`, ...headers },
      body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  admin(method, path, body) {
    return this.call(method, `/v1/admin/${path}`, this.tokens.admin, { body });
  }

  stats() {
    return this.admin("GET", "stats");
  }

  /** Claims a sandbox as a lab does. */
  claim(owner, lab) {
    const headers = { "X-Instruqt-Sandbox-ID": owner, "X-Instruqt-Track-ID": lab };
    return this.call("POST", "/v1/allocate", this.tokens.lab, { headers });
  }

  /** Releases a sandbox as a lab does. */
  giveBack(owner, id) {
    return this.call("POST", `/v1/sandboxes/${id}/mark-for-deletion`, this.tokens.lab, { headers: { "X-Instruqt-Sandbox-ID": owner } });
  }

  /** Removes an account at the provider without the broker. */
  async vanish(externalId) {
    const answer = await fetch(`${this.provider}/v2/sandbox/accounts/${externalId.split("/").at(-1)}`, {
      method: "DELETE",
      headers: { Authorization: `Token ${this.tokens.provider}` },
    });
    if (!answer.ok) throw new Error(`vanish: ${answer.status} ${await answer.text()}`);
  }

  /** Sets the provider's faults from now on; none without operations. */
  async faults(operations = {}) {
    const answer = await fetch(`${this.provider}/simulator/faults`, {
      method: "PUT",
      headers: { Authorization: `Token ${this.tokens.provider}` },
      body: JSON.stringify({ operations }),
    });
    if (!answer.ok) throw new Error(`faults: ${answer.status} ${await answer.text()}`);
  }
}

/** A headless chromium. */
export async function launch(home, executablePath) {
  const { chromium } = createRequire(join(home, "package.json"))("playwright-core");
  // Chromium's sandbox needs more rights than containers have, and the pages are our own.
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"] });
}
