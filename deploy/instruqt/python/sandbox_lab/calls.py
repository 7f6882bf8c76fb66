"""One HTTP call: a complete answer in time, or the reason why there is none."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Mapping

BODY_BYTES_MAX = 65_536
"""The largest real answers have a few kilobytes."""


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    url: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Answer:
    """An answer. Status 0 means that there was none; `problem` is the reason."""

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after_seconds: int | None = None
    problem: str = ""

    def json(self) -> Any:
        """The decoded body; fails with ValueError if it is not JSON."""
        try:
            return json.loads(self.body.decode("utf-8", errors="replace"), parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("too deep") from None

    def get(self, path: str) -> str:
        """The text at a path of names with full stops between them. Empty for null and for missing values.

        Fails with ValueError if the body is not JSON or the value is neither text nor number.
        """
        value = self.json()
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return text_of(value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def text_of(value: Any) -> str:
    """A text or a number of JSON as text; empty for null. Fails with ValueError for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("neither a text nor a number")
    # A text file cannot contain a zero byte or half of a surrogate pair.
    return re.sub("[\0\ud800-\udfff]", "\ufffd", str(value))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Never follows redirects: that could send the token to another host."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


class _Response(http.client.HTTPResponse):
    """The final answer: `http.client` skips status 100, but no other interim answer."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != 101:
            # Otherwise it would assume that the answer has begun.
            setattr(self, "headers", None)
            super().begin()


def _proxies() -> dict[str, str]:
    """The proxies of the environment that curl would use. A server's own variables may look like HTTP_PROXY."""
    names = {"http": ("http_proxy",), "https": ("https_proxy", "HTTPS_PROXY")}
    found = {
        scheme: next(filter(None, map(os.environ.get, (*own, "all_proxy", "ALL_PROXY"))), None)
        for scheme, own in names.items()
    }
    return {scheme: proxy for scheme, proxy in found.items() if proxy}


class Caller:
    """Makes calls. Uses the proxy of the environment, as curl does."""

    def __init__(self, timeout_seconds: int, connect_seconds: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._connect_seconds = connect_seconds

    def call(self, call: Call) -> Answer:
        """One attempt. The timeout is for all of it: a server that sends single bytes cannot extend it."""
        answers: list[Answer] = []
        sockets: list[socket.socket] = []
        worker = threading.Thread(target=lambda: answers.append(self._call(call, sockets)), daemon=True)
        worker.start()
        worker.join(self._timeout_seconds)
        if answers:
            return answers[0]
        for left in list(sockets):
            try:
                left.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        return Answer(0, problem="no answer in time")

    def _call(self, call: Call, sockets: list[socket.socket]) -> Answer:
        try:
            with self._opener(sockets).open(_request(call), timeout=self._connect_seconds) as response:
                return _answer(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                try:
                    return _answer(refusal)
                except (OSError, http.client.HTTPException):
                    return Answer(0, problem="the connection was cut")
        except urllib.error.URLError as problem:
            return Answer(0, problem=_explain(problem.reason))
        except (OSError, http.client.HTTPException, ValueError) as problem:
            return Answer(0, problem=_explain(problem))

    def _opener(self, sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
        timeout_seconds = self._timeout_seconds

        def keep(connection: http.client.HTTPConnection) -> None:
            # The connection has a shorter timeout than the answer.
            if connection.sock is not None:
                connection.sock.settimeout(timeout_seconds)
                sockets.append(connection.sock)

        class Plain(http.client.HTTPConnection):
            response_class = _Response

            def connect(self) -> None:
                super().connect()
                keep(self)

        class Secure(http.client.HTTPSConnection):
            response_class = _Response

            def connect(self) -> None:
                super().connect()
                keep(self)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Plain, request)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Secure, request)

        proxies = urllib.request.ProxyHandler(_proxies())
        return urllib.request.build_opener(proxies, _NoRedirect, PlainHandler, SecureHandler)


def _request(call: Call) -> urllib.request.Request:
    data = None
    # http.client sends text as Latin-1; the broker reads UTF-8.
    own = {name: value.encode().decode("latin-1") for name, value in call.headers.items()}
    headers = {"Accept": "application/json", **own}
    if call.body is not None:
        data = json.dumps(call.body).encode()
        headers["Content-Type"] = "application/json"
    elif call.method == "POST":
        data = b""
        # Otherwise urllib declares the body as a form.
        headers["Content-Type"] = "application/octet-stream"
    if call.token:
        headers["Authorization"] = f"Bearer {call.token}"
    return urllib.request.Request(call.url, data=data, headers=headers, method=call.method)


def _answer(response: Any) -> Answer:
    body = response.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        return Answer(0, problem="the answer is too large")
    # With a limit, `read` does not report a body that ends too early.
    if response.length:
        return Answer(0, problem="the connection was cut")
    after = (response.headers.get("Retry-After") or "").strip()
    seconds = int(after) if re.fullmatch(r"[0-9]{1,9}", after) else None
    return Answer(response.status, body, seconds)


def _explain(problem: object) -> str:
    # The two names are the same class only from Python 3.10 on.
    if isinstance(problem, (TimeoutError, socket.timeout)):
        return "no answer in time"
    if isinstance(problem, (ConnectionError, http.client.HTTPException)):
        return "the server cannot be reached, or the connection was cut"
    return f"no answer ({type(problem).__name__})"
