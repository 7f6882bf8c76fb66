"""The part of the provider's user API that a lab needs, and the two commands that use it."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote

from sandbox_lab.calls import Answer, Call, text_of
from sandbox_lab.files import Files, exports
from sandbox_lab.password import new_password
from sandbox_lab.retry import Refused, Session
from sandbox_lab.settings import Failed, is_id, required, server_url

EMAIL = r"[A-Za-z0-9._+-]+@[A-Za-z0-9._+-]+"


class Csp:
    """The provider, within one account after `enter`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._email = required("INFOBLOX_EMAIL")
        self._password = os.environ.get("INFOBLOX_PASSWORD", "")
        if not self._password:
            raise Failed("INFOBLOX_PASSWORD is not set")
        if re.search("[\0-\x1f\x7f]", self._password):
            raise Failed("INFOBLOX_PASSWORD holds characters that cannot be sent")
        url = os.environ.get("CSP_URL") or "csp.infoblox.com"
        url = url[:-1] if url.endswith("/") else url
        self._base = server_url("CSP_URL", url if re.match(r"https?://.", url) else f"https://{url}")
        self._token = ""

    def enter(self, account: str) -> None:
        """Logs in and switches to an account."""
        credentials = {"email": self._email, "password": self._password}
        self._token = self._session.call(
            self._call("POST", "session/users/sign_in", credentials), (200, 201), _read_token
        )
        self._session.secrets.keep(self._token)
        target = {"id": f"identity/accounts/{account}"}
        self._token = self._session.call(
            self._call("POST", "session/account_switch", target), (200, 201), _read_token
        )
        self._session.secrets.keep(self._token)

    def groups(self) -> list[str]:
        """The two groups of a user. A fresh account may show its groups a moment late."""
        return self._session.call(self._call("GET", "groups"), (200,), _read_groups)

    def user(self, name: str, email: str, groups: list[str]) -> str:
        """Creates a user unless one with this e-mail address exists; returns its id."""
        wanted = {"name": name, "email": email, "type": "interactive", "group_ids": groups}
        made = self._session.call(self._call("POST", "users", wanted), (200, 201, 409), _read_created)
        # The first attempt may have created it, and its answer was lost.
        return made or self.find_user(email, must_be_there=True)

    def find_user(self, email: str, must_be_there: bool) -> str:
        """The id of the user with this e-mail address; empty without one, or repeated if it must exist."""

        def read(answer: Answer) -> str:
            found = _find(answer, "email", email).rsplit("/", 1)[-1]
            if not is_id(found) and (found or must_be_there):
                raise ValueError("no id")
            return found

        wanted = quote(f'email=="{email}"', safe="@")
        return self._session.call(self._call("GET", f"users?_filter={wanted}"), (200,), read)

    def set_password(self, user_id: str, password: str) -> None:
        """Sets the password of a user."""
        call = self._call("POST", f"users/{user_id}/password", {"new_password": password})
        self._session.call(call, (200, 201, 204), _read_nothing)

    def delete_user(self, user_id: str) -> None:
        """Deletes a user. One that does not exist counts as deleted."""
        self._session.call(self._call("DELETE", f"users/{user_id}"), (200, 204, 404), _read_nothing)

    def _call(self, method: str, path: str, body: Any = None) -> Call:
        return Call(method, f"{self._base}/v2/{path}", self._token, body=body)


def _read_token(answer: Answer) -> str:
    token = answer.get("jwt")
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("no token")
    return token


def _find(answer: Answer, key: str, wanted: str) -> str:
    """The `id` of the first object in `results` whose `key` is `wanted`, in any case; empty without one."""
    results = answer.json()
    results = results.get("results") if isinstance(results, dict) else None
    for entry in results if isinstance(results, list) else []:
        if isinstance(entry, dict) and str(entry.get(key)).lower() == wanted.lower():
            return text_of(entry.get("id"))
    return ""


def _read_groups(answer: Answer) -> list[str]:
    groups = [_find(answer, "name", "user"), _find(answer, "name", "act_admin")]
    # Group ids are sent as they were received: `identity/groups/<id>` or `<id>`.
    if not all(re.fullmatch(r"[A-Za-z0-9._/-]+", group) for group in groups):
        raise ValueError("not both groups")
    return groups


def _read_created(answer: Answer) -> str:
    if answer.status == 409:
        return ""
    made = answer.get("result.id").rsplit("/", 1)[-1]
    if not is_id(made):
        raise ValueError("no id")
    return made


def _read_nothing(answer: Answer) -> None:
    # Only the status of such an answer counts, unless it is a page of a proxy in front of the provider.
    if answer.body.lstrip().startswith(b"<"):
        raise ValueError("a page")


def _account(files: Files) -> str:
    # instruqt_broker_allocation.py writes the broker's id to sandbox_id.txt; the earlier scripts knew no other file.
    name = "external_id.txt" if files.read("external_id.txt") else "sandbox_id.txt"
    account = files.read(name).rsplit("/", 1)[-1]
    if account and not is_id(account):
        raise Failed(f"{name} holds no id of an account")
    return account


def _password(files: Files) -> str:
    """The password in its file; writes a new one if there is none."""
    name, new = "user_password.txt", new_password()
    files.put_new(name, new, 0o600)
    if not files.read(name):
        files.put(name, new, 0o600)
    password = files.read(name)
    if re.search("[^!-~]", password):
        raise Failed(f"{name} holds characters that no password has")
    if len(password) < len(new):
        raise Failed(f"{name} holds less than a password")
    return password


def provision_user(session: Session, files: Files) -> int:
    """Creates a user in the claimed sandbox and writes the login data to files. Another run keeps user and password."""
    csp = Csp(session)
    participant = required("INSTRUQT_PARTICIPANT_ID")
    email = f"{participant}@{os.environ.get('USER_DOMAIN') or 'infoblox.lab'}"
    if not re.fullmatch(EMAIL, email):
        raise Failed("INSTRUQT_PARTICIPANT_ID and USER_DOMAIN make no e-mail address")
    account = _account(files)
    if not account:
        raise Failed("external_id.txt is missing; run allocate first")
    if not files.has("sandbox_name.txt"):
        raise Failed("sandbox_name.txt is missing; run allocate first")

    # Written before it is set, so that a concurrent run, or one after a kill, sets the same password. All files are
    # for one address in one sandbox.
    if files.read("user_email.txt") != email or files.read("user_sandbox_id.txt") != account:
        files.forget_user()
        files.put("user_sandbox_id.txt", account)
        files.put("user_email.txt", email)
    password = _password(files)
    session.secrets.keep(password)

    doing = "sign in to the account of the sandbox"
    try:
        csp.enter(account)
        doing = "find the groups user and act_admin"
        groups = csp.groups()
        doing = "make the user"
        user_id = csp.user(participant, email, groups)
        files.put("user_id.txt", user_id)
        doing = "set the password"
        csp.set_password(user_id, password)
        # A concurrent run may have set another password.
        while _password(files) != password:
            password = _password(files)
            session.secrets.keep(password)
            csp.set_password(user_id, password)
    except Refused:
        raise Failed(f"cannot {doing}") from None

    values = {
        "CSP_USER_EMAIL": email,
        "CSP_USER_PASSWORD": password,
        "CSP_USER_ID": user_id,
        # A sandbox may have none.
        "SFDC_ACCOUNT_ID": files.read("sfdc_account_id.txt"),
    }
    files.put("user_credentials.sh", exports("provision-user", values), 0o600)
    session.say(f"user {email} is ready")
    return 0


def remove_user(session: Session, files: Files) -> int:
    """Removes the user that `provision_user` has created. Another run, or a run without a user, succeeds."""
    csp = Csp(session)
    account, user_id, email = _account(files), files.read("user_id.txt"), files.read("user_email.txt")
    if not account or not (user_id or email):
        session.say("there is no user to remove")
        return 0
    # An id from another sandbox does not apply here, but this sandbox may have a user with the same address.
    if files.read("user_sandbox_id.txt") != account:
        if not email:
            raise Failed("user_id.txt is of another sandbox, and there is no user_email.txt")
        user_id = ""
    if user_id and not is_id(user_id):
        raise Failed("user_id.txt holds no id of a user")
    if not user_id and not re.fullmatch(EMAIL, email):
        raise Failed("user_email.txt holds no e-mail address")
    try:
        csp.enter(account)
        # provision_user was stopped before it could write the user's id.
        user_id = user_id or csp.find_user(email, must_be_there=False)
        if not user_id:
            files.forget_user()
            session.say("there is no user to remove")
            return 0
        csp.delete_user(user_id)
    except Refused:
        raise Failed("the user is NOT removed") from None
    files.forget_user()
    session.say(f"user {user_id} is removed")
    return 0
