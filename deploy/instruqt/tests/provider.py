"""A stand-in for the provider's user API, as far as the commands use it. The simulator of the broker has no users."""

from __future__ import annotations

import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

GROUPS = ("user", "act_admin", "other")


class Provider:
    """Accounts that appear when they are stepped into, with their users."""

    def __init__(self, email, password, groups_late=0):
        self.email = email
        self.password = password
        self.accounts = {}
        """Account id, then user id, then the user."""
        self.created = 0
        """How many users were ever made."""
        self.groups_late = groups_late
        """How often the list of groups still lacks one."""
        self.sessions = {}
        self.lock = threading.Lock()
        provider = self

        class Bound(Handler):
            owner = provider

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_problem):
        self._server.shutdown()
        self._server.server_close()

    def users(self, account):
        """The users of an account."""
        with self.lock:
            return dict(self.accounts.get(account, {}))


class Handler(BaseHTTPRequestHandler):
    """One request."""

    owner: Provider

    def log_message(self, *_arguments):
        """Says nothing."""

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(body) if body else {}
        except ValueError:
            return self._send(400, {"error": [{"message": "no JSON"}]})
        with self.owner.lock:
            status, answer = self._answer(urlsplit(self.path), body)
        return self._send(status, answer)

    do_GET = do_POST = do_DELETE = handle_any

    def _send(self, status, answer):
        data = json.dumps(answer).encode() if answer is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, url, body):
        owner = self.owner
        call = (self.command, url.path)
        if call == ("POST", "/v2/session/users/sign_in"):
            if (body.get("email"), body.get("password")) != (owner.email, owner.password):
                return 401, {"error": [{"message": f"not {body}"}]}
            return 200, {"jwt": self._begin(None)}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in owner.sessions:
            return 401, {"error": [{"message": "no session"}]}
        if call == ("POST", "/v2/session/account_switch"):
            account = re.fullmatch("identity/accounts/([0-9a-f-]{36})", body.get("id", ""))
            return (200, {"jwt": self._begin(account.group(1))}) if account else (404, {"error": []})
        if owner.sessions[token] is None:
            return 403, {"error": [{"message": "no account"}]}
        return self._inside(call, url, body, owner.accounts.setdefault(owner.sessions[token], {}))

    def _begin(self, account):
        token = f"jwt.{uuid.uuid4().hex}"
        self.owner.sessions[token] = account
        return token

    def _inside(self, call, url, body, users):
        owner = self.owner
        if call == ("GET", "/v2/groups"):
            owner.groups_late -= 1
            names = GROUPS[:1] if owner.groups_late >= 0 else GROUPS
            return 200, {"results": [{"id": f"identity/groups/g-{name}", "name": name} for name in names]}
        if call == ("GET", "/v2/users"):
            wanted = re.fullmatch('email=="(.*)"', parse_qs(url.query).get("_filter", [""])[0])
            found = [user for user in users.values() if wanted and user["email"] == wanted.group(1)]
            return 200, {"results": [{"id": user["id"], "email": user["email"]} for user in found]}
        if call == ("POST", "/v2/users"):
            if body["type"] != "interactive" or body["group_ids"] != [f"identity/groups/g-{n}" for n in GROUPS[:2]]:
                return 400, {"error": [{"message": "groups"}]}
            if any(user["email"] == body["email"] for user in users.values()):
                return 409, {"error": [{"message": "there is one"}]}
            user_id = str(uuid.uuid4())
            users[user_id] = {"id": f"identity/users/{user_id}", "email": body["email"], "name": body["name"]}
            owner.created += 1
            return 201, {"result": users[user_id]}
        user = re.fullmatch("/v2/users/([^/]+)(/password)?", url.path)
        if not user or user.group(1) not in users:
            return 404, {"error": [{"message": "no such user"}]}
        if user.group(2) and self.command == "POST":
            users[user.group(1)]["password"] = body["new_password"]
            return 200, {}
        if not user.group(2) and self.command == "DELETE":
            del users[user.group(1)]
            return 204, None
        return 405, {"error": []}
