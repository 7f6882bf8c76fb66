"""The table that every implementation is held to: what happens on the connection, and how a command has to end."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.proxy import (
    BARE,
    CUT,
    DROP,
    EARLY,
    FLOOD,
    HANG,
    LOSE,
    PASS,
    RESET,
    TRICKLE,
    Fault,
    answer,
    bare,
    change,
    delay,
    lie,
    refusal,
)

PAGE = b"<html>another site's page</html>"
IMPATIENT = {"LAB_TIMEOUT_SECONDS": "1"}
HURRIED = {"LAB_WAIT_SECONDS": "1"}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    faults: tuple = ()
    code: int = 0
    env: dict = field(default_factory=dict)
    forever: Fault = PASS
    """What happens after the faults."""
    requests: int | None = None
    """How many calls there may be, where a second one would be a mistake."""
    held: int | None = None
    """How many sandboxes the participant holds afterwards, if not as the exit code says."""


LINE = (
    Row("no fault", requests=1),
    Row("first answer dropped", (DROP,)),
    Row("request lost", (LOSE,)),
    Row("connection reset", (RESET,)),
    Row("answer cut", (CUT,)),
    Row("answer late", (delay(0.3),)),
    Row("answer too late", (HANG,), env=IMPATIENT),
    Row("answer trickles", (TRICKLE,), env=IMPATIENT),
    Row("500", (answer(500),)),
    Row("500 after the work", (lie(500, PAGE),)),
    Row("502 page", (answer(502, PAGE),)),
    Row("503 with Retry-After", (refusal(503, "NO_WORKERS", Retry_After="1"),)),
    Row("504 after the work", (lie(504, {"detail": {"code": "TIMEOUT"}}),)),
    Row("408 and 425", (answer(408), answer(425))),
    Row("429 with Retry-After", (refusal(429, "RATE_LIMIT_EXCEEDED", Retry_After="1"),)),
    Row("429 without", (answer(429, PAGE),)),
    Row("Retry-After beyond reason", (answer(429, Retry_After="86400"),)),
    Row("Retry-After as a date", (answer(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),)),
    Row("Retry-After with zeros", (answer(503, Retry_After="0008"),)),
    Row("403 of something in front", (answer(403, PAGE), answer(403))),
    Row("200 page", (answer(200, PAGE),)),
    Row("200 without JSON", (answer(200), answer(200, b'{"detail":'))),
    Row("200 after the work, unreadable", (lie(200, b'{"sandbox_id":"1","external_id":'),)),
    Row("one after another", (answer(500), DROP, CUT, answer(429, Retry_After="0"), RESET, lie(503), LOSE)),
    Row("401", (refusal(401, "UNAUTHORIZED"),), 1, requests=1),
    Row("403 of the broker", (refusal(403, "FORBIDDEN"),), 1, requests=1),
    Row("400", (refusal(400, "INVALID_REQUEST"),), 1, requests=1),
    Row("redirect", (answer(302, Location="http://127.0.0.1:9/"),), 1, requests=1),
    Row("409 that stays", (refusal(409, "INVALID_STATE"),), 1, requests=1),
    Row("500 for ever", code=1, env=HURRIED, forever=answer(500)),
    Row("lost for ever", code=1, env=HURRIED, forever=LOSE),
)
"""For both commands that talk to the broker."""

SHORT = ("Retry-After", "408", "429 without", "late", "502", "503", "504", "401", "403 of the b", "400", "409", "redirect")
PROVISION = tuple(row for row in LINE if not any(part in row.name for part in SHORT))
"""The same for the provider's calls, without what is decided in the same place for all calls."""
REMOVE = tuple(row for row in PROVISION if row.name != "200 without JSON")
"""Of an answer to a deletion only the status counts."""

ALLOCATE = (
    Row("409 with Retry-After", (refusal(409, "POOL_EXHAUSTED", Retry_After="1"),) * 2),
    Row("409 that lost its header", (refusal(409, "POOL_EXHAUSTED"),)),
    Row("409 for ever", code=1, env=HURRIED, forever=refusal(409, "POOL_EXHAUSTED", Retry_After="30")),
    Row("404", (refusal(404, "NOT_FOUND"),), 1, requests=1),
    Row("ids missing", (answer(201, {"sandbox_id": "", "external_id": None}), answer(201, []))),
    Row("ids that leave their place", (lie(201, {"sandbox_id": "../x", "external_id": "a b", "name": "n"}),)),
    Row("answers dropped for ever", code=1, env=HURRIED, forever=DROP, held=1),
    Row("answers cut for ever", code=1, env=HURRIED, forever=CUT, held=1),
    Row("an SFDC id", (change(sfdc_account_id="001SAND15956299f9d"),)),
    Row("a null SFDC id", (change(sfdc_account_id=None),)),
    Row("any name", env={"SANDBOX_NAME_PREFIX": ""}),
    Row("no name like that", code=1, env={"SANDBOX_NAME_PREFIX": "nothing-", **HURRIED}),
    Row("a body without end", (FLOOD,), requests=2),
    Row("a name that is too long", (change(name="n" * 1_000_000),), requests=2),
    Row("the longest body, of line ends", (answer(503, b"\n" * 65_536),), requests=2),
    Row("brackets without end", (answer(503, b"[" * 60_000), answer(201, b'{"a":' * 12_000)), requests=3),
    Row("lines without carriage returns", (bare(503, {}, Retry_After="1"), BARE), requests=2),
    Row("interim answers", (EARLY,), requests=1),
    Row("no slug", env={"INSTRUQT_TRACK_SLUG": None}),
)

CLEANUP = (
    Row("404 of the broker", (refusal(404, "NOT_FOUND"),), requests=1, held=1),
    Row("410 of the broker", (refusal(410, "ALLOCATION_EXPIRED"),), requests=1, held=1),
    Row("404 page", (answer(404, PAGE), answer(404))),
    Row("410 page", (answer(410, PAGE),)),
    Row("answers dropped for ever", code=1, env=HURRIED, forever=DROP, held=0),
    Row("409 with Retry-After", (refusal(409, "INVALID_STATE", Retry_After="1"),), 1, requests=1),
)

SETTINGS = (
    Row("no token", code=1, env={"BROKER_API_TOKEN": None}),
    Row("empty token", code=1, env={"BROKER_API_TOKEN": ""}),
    Row("token of two lines", code=1, env={"BROKER_API_TOKEN": "a\nX-Evil: 1"}),
    Row("no participant", code=1, env={"INSTRUQT_PARTICIPANT_ID": None}),
    Row("participant of two lines", code=1, env={"INSTRUQT_PARTICIPANT_ID": "a\r\nX-Evil: 1"}),
    Row("participant with a bell", code=1, env={"INSTRUQT_PARTICIPANT_ID": "zo\a"}),
    Row("participant that ends in a blank", code=1, env={"INSTRUQT_PARTICIPANT_ID": "zoe "}),
    Row("no URL", code=1, env={"BROKER_API_URL": None}),
    Row("URL of a file", code=1, env={"BROKER_API_URL": "file:///etc/passwd"}),
    Row("URL with a blank", code=1, env={"BROKER_API_URL": "http://127.0.0.1:9/a b"}),
    Row("URL with a port beyond", code=1, env={"BROKER_API_URL": "http://127.0.0.1:99999"}),
    Row("URL with no port", code=1, env={"BROKER_API_URL": "http://127.0.0.1:/v1"}),
    Row("URL with two ports", code=1, env={"BROKER_API_URL": "http://127.0.0.1:9:9"}),
    Row("URL with a question", code=1, env={"BROKER_API_URL": "http://127.0.0.1:9/?x"}),
    Row("no time for a call", code=1, env={"LAB_TIMEOUT_SECONDS": "0"}),
    Row("no time for a connection", code=1, env={"LAB_CONNECT_SECONDS": "00"}),
    Row("wait is no number", code=1, env={"LAB_WAIT_SECONDS": "1; true"}),
    Row("no such folder", code=1, env={"LAB_FILES_DIR": "/nowhere/at/all"}),
)
"""What ends a command before its first call."""

HOSTILE_NAMES = (
    "$(touch pwned)",
    "`touch pwned`",
    "it's; touch pwned; '",
    "''' \"double\" \\ back\\\\slash \\n",
    "two\nlines\nand more\n\n",
    "-n",
    "",
    "  blanks\t ",
    "Zoë 沙箱 😀 \u202e",
    "%s%n %d",
    "$HOME ${PATH} $((1+1)) ~ * ? [a] !x #c & | < >",
    "a\r\nb\x01\x7f",
    "'\"'\"'",
    # Their bytes are what dash marks its own quotes with.
    "āĂăĄąĆćĈ \u0081\u0088",
)
"""Names that must stay text."""
