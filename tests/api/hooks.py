"""Checks in addition to those of schemathesis: authorization, faults, and the headers of every answer.

Loaded by schemathesis itself (`hooks` in its settings). API_SCHEMES names the security schemes that the token of this
run stands for, separated by commas.
"""

import json
import os

import schemathesis

SCHEMES = set(filter(None, os.environ["API_SCHEMES"].split(",")))
EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-xss-protection": "1; mode=block",
    "permissions-policy": "geolocation=(), microphone=(), camera=()",
}
# The run's workers are up and idle, so any other failure of the broker is an error.
EXCUSED = {"CONTENDED"}


def is_of_the_operation(case, response):
    """Whether the operation itself answered: a request with an altered method or path does not reach it."""
    return case.method.upper() == case.operation.method.upper() and response.status_code != 405


def header(response, name):
    """The single value of a header; None if it is missing."""
    values = response.headers.get(name) or [None]
    assert len(values) == 1, f"{name} is there {len(values)} times"
    return values[0]


@schemathesis.check
def who_is_let_in(_ctx, response, case):
    """A token of a documented scheme is accepted, and any other is refused."""
    wanted = {scheme for way in case.operation.definition.raw.get("security", []) for scheme in way}
    if not wanted or not is_of_the_operation(case, response):
        return
    # Only the run with the right token for each operation also tries invented tokens.
    if not SCHEMES and "authorization" not in {name.lower() for name in case.headers or {}}:
        assert response.status_code == 401, f"no token, and the answer is {response.status_code}"
    elif SCHEMES and not wanted & SCHEMES:
        assert response.status_code == 403, f"a token of {SCHEMES}, and the answer is {response.status_code}"


@schemathesis.check
def faults_are_those_described(_ctx, response, case):
    """A fault has the standard body, and a code that the description documents for its status."""
    if response.status_code < 400 or case.operation.path == "/readyz":
        return
    detail = json.loads(response.content)["detail"]
    assert set(detail) <= {"code", "message", "request_id", "retry_after"}, f"unknown fields: {sorted(detail)}"
    assert detail["message"] and detail["request_id"] == header(response, "x-request-id")
    retry_after = detail.get("retry_after")
    assert header(response, "retry-after") == (None if retry_after is None else str(retry_after))
    if is_of_the_operation(case, response):
        described = case.operation.definition.raw["responses"][str(response.status_code)]
        codes = set(described["content"]["application/json"]["examples"])
        assert detail["code"] in codes, f"{detail['code']} is none of {sorted(codes)}"
    if response.status_code >= 500:
        assert detail["code"] in EXCUSED, f"a failure of the broker's own: {detail}"


@schemathesis.check
def every_answer_is_dressed(_ctx, response, _case):
    """The headers of every answer, including refusals."""
    for name, value in EVERYWHERE.items():
        assert header(response, name) == value, f"{name} is {header(response, name)!r}"
    policy = header(response, "content-security-policy") or ""
    assert policy.startswith("default-src 'none'"), f"content-security-policy is {policy!r}"
    assert header(response, "x-request-id"), "no x-request-id"
