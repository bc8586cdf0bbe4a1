"""Control over HTTP under /_sim: look at the truth, make changes, set faults, count calls."""

import json
from collections.abc import Callable, Collection
from typing import Any

from flask import Blueprint, Response, request

from simulator.apps import PERMISSIONS, Access, App
from simulator.edit import ImpossibleChange
from simulator.faults import BadFault
from simulator.world import UnknownApp, World


class Unusable(ValueError):
    """A control request that makes no sense: its message says why."""


def control(world: World) -> Blueprint:
    """The control routes of one simulator. A wrong request is a 400 with {"error": …}."""
    routes = Blueprint("control", __name__, url_prefix="/_sim")
    for path, method, act in _ACTIONS:
        routes.add_url_rule(path, f"{method} {path}", _view(world, act), methods=[method])
    return routes


def overview(world: World, asked: dict[str, Any]) -> Any:
    return {
        "apps": [_app(world, app) for app in world.apps.values()],
        "traffic_per_second": world.traffic.per_second,
        "faults": world.faults.as_dict(),
    }


def show_truth(world: World, asked: dict[str, Any]) -> Any:
    return world.truth(_app_name(world, asked), asked.get("corp"))


def change(world: World, asked: dict[str, Any]) -> Any:
    count, generation = asked.get("count", 1), asked.get("generation", "mixed")
    if generation not in ("A", "B", "mixed") or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise Unusable('generation is "A", "B" or "mixed", count from 1 to 10000')
    app, event, entity = _app_name(world, asked), asked.get("event"), asked.get("entity")
    deliver = asked.get("deliver", True) is True
    corp = asked.get("corp")
    return [row for _ in range(count) for row in world.change(app, event, entity, generation, deliver, corp)]


def suite(world: World, asked: dict[str, Any]) -> Any:
    rows = asked.get("rows", False) is True
    return world.push(_app_name(world, asked), str(asked.get("event")), rows, asked.get("corp"))


def traffic(world: World, asked: dict[str, Any]) -> Any:
    pace = asked.get("per_second")
    if not isinstance(pace, int | float) or not 0 <= pace <= 1000:
        raise Unusable("per_second is a number from 0 (stop) to 1000")
    world.start_traffic(float(pace), asked.get("app"))
    return {"per_second": world.traffic.per_second}


def show_faults(world: World, asked: dict[str, Any]) -> Any:
    return world.faults.as_dict()


def set_faults(world: World, asked: dict[str, Any]) -> Any:
    """Beside the faults it takes {"expire_tokens": true}, which happens once."""
    if asked.pop("expire_tokens", False) is True:
        world.expire_tokens()
    world.faults.set(asked)
    return world.faults.as_dict()


def show_access(world: World, asked: dict[str, Any]) -> Any:
    return _access(_granted(world, asked))


def set_access(world: World, asked: dict[str, Any]) -> Any:
    """What the app may see of a corp from now on: authed_dept, authed_user, permissions."""
    access = _granted(world, asked)
    permissions = frozenset(str(name) for name in _listed(asked, "permissions", access.permissions))
    if not permissions <= PERMISSIONS:
        raise Unusable(f"permissions are some of {', '.join(sorted(PERMISSIONS))}")
    access.authed_dept = tuple(int(key) for key in _listed(asked, "authed_dept", access.authed_dept))
    access.authed_user = tuple(str(key) for key in _listed(asked, "authed_user", access.authed_user))
    access.permissions = permissions
    return _access(access)


def show_calls(world: World, asked: dict[str, Any]) -> Any:
    return world.calls.as_dict()


def clear_calls(world: World, asked: dict[str, Any]) -> Any:
    world.calls.clear()
    return world.calls.as_dict()


def show_deliveries(world: World, asked: dict[str, Any]) -> Any:
    return world.deliveries.as_dict()


_Action = Callable[[World, dict[str, Any]], Any]
_ACTIONS: tuple[tuple[str, str, _Action], ...] = (
    ("", "GET", overview),
    ("/truth", "GET", show_truth),
    ("/changes", "POST", change),
    ("/suite", "POST", suite),
    ("/traffic", "POST", traffic),
    ("/faults", "GET", show_faults),
    ("/faults", "PUT", set_faults),
    ("/access", "GET", show_access),
    ("/access", "PUT", set_access),
    ("/calls", "GET", show_calls),
    ("/calls", "DELETE", clear_calls),
    ("/deliveries", "GET", show_deliveries),
)


def _view(world: World, act: _Action) -> Callable[[], Response]:
    def view() -> Response:
        try:
            return _json(act(world, _asked()), 200)
        except (UnknownApp, ImpossibleChange, BadFault, Unusable) as error:
            return _json({"error": str(error)}, 400)

    return view


def _asked() -> dict[str, Any]:
    body = request.get_json(force=True, silent=True) if request.get_data() else {}
    if not isinstance(body, dict):
        raise Unusable("the body is a JSON object")
    return dict(request.args.items()) | body


def _listed(asked: dict[str, Any], name: str, present: Collection[Any]) -> Collection[Any]:
    value = asked.get(name, present)
    if not isinstance(value, list | tuple | frozenset) or not all(isinstance(item, int | str) for item in value):
        raise Unusable(f"{name} is a list of ids or names")
    return value


def _app_name(world: World, asked: dict[str, Any]) -> str:
    """The app named; where only one is played, it needs no name."""
    if "app" not in asked and len(world.apps) == 1:
        return next(iter(world.apps))
    return str(asked.get("app"))


def _app(world: World, app: App) -> dict[str, Any]:
    tenant = world.tenants[app.corp_id]
    with tenant.lock:
        size = {"users": len(tenant.users.rows), "departments": len(tenant.departments.rows)}
    shown: dict[str, Any] = {
        "name": app.config.name,
        "kind": app.config.kind,
        "corp_id": app.corp_id,
        "corp_name": tenant.name,
        "dissolved": tenant.dissolved,
        "callback_url": app.config.callback_url,
        "registered_url": app.registration.url if app.registration else None,
        "failed_list": len(app.failures),
        **size,
    }
    return shown | ({"suite_ticket": app.ticket, "authorized": list(app.corps)} if app.is_suite else {})


def _granted(world: World, asked: dict[str, Any]) -> Access:
    """Of the corp named, or of the app's first."""
    name = _app_name(world, asked)
    return world.app(name).corps[world.tenant(name, asked.get("corp")).corp_id].access


def _access(access: Access) -> dict[str, Any]:
    return {
        "authed_dept": list(access.authed_dept),
        "authed_user": list(access.authed_user),
        "permissions": sorted(access.permissions),
    }


def _json(body: Any, status: int) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, mimetype="application/json")
