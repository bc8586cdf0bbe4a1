"""Access tokens: whom each lets in, and until when (api.md §1)."""

import secrets
import threading
import time
from dataclasses import dataclass
from typing import Literal

from simulator.apps import App

#: Seconds; DingTalk's own (KB-A/1444).
LIFETIME = 7200


@dataclass(slots=True)
class Grant:
    """What a token opens: an app's corp, or (kind suite) the suite's own calls. `until` is monotonic."""

    app: App
    corp_id: str
    kind: Literal["corp", "suite"]
    until: float

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.until


class Tokens:
    """All tokens that were given out and not yet taken back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grants: dict[str, Grant] = {}
        self._lasting: dict[tuple[str, str], str] = {}

    def issue(self, app: App, corp_id: str, kind: Literal["corp", "suite"], lasting: bool) -> str:
        """A new token; a lasting one is the same as before while valid, and is extended (KB-A/0033)."""
        with self._lock:
            now = time.monotonic()
            known = self._lasting.get((app.config.name, corp_id)) if lasting else None
            if known and not self._grants[known].expired:
                self._grants[known].until = now + LIFETIME
                return known
            token = secrets.token_hex(16)
            self._grants[token] = Grant(app, corp_id, kind, now + LIFETIME)
            if lasting:
                self._lasting[app.config.name, corp_id] = token
            return token

    def find(self, token: str) -> Grant | None:
        return self._grants.get(token)

    def expire_all(self) -> None:
        """Every token dies, and its next use answers 42001."""
        with self._lock:
            for grant in self._grants.values():
                grant.until = 0.0

    def revoke(self, app: App, corp_id: str) -> None:
        """Take back an app's tokens for a corp."""
        with self._lock:
            for token, grant in list(self._grants.items()):
                if grant.app is app and grant.corp_id == corp_id and grant.kind == "corp":
                    del self._grants[token]
