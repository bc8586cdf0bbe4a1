"""The apps that the simulator plays, and what DingTalk knows of each: access, registration, failed callbacks."""

import hashlib
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bridge.crypto import Key
from simulator.events import Payload
from simulator.model import ROOT

#: Permissions by the names of the console (api.md §5), and two for fields: mobile numbers, personal information.
PERMISSIONS = frozenset(
    {"qyapi_base", "qyapi_get_member", "qyapi_get_department_list", "qyapi_get_department_member", "mobile", "personal"}
)


@dataclass(frozen=True, slots=True)
class SimApp:
    """One app as its developer knows it. Without `corp_id` the simulator makes one from the key."""

    name: str
    kind: Literal["internal", "suite"]
    token: str = field(repr=False)
    aes_key: str = field(repr=False)
    owner_key: str
    corp_id: str | None = None
    app_key: str = ""
    app_secret: str = field(default="", repr=False)
    suite_key: str = ""
    suite_secret: str = field(default="", repr=False)
    callback_url: str | None = None


@dataclass(slots=True)
class Access:
    """What the administrator lets an app see: departments and users (api.md §5), and which fields and calls."""

    authed_dept: tuple[int, ...] = (ROOT,)
    authed_user: tuple[str, ...] = ()
    permissions: frozenset[str] = PERMISSIONS


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where callbacks go, for which tags (None: all), and with which key and owner."""

    url: str
    key: Key = field(repr=False)
    owner: str
    tags: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A callback that was given up."""

    id: int
    tag: str
    corp_id: str
    event_time: int
    payload: Payload


@dataclass(slots=True)
class Authorization:
    """A corp that an app works for. `close`, as get_agent tells: 0 disabled, 1 normal, 2 not activated (api.md §1)."""

    corp_id: str
    agent_id: int
    permanent_code: str = field(repr=False)
    tmp_codes: set[str] = field(default_factory=set, repr=False)
    close: int = 1
    revoked: bool = False
    #: Its one micro-app was taken out of the corp.
    removed: bool = False
    access: Access = field(default_factory=Access)


class App:
    """An app's state. `corps` are the organisations it works for: one, or for a suite each that authorised it.

    ValueError for a wrong aes_key.
    """

    def __init__(self, config: SimApp) -> None:
        self.config = config
        self.lock = threading.Lock()
        #: The subscription made in the developer console.
        self.console = _console(config)
        self.registration: Subscription | None = None
        self.failures: list[Failure] = []
        self.confirmed: set[int] = set()
        self.ticket = secrets.token_urlsafe(24)
        self.corp_id = config.corp_id or _corp_id(self.client_id or config.name)
        self.corps = {self.corp_id: authorization(self.corp_id)}
        self._failed = 0

    @property
    def is_suite(self) -> bool:
        return self.config.kind == "suite"

    @property
    def client_id(self) -> str:
        return self.config.suite_key if self.is_suite else self.config.app_key

    @property
    def secret(self) -> str:
        return self.config.suite_secret if self.is_suite else self.config.app_secret

    @property
    def access(self) -> Access:
        """What it may see of the corp that it began with."""
        return self.corps[self.corp_id].access

    def authorization(self, corp_id: str) -> Authorization | None:
        found = self.corps.get(corp_id)
        return found if found and not found.revoked else None

    def give_up(self, tag: str, corp_id: str, event_time: int, payload: Payload) -> None:
        """Put a callback on the failed list."""
        with self.lock:
            self._failed += 1
            self.failures.append(Failure(self._failed, tag, corp_id, event_time, payload))


def _console(config: SimApp) -> Subscription | None:
    key = Key(config.token, config.aes_key)
    return None if config.callback_url is None else Subscription(config.callback_url, key, config.owner_key)


def _corp_id(key: str) -> str:
    """A corp id of DingTalk's look, the same for the same key."""
    return "ding" + hashlib.sha256(key.encode()).hexdigest()[:32]


def authorization(corp_id: str) -> Authorization:
    """That of a corp which has just enabled an app."""
    number = int(hashlib.sha256(corp_id.encode()).hexdigest()[:7], 16)
    return Authorization(corp_id, 100_000_000 + number, secrets.token_urlsafe(32))
