"""One API request from the wire to its answer: count, faults, token, scope, then the route's handler.

WSGI beneath Flask, which would take three quarters of a call's CPU.
"""

import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from werkzeug.wsgi import get_input_stream

from simulator.apps import App
from simulator.call import Body, Call, Route
from simulator.errors import GATEWAY, ApiError, NewStyleError
from simulator.faults import dice
from simulator.params import Params
from simulator.world import World

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: v1.0 answers for what the old style says with an errcode: HTTP status and code (api.md §7).
NEW_STYLE = {
    40014: (400, "InvalidAuthentication"),
    42001: (400, "InvalidAuthentication"),
    60011: (403, "Forbidden.AccessDenied.AccessTokenPermissionDenied"),
    90018: (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"),
    70001: (400, "orgNotExist"),
    400002: (400, "invalidParameter.param.invalid"),
    -1: (503, "ServiceUnavailable"),
    400001: (500, "system.error"),
}
_HTML = "text/html; charset=utf-8"
BAN_PAGE = "<!DOCTYPE html><html><head><title>405</title></head><body>访问被拒绝</body></html>"
BAD_GATEWAY = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"


class Request(NamedTuple):
    """What came in: the parameters in the path, of the query (the first of each name), and those of the body."""

    method: str
    path: dict[str, str]
    query: dict[str, str]
    body: str
    #: The header that carries v1.0's token.
    token: str


class Answer(NamedTuple):
    """What goes out."""

    status: int
    mimetype: str
    body: str


class Gateway:
    """Every API path at its root, by GET and POST; all else goes to `pages`."""

    def __init__(self, world: World, routes: Sequence[Route], pages: "WSGIApplication") -> None:
        self._world = world
        self._plain = {route.path: route for route in routes}
        self._patterns = [(_pattern(route), route) for route in routes if "<" in route.path]
        self._pages = pages

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        found = self._find(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] in ("GET", "POST") else None
        if found is None:
            return self._pages(environ, start_response)
        route, path = found
        answer = serve(self._world, route, _request(environ, path))
        body = answer.body.encode()
        headers = [("Content-Type", answer.mimetype), ("Content-Length", str(len(body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [body]

    def _find(self, target: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a path, and the parameters in it."""
        if (plain := self._plain.get(target)) is not None:
            return plain, {}
        found = ((route, match) for pattern, route in self._patterns if (match := pattern.fullmatch(target)))
        return next(((route, match.groupdict()) for route, match in found), None)


def serve(world: World, route: Route, request: Request) -> Answer:
    """Answer a request. Refusals are answers, never HTTP errors of the old style."""
    if world.faults.latency_ms:
        time.sleep(world.faults.latency_ms / 1000)
    if world.faults.ban:
        return _banned(world.faults.ban)
    if route.style == "new":
        return _new_style(world, route, request)
    return _old_style(world, route, request)


def body_of(world: World, route: Route, request: Request) -> Body:
    """The handler's result. Raises ApiError, NewStyleError, or BadGateway."""
    if route.method != request.method:
        raise ApiError(43001 if route.method == "GET" else 43002)
    query = Params(request.query)
    params = Params(_values(request))
    token = request.token if route.style == "new" else request.query.get(route.token_name, "")
    grant = world.tokens.find(token) if route.opened_by else None
    client = grant.app.config.name if grant else _client_of(world, params)
    admitted = world.calls.admit(client, route.path, world.faults.calls_per_second)
    if route.opened_by and (grant is None or (route.opened_by != "either" and grant.kind != route.opened_by)):
        raise ApiError(40014)
    if grant and grant.expired:
        raise ApiError(42001)
    if not admitted:
        raise ApiError(90018)
    _roll(world)
    if grant is None:
        # Routes without a token find their app themselves.
        nobody = next(iter(world.apps.values()))
        return route.handler(Call(world, params, query, request.path, nobody, nobody.corp_id))
    return _granted(route, Call(world, params, query, request.path, grant.app, grant.corp_id))


class BadGateway(Exception):
    """an HTTP 502, as a proxy in front of DingTalk answers"""


def _granted(route: Route, call: Call) -> Body:
    if route.permission and route.permission not in call.access.permissions:
        raise ApiError(60011)
    if not route.reads:
        return route.handler(call)
    with call.tenant.lock:
        if call.tenant.dissolved:
            raise ApiError(70001)
        return route.handler(call)


def _old_style(world: World, route: Route, request: Request) -> Answer:
    try:
        answer = {"errcode": 0, "errmsg": "ok"} | body_of(world, route, request)
    except ApiError as error:
        answer = _wrapped(error) if world.faults.wrap_errors and error.errcode in GATEWAY else _plain(error)
    except BadGateway:
        return Answer(502, _HTML, BAD_GATEWAY)
    if route.path.startswith("/topapi/"):
        answer["request_id"] = secrets.token_hex(6)
    return _json(answer, 200)


def _new_style(world: World, route: Route, request: Request) -> Answer:
    try:
        return _json(body_of(world, route, request), 200)
    except NewStyleError as error:
        return _refused(error.status, error.code, error.message)
    except ApiError as error:
        status, code = NEW_STYLE.get(error.errcode, (400, "invalidParameter.param.invalid"))
        return _refused(status, code, error.errmsg)
    except BadGateway:
        return Answer(502, _HTML, BAD_GATEWAY)


def _refused(status: int, code: str, message: str) -> Answer:
    return _json({"code": code, "message": message, "requestid": secrets.token_hex(16).upper()}, status)


def _plain(error: ApiError) -> Body:
    return {"errcode": error.errcode, "errmsg": error.errmsg}


def _wrapped(error: ApiError) -> Body:
    """How DingTalk's gateway words a refusal (KB-A/0013)."""
    told = f"ding talk error[subcode={error.errcode},submsg={error.errmsg}]"
    return {"errcode": 88, "errmsg": told, "sub_code": str(error.errcode), "sub_msg": error.errmsg}


def _pattern(route: Route) -> re.Pattern[str]:
    return re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", route.path))


def _request(environ: "WSGIEnvironment", path: dict[str, str]) -> Request:
    body = get_input_stream(environ).read().decode(errors="replace").strip()
    token = environ.get("HTTP_X_ACS_DINGTALK_ACCESS_TOKEN", "")
    return Request(environ["REQUEST_METHOD"], path, _pairs(environ["QUERY_STRING"]), body, token)


def _pairs(text: str) -> dict[str, str]:
    """The first of each name."""
    return dict(reversed(parse_qsl(text, keep_blank_values=True)))


def _values(request: Request) -> dict[str, Any]:
    """Query and body, a form or JSON, in one; the body wins. JSON is known by its looks, whatever Content-Type says."""
    if not request.body.startswith("{"):
        return request.query | _pairs(request.body)
    try:
        return request.query | dict(json.loads(request.body))
    except ValueError:
        raise ApiError(400002) from None


def _client_of(world: World, params: Params) -> str:
    """Which app asks for a token, as far as it says; for the count of calls."""
    keys = {params.optional(name) for name in ("appkey", "appKey", "suite_key", "suiteKey", "accessKey", "client_id")}
    found: App | None = next((app for app in world.apps.values() if app.client_id and app.client_id in keys), None)
    return found.config.name if found else "-"


def _roll(world: World) -> None:
    """Now and then DingTalk is busy, faulty, or out of reach."""
    if dice(world.rng, world.faults.error_rate):
        fate = world.rng.randrange(3)
        raise BadGateway if fate == 0 else ApiError(-1 if fate == 1 else 400001)


def _banned(kind: str) -> Answer:
    if kind == "html":
        return Answer(200, _HTML, BAN_PAGE)
    ban = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": secrets.token_hex(16)}
    return _json(ban, 200)


def _json(body: Body, status: int) -> Answer:
    return Answer(status, "application/json", json.dumps(body, ensure_ascii=False))
