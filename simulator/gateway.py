"""One API request from the wire to its answer: count, faults, token, scope, then the route's handler."""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from flask import Response, request

from simulator.apps import App
from simulator.call import Body, Call, Route
from simulator.errors import GATEWAY, ApiError, NewStyleError
from simulator.faults import dice
from simulator.params import Params
from simulator.world import World

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
BAN_PAGE = "<!DOCTYPE html><html><head><title>405</title></head><body>访问被拒绝</body></html>"
BAD_GATEWAY = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"


def view_of(world: World, route: Route) -> Callable[..., Response]:
    """The Flask view of a route."""

    def view(**path: str) -> Response:
        return serve(world, route, path)

    return view


def serve(world: World, route: Route, path: dict[str, str]) -> Response:
    """Answer the present request. Refusals are answers, never HTTP errors of the old style."""
    if world.faults.latency_ms:
        time.sleep(world.faults.latency_ms / 1000)
    if world.faults.ban:
        return _banned(world.faults.ban)
    if route.style == "new":
        return _new_style(world, route, path)
    return _old_style(world, route, path)


def body_of(world: World, route: Route, path: dict[str, str]) -> Body:
    """The handler's result. Raises ApiError, NewStyleError, or BadGateway."""
    if route.method != request.method:
        raise ApiError(43001 if route.method == "GET" else 43002)
    query = Params(request.args)
    params = Params(_values())
    grant = world.tokens.find(_token(route)) if route.opened_by else None
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
        return route.handler(Call(world, params, query, path, nobody, nobody.corp_id))
    return _granted(route, Call(world, params, query, path, grant.app, grant.corp_id))


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


def _old_style(world: World, route: Route, path: dict[str, str]) -> Response:
    try:
        answer = {"errcode": 0, "errmsg": "ok"} | body_of(world, route, path)
    except ApiError as error:
        answer = _wrapped(error) if world.faults.wrap_errors and error.errcode in GATEWAY else _plain(error)
    except BadGateway:
        return Response(BAD_GATEWAY, 502, mimetype="text/html")
    if route.path.startswith("/topapi/"):
        answer["request_id"] = secrets.token_hex(6)
    return _json(answer, 200)


def _new_style(world: World, route: Route, path: dict[str, str]) -> Response:
    try:
        return _json(body_of(world, route, path), 200)
    except NewStyleError as error:
        return _refused(error.status, error.code, error.message)
    except ApiError as error:
        status, code = NEW_STYLE.get(error.errcode, (400, "invalidParameter.param.invalid"))
        return _refused(status, code, error.errmsg)
    except BadGateway:
        return Response(BAD_GATEWAY, 502, mimetype="text/html")


def _refused(status: int, code: str, message: str) -> Response:
    return _json({"code": code, "message": message, "requestid": secrets.token_hex(16).upper()}, status)


def _plain(error: ApiError) -> Body:
    return {"errcode": error.errcode, "errmsg": error.errmsg}


def _wrapped(error: ApiError) -> Body:
    """How DingTalk's gateway words a refusal (KB-A/0013)."""
    told = f"ding talk error[subcode={error.errcode},submsg={error.errmsg}]"
    return {"errcode": 88, "errmsg": told, "sub_code": str(error.errcode), "sub_msg": error.errmsg}


def _values() -> dict[str, Any]:
    """Query, form and JSON in one; the body wins. JSON is taken for what it is, whatever Content-Type says."""
    text = request.get_data(as_text=True).strip()
    values: dict[str, Any] = dict(request.args.items())
    if not text.startswith("{"):
        return values | dict(request.form.items())
    try:
        return values | dict(json.loads(text))
    except ValueError:
        raise ApiError(400002) from None


def _token(route: Route) -> str:
    if route.style == "new":
        return request.headers.get("x-acs-dingtalk-access-token", "")
    return request.args.get(route.token_name, "")


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


def _banned(kind: str) -> Response:
    if kind == "html":
        return Response(BAN_PAGE, 200, mimetype="text/html")
    ban = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": secrets.token_hex(16)}
    return _json(ban, 200)


def _json(body: Body, status: int) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, mimetype="application/json")
