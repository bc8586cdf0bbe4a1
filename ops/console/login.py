"""The log-in page, and the guard in front of every other one."""

from collections.abc import Collection

import redis
import structlog
from flask import Blueprint, Response, g, redirect, render_template, request, session, url_for
from flask.sessions import NullSession
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from bridge.config import ConsoleConfig
from ops.console.faults import from_script
from ops.console.sessions import SAFE_METHODS, Sessions, check_csrf, csrf_token
from ops.console.sources import REDIS_AWAY
from ops.console.throttle import Throttle

#: Endpoints that need no log-in: what tells nothing of people, and the files of the pages.
OPEN = frozenset({"static", "rq_dashboard.static", "probes.healthz", "probes.metrics"})
LOGIN = "login.form"
NOBODY = "nobody may log in: set console.users in config.yaml, a password for each name"

log = structlog.get_logger()


def create_login(config: ConsoleConfig, connection: redis.Redis) -> Blueprint:
    """`/login` and `/logout`; registering it guards the whole app."""
    blueprint = Blueprint("login", __name__)
    sessions, throttle = Sessions(connection, config.users), Throttle(connection)

    @blueprint.before_app_request
    def guard() -> BaseResponse | None:
        if request.endpoint in OPEN:
            return None
        _check_possible(config.users)
        g.user = sessions.user()
        if g.user is None and request.blueprint != blueprint.name:
            return _to_login()
        if request.method not in SAFE_METHODS:
            check_csrf()
        return None

    @blueprint.get("/login", endpoint="form")
    def form() -> str | BaseResponse:
        target = _inside(request.args.get("next", ""))
        return redirect(request.script_root + target) if g.user else _page(target)

    @blueprint.post("/login", endpoint="login")
    def login() -> Response | BaseResponse:
        name, password = request.form.get("name", ""), request.form.get("password", "")
        target, address = _inside(request.form.get("next", "")), request.remote_addr or ""
        if wait := throttle.attempt(name, address):
            log.warning("log-in refused", reason="too many attempts", wait=wait)
            answer = Response(_page(target, f"Too many attempts: try again in {_wait(wait)}."), 429)
            answer.headers["Retry-After"] = str(wait)
            return answer
        if not sessions.begin(name, password):
            log.warning("log-in refused", reason="wrong name or password")
            return Response(_page(target, "Name or password is wrong."), 401)
        throttle.succeeded(name, address)
        log.info("logged in", user=name)
        return redirect(request.script_root + target, 303)

    @blueprint.post("/logout", endpoint="logout")
    def logout() -> BaseResponse:
        sessions.end()
        return redirect(url_for(LOGIN), 303)

    @blueprint.app_context_processor
    def tools() -> dict[str, object]:
        return {"csrf_token": csrf_token, "user": g.get("user")}

    return blueprint


def _check_possible(users: Collection[str]) -> None:
    """Raises ServiceUnavailable where nobody can be logged in."""
    if not users:
        raise ServiceUnavailable(NOBODY)
    if isinstance(session._get_current_object(), NullSession):  # type: ignore[attr-defined]
        raise ServiceUnavailable(REDIS_AWAY)


def _to_login() -> BaseResponse:
    """Pages are sent there; scripts are told, htmx so that it goes there."""
    if from_script():
        return Response("log in\n", 401, {"HX-Redirect": url_for(LOGIN)}, mimetype="text/plain")
    return redirect(url_for(LOGIN, next=request.full_path.rstrip("?") if request.method == "GET" else None), 303)


def _inside(target: str) -> str:
    """A path of this console, `/` in place of what might lead elsewhere: browsers drop tabs and mend backslashes."""
    plain = target.isascii() and target.isprintable() and "\\" not in target and " " not in target
    return target if plain and target.startswith("/") and not target.startswith("//") else "/"


def _page(target: str, message: str | None = None) -> str:
    return render_template("login.html", target=target, message=message)


def _wait(seconds: int) -> str:
    return f"{seconds} s" if seconds <= 90 else f"{-(-seconds // 60)} min"
