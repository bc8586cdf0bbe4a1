"""The WSGI application: every API path of api.md at its root, and the control under /_sim, by Flask."""

from typing import TYPE_CHECKING

from flask import Flask, Response, request

from simulator import api_callbacks, api_departments, api_legacy, api_roles, api_suites, api_tokens, api_users
from simulator.call import Route
from simulator.control import control
from simulator.gateway import Gateway
from simulator.world import World

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

ROUTES: tuple[Route, ...] = (
    *api_tokens.ROUTES,
    *api_suites.ROUTES,
    *api_users.ROUTES,
    *api_departments.ROUTES,
    *api_roles.ROUTES,
    *api_callbacks.ROUTES,
    *api_legacy.ROUTES,
)


def create_api(world: World) -> "WSGIApplication":
    """The WSGI application of one simulator."""
    pages = Flask("simulator", static_folder=None)
    pages.register_blueprint(control(world))
    pages.register_error_handler(404, _unknown)
    return Gateway(world, ROUTES, pages)


def _unknown(error: Exception) -> Response:
    if request.path.startswith("/v1.0/"):
        body = '{"code":"InvalidAction.NotFound","message":"Specified api is not found."}'
        return Response(body, 404, mimetype="application/json")
    return Response('{"errcode":404,"errmsg":"请求的URI地址不存在"}', mimetype="application/json")
