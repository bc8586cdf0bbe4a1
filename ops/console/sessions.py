"""Who is logged in: a signed cookie, ended by its age, by logging out, or by a change of console.users."""

import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta

import redis
from flask import Flask, current_app, request, session
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import URLSafeTimedSerializer
from pydantic import SecretStr
from werkzeug.exceptions import BadRequest, Forbidden

#: String: the key that signs the cookies, 32 random bytes; whoever may write to Redis runs the console anyway.
KEY = "bridge:console:key"
#: How long one stays logged in, however busy.
LIFETIME = timedelta(hours=12)
#: Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Where the token that a page sends with a change may stand.
CSRF_FIELD, CSRF_HEADER = "csrf_token", "X-CSRFToken"


class StoredKey(SecureCookieSessionInterface):
    """Cookies signed with a key that all consoles of one Redis share and nobody configures.

    Without the key, as while Redis is away at the start, there is no session to read or write.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        if app.secret_key is None:
            app.secret_key = self._stored()
        return super().get_signing_serializer(app)

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_path(self, app: Flask) -> str:
        return request.script_root or "/"

    def _stored(self) -> bytes | None:
        try:
            self._connection.set(KEY, secrets.token_bytes(32), nx=True)
            key = self._connection.get(KEY)
        except redis.RedisError:
            return None  # asked again with the next request
        return key if isinstance(key, bytes) else None


class Sessions:
    """Begins, checks and ends the session of the present request."""

    def __init__(self, connection: redis.Redis, users: Mapping[str, SecretStr]) -> None:
        self._connection = connection
        self._users = users
        #: What an unknown name's password is compared with: it takes as long, and never matches.
        self._nobody = SecretStr(secrets.token_urlsafe(32))

    def begin(self, name: str, password: str) -> bool:
        """Whether they belong together; then the present session is another one, of that user."""
        wanted = self._users.get(name, self._nobody).get_secret_value()
        if not hmac.compare_digest(_digest(password), _digest(wanted)):
            return False
        session.clear()
        session.permanent = True
        session.update(user=name, proof=self._proof(name), id=secrets.token_urlsafe(16))
        csrf_token()
        return True

    def user(self) -> str | None:
        """Who sent the present request; None where nobody is logged in."""
        name = session.get("user", "")
        if name not in self._users or not hmac.compare_digest(session.get("proof", ""), self._proof(name)):
            return None
        return None if self._ended(session["id"]) else str(name)

    def end(self) -> None:
        """Log out, also whoever holds a copy of the cookie. Raises RedisError."""
        ended = session.get("id")
        session.clear()
        if ended:
            self._connection.set(_ended_key(ended), "1", ex=LIFETIME)

    def _ended(self, session_id: str) -> bool:
        try:
            return bool(self._connection.exists(_ended_key(session_id)))
        except redis.RedisError:
            return False  # the page must be able to say that Redis is away

    def _proof(self, name: str) -> str:
        """Ends every session of a user whose password was changed."""
        return _digest(f"{name}\0{self._users[name].get_secret_value()}").hex()


def csrf_token() -> str:
    """What this session's forms and scripts send with every change."""
    return str(session.setdefault("csrf", secrets.token_urlsafe(32)))


def check_csrf() -> None:
    """Raises Forbidden for a change that another site asks for, BadRequest for one without the session's token."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("another site sent this; nothing was changed")
    given = request.form.get(CSRF_FIELD) or request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), session.get("csrf", "").encode()) or not given:
        raise BadRequest("this page is out of date; load it again, nothing was changed")


def _digest(text: str) -> bytes:
    key = current_app.secret_key
    assert isinstance(key, bytes)  # noqa: S101 - without it there is no session to begin or check
    return hmac.digest(key, text.encode(), "sha256")


def _ended_key(session_id: str) -> str:
    """String with expiry: this session was logged out."""
    return f"bridge:console:ended:{session_id}"
