#!/usr/bin/env python3
"""Runs schemathesis against a real `broker up`: every operation of its description, with every kind of token.

First the description itself is held against the rules of OpenAPI 3.1, by another program. The one run that has the
fitting token for each operation goes through all phases, the stateful one too, which follows the links from a claim to
what can be done with it. The others show that each kind of token, and no token, is let in or kept out.
Relies on schemathesis on the PYTHONPATH (tools/schemathesis.sh). BROKER names the binary, NATS_SERVER the server.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from fleet import BROKER, READY_MAX_SECONDS, Broken, Fleet, wait  # noqa: E402

POOL = 1500
RUN_MAX_SECONDS = 300
OWNERS = ["student-1", "student-2", "student-3"]
SANDBOXES_OF_OWNER = 4

# No rate limits for callers, a wait for reports that is only a little longer than the bus needs to store a tick, and
# all lease lengths that the description allows.
SETTINGS = {
    "PEER_RATE_PER_SECOND": "0",
    "TOKEN_RATE_PER_SECOND": "0",
    "OWNER_RATE_PER_SECOND": "0",
    "ADMIN_WAIT_MS": "2000",
    "LAB_DURATION_HOURS_MAX": "720",
    "LAB_DURATION_HOURS_TOTAL_MAX": "1440",
}
# An answer with events does not end, and on a quiet event log it does not begin: each case would run into its timeout. The
# suites of the ingress and of the flows (watching.rs) test events.
LEFT_OUT = ["GET /v1/admin/events"]
ROLES = ("lab", "user", "operator", "admin", "read-only")
# Name, the schemes of its token, the token of each scheme, phases, examples of an operation.
RUNS = [
    # A user token is refused for every owner but itself, so the owners that are made up need a lab token.
    ("fitting tokens", ",".join(ROLES), {**{role: role for role in ROLES}, "user": "lab"},
     "examples,coverage,fuzzing,stateful", 12),
    *((f"{role} token", role, dict.fromkeys(ROLES, role), "examples,fuzzing", 5) for role in ROLES),
    ("no token", "", {}, "examples,fuzzing", 5),
]


class ApiFleet(Fleet):
    """A fleet with a token of each kind."""

    def __init__(self, folder):
        lines, self.tokens = [], {}
        for scope in ROLES:
            made = subprocess.run([BROKER, "token", "--name", f"rig-{scope}", "--scope", scope],
                                  check=True, capture_output=True, text=True, timeout=READY_MAX_SECONDS)
            lines.append(made.stdout)
            self.tokens[scope] = made.stderr.split()[-1]
        (folder / "tokens").write_text("".join(lines))
        super().__init__(folder, POOL, {**SETTINGS, "TOKENS_FILE": str(folder / "tokens")})

    def wait_ready(self):
        """Waits for the fleet and for a full pool."""
        super().wait_ready()
        wait("a full pool", lambda: self.call("GET", "/v1/admin/stats", "admin")["available"] == POOL)

    def call(self, method, path, scope, **headers):
        """The answer of a call, which must succeed."""
        headers = {"Authorization": f"Bearer {self.tokens[scope]}", **headers}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=READY_MAX_SECONDS) as response:
            return json.load(response)


def describe(fleet):
    """The description, which must be valid for a validator other than schemathesis."""
    document = fleet.call("GET", "/v1/openapi.json", "lab")
    problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in
                OpenAPIV31SpecValidator(document).iter_errors()]
    if problems:
        raise Broken("/v1/openapi.json is no OpenAPI 3.1:\n" + "\n".join(problems))
    # From a file, because schemathesis skips the operation from which it loads the description.
    (fleet.folder / "openapi.json").write_text(json.dumps(document))
    methods = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
    known = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in methods & set(item)}
    if gone := set(LEFT_OUT) - known:
        raise Broken(f"left out, and not there: {gone}")
    return len(known - set(LEFT_OUT))


def settings(fleet, tokens):
    """The settings of a run: the file, and values of the running fleet."""
    claims = [(owner, fleet.call("POST", "/v1/allocate", "lab", **{"X-Instruqt-Sandbox-ID": owner,
                                                                  "Idempotency-Key": f"rig-{n}"}))
              for owner in OWNERS for n in range(SANDBOXES_OF_OWNER)]
    lines = [(HERE / "settings.toml").read_text().replace('"hooks.py"', json.dumps(str(HERE / "hooks.py")))]
    # Half of the cases refer to existing objects.
    for name, values in {"owners": OWNERS, "ids": [claim["sandbox_id"] for _, claim in claims],
                         "pools": ["main"]}.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[parameters]", '"path.id" = { dictionary = "ids", probability = 0.5 }',
              '"header.X-Instruqt-Sandbox-ID" = { dictionary = "owners", probability = 0.5 }',
              # Other pools are refused: their names depend on the installation.
              '"header.X-Sandbox-Pool" = { dictionary = "pools" }']
    if tokens:
        lines += ["[auth.openapi]"]
        lines += [f"{scheme} = {{ bearer = {json.dumps(fleet.tokens[scope])} }}" for scheme, scope in tokens.items()]
    return "\n".join(lines) + "\n"


def start(fleet, run):
    """Starts one run of schemathesis."""
    name, schemes, tokens, phases, examples = run
    folder = fleet.folder / name.replace(" ", "-")
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(settings(fleet, tokens))
    words = [sys.executable, "-m", "schemathesis.cli", "--config-file", folder / "schemathesis.toml", "run",
             fleet.folder / "openapi.json", "--url", fleet.url, "--no-color", "--checks", "all", "--phases", phases,
             "--max-examples", str(examples), "--report-json-path", folder / "report.json", "--report", "json",
             "--generation-with-security-parameters", "true" if len(set(tokens.values())) > 1 else "false"]
    for operation in LEFT_OUT:
        words += ["--exclude-name", operation]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(words, cwd=folder, env={**os.environ, "API_SCHEMES": schemes},
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    return name, folder, process


def judge(started, operations):
    """The result of a run: its cases and its findings."""
    name, folder, process = started
    code = process.wait(RUN_MAX_SECONDS)
    report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {}
    cases = report.get("test_cases", {}).get("generated", 0)
    tested = report.get("operations", {}).get("tested", 0)
    findings = sum(failure["count"] for failure in report.get("failures", []))
    problems = []
    if code or findings or not report.get("complete"):
        problems.append(f"it ended with {code}")
    if tested != operations or not cases:
        problems.append(f"{tested} of {operations} operations were tested by {cases} cases")
    print(f"api: {name}: {tested} operations, {cases} cases, {report.get('running_time', 0):.0f} s", flush=True)
    if problems:
        print((folder / "log").read_text(errors="replace"), flush=True)
        print(f"api: {name}: FAILED: {'; '.join(problems)}", flush=True)
    return cases, max(findings, len(problems))


def main():
    """Runs everything; returns 0 if there are no findings."""
    folder = Path(tempfile.mkdtemp(prefix="broker-api-"))
    fleet = ApiFleet(folder)
    started = []
    try:
        fleet.wait_ready()
        operations = describe(fleet)
        # In parallel: each spends more time on waiting for the broker than on work.
        started = [start(fleet, run) for run in RUNS]
        results = [judge(each, operations) for each in started]
        code = fleet.stop()
    except (Broken, OSError, KeyError, ValueError, subprocess.SubprocessError) as failure:
        print(fleet.log.read_text(errors="replace")[-4000:], flush=True)
        print(f"api: FAILED: {type(failure).__name__}: {failure}", flush=True)
        return 1
    finally:
        for _, _, process in started:
            if process.poll() is None:
                process.kill()
        if fleet.process.poll() is None:
            fleet.stop()
        if not os.environ.get("API_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
    cases, findings = (sum(column) for column in zip(*results))
    print(f"api: {operations} operations, {cases} cases in {len(RUNS)} runs, {findings} findings, exit code {code}")
    return 1 if findings or code or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
