"""A server between a command and what it calls, which does one prepared harm to each request."""

from __future__ import annotations

import http.client
import json
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable
from urllib.parse import quote, quote_plus, urlsplit

FORWARD_MAX_SECONDS = 30
# A client that does not hang up by itself has no time-out, which the test then sees.
HOLD_MAX_SECONDS = 30
TRICKLE_SECONDS = 0.1
# Far more than lies in the buffers between the two ends.
FLOOD_BYTES = 256 << 20
CUT_OF_A_MESSAGE = 200


@dataclass(frozen=True)
class Fault:
    """What happens to one request."""

    act: str
    """The name of a method of Handler, after `act_`."""
    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    change: dict = field(default_factory=dict)
    seconds: float = 0.0


PASS = Fault("pass")
DROP = Fault("drop")
"""The work is done; nothing of the answer arrives."""
LOSE = Fault("lose")
"""The request does not arrive; the connection ends."""
RESET = Fault("reset")
"""The work is done; the connection is reset."""
CUT = Fault("cut")
"""The work is done; half of the answer's body arrives."""
HANG = Fault("hang")
"""The work is done; the answer comes after any patience."""
TRICKLE = Fault("trickle")
"""The work is done; the answer comes a byte at a time, and never ends."""

FLOOD = Fault("flood")
"""An answer whose body has no length and no end."""
BARE = Fault("bare")
"""The true answer, with lines that end without a carriage return."""
EARLY = Fault("early")
"""The true answer after two interim ones."""


def bare(status, body=b"", **headers):
    """As `answer`, with lines that end without a carriage return."""
    return Fault("bare", status=status, body=_bytes(body), headers=_headers(headers))


def reflect(status, form):
    """A refusal whose message is the token and the body of the request, in some form."""
    return Fault("reflect", status=status, change={"form": form})


def delay(seconds):
    """The work is done; the answer comes late, but in time."""
    return Fault("delay", seconds=seconds)


def answer(status, body=b"", **headers):
    """An answer of something in front of the server, which never sees the request."""
    return Fault("answer", status=status, body=_bytes(body), headers=_headers(headers))


def lie(status, body=b"", **headers):
    """The work is done, and the answer says something else."""
    return Fault("lie", status=status, body=_bytes(body), headers=_headers(headers))


def change(**values):
    """The true answer with some values changed."""
    return Fault("change", change=values)


def change_raw(**values):
    """As `change`, in bytes of UTF-8 where `change` writes escapes."""
    return Fault("change", change=values, status=1)


def refusal(status, code, **headers):
    """An answer in the broker's own shape."""
    return answer(status, {"detail": {"code": code, "message": "made up", "request_id": "r"}}, **headers)


def _bytes(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _headers(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict
    body: bytes


class Proxy:
    """Applies its faults in order, then lets everything pass. `forever` stands for all further requests."""

    def __init__(self, upstream: str, faults=(), forever: Fault = PASS, note=None) -> None:
        self.upstream = urlsplit(upstream)
        self.note = note or (lambda *_true_answer: None)
        self.seen: list[Seen] = []
        self.outlasted = 0
        """How many answers were held for longer than any client may wait."""
        self._faults = list(faults)
        self._forever = forever
        self._lock = threading.Lock()
        proxy = self

        class Bound(Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_problem: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, seen: Seen) -> Fault:
        """Notes a request; says what is to happen to it."""
        with self._lock:
            self.seen.append(seen)
            return self._faults.pop(0) if self._faults else self._forever

    def left(self) -> int:
        """Prepared faults that no request has used."""
        with self._lock:
            return len(self._faults)


class Handler(BaseHTTPRequestHandler):
    """One request, on its own connection."""

    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, *_arguments: Any) -> None:
        """Logs nothing: the test reports what was seen."""

    def handle_any(self) -> None:
        """Notes the request and does what is prepared for it."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        fault = self.owner.next_fault(seen)
        self.close_connection = True
        act: Callable[[Seen, Fault], None] = getattr(self, f"act_{fault.act}")
        try:
            act(seen, fault)
        except OSError:
            pass  # The client has gone, as it may.

    do_GET = do_POST = do_DELETE = handle_any

    def forward(self, seen: Seen) -> tuple[int, list[tuple[str, str]], bytes]:
        """The true answer."""
        upstream = self.owner.upstream
        connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=FORWARD_MAX_SECONDS)
        try:
            headers = {k: v for k, v in seen.headers.items() if k not in ("host", "connection")}
            connection.request(seen.method, seen.path, body=seen.body or None, headers=headers)
            response = connection.getresponse()
            hop = ("content-length", "transfer-encoding", "connection")
            kept, body = [h for h in response.getheaders() if h[0].lower() not in hop], response.read()
            self.owner.note(seen, response.status, body)
            return response.status, kept, body
        finally:
            connection.close()

    def send(self, status, headers, body, sent_bytes=None) -> None:
        """Sends an answer, or its beginning."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body if sent_bytes is None else body[:sent_bytes])
        self.wfile.flush()

    def act_pass(self, seen, _fault):
        self.send(*self.forward(seen))

    def act_drop(self, seen, _fault):
        self.forward(seen)
        self.connection.shutdown(socket.SHUT_RDWR)

    def act_lose(self, _seen, _fault):
        self.connection.shutdown(socket.SHUT_RDWR)

    def act_reset(self, seen, _fault):
        self.forward(seen)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def act_cut(self, seen, _fault):
        status, headers, body = self.forward(seen)
        self.send(status, headers, body, len(body) // 2)
        self.connection.shutdown(socket.SHUT_RDWR)

    def act_hang(self, seen, _fault):
        self.forward(seen)
        # Readable means that the client has hung up.
        if not select.select([self.connection], [], [], HOLD_MAX_SECONDS)[0]:
            self.owner.outlasted += 1

    def act_trickle(self, seen, _fault):
        self.forward(seen)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(int(HOLD_MAX_SECONDS / TRICKLE_SECONDS)):
            self.wfile.write(b"x")
            self.wfile.flush()
            if select.select([self.connection], [], [], TRICKLE_SECONDS)[0]:
                return
        self.owner.outlasted += 1

    def act_delay(self, seen, fault):
        true = self.forward(seen)
        threading.Event().wait(fault.seconds)
        self.send(*true)

    def act_answer(self, _seen, fault):
        self.send(fault.status, fault.headers.items(), fault.body)

    def act_lie(self, seen, fault):
        self.forward(seen)
        self.send(fault.status, fault.headers.items(), fault.body)

    def act_change(self, seen, fault):
        status, headers, body = self.forward(seen)
        value = {**json.loads(body), **fault.change}
        self.send(status, headers, json.dumps(value, ensure_ascii=fault.status == 0).encode())

    def act_flood(self, _seen, _fault):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for _ in range(FLOOD_BYTES >> 16):
            self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        self.owner.outlasted += 1

    def act_bare(self, seen, fault):
        true = (fault.status, fault.headers.items(), fault.body) if fault.status else self.forward(seen)
        lines = [f"HTTP/1.1 {true[0]} X", *(f"{name}: {value}" for name, value in true[1])]
        lines += [f"Content-Length: {len(true[2])}", "Connection: close", "\n"]
        self.wfile.write("\n".join(lines).encode() + true[2])

    def act_early(self, seen, _fault):
        true = self.forward(seen)
        self.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        self.send(*true)

    def act_reflect(self, seen, fault):
        sent = seen.headers.get("authorization", "").removeprefix("Bearer ") + " " + seen.body.decode()
        message = REFLECTED[fault.change["form"]](sent)
        body = {"detail": {"code": "REFLECTED", "message": message}}
        self.send(fault.status, [], json.dumps(body).encode())


REFLECTED = {
    "as it is": str,
    "in JSON": json.dumps,
    "in a URL": quote,
    "in a form": quote_plus,
    "beyond the cut": lambda sent: "x" * (CUT_OF_A_MESSAGE - 20) + sent,
    "between control characters": "\n".join,
}
"""How a server may reflect what it received."""
