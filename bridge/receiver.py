"""The receiver, a Flask app: callbacks, health and metrics."""

import msgspec
import redis
from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.middleware.proxy_fix import ProxyFix

from bridge.callbacks import App, Callbacks, Refusals
from bridge.config import Config
from bridge.errors import UnknownApp
from bridge.intake import Intake
from bridge.metrics import Metrics
from bridge.spool import Spool


def create_receiver(config: Config, connection: redis.Redis) -> Flask:
    """The WSGI app, with its drainer at work; `connection` is a client of Patience.RECEIVER."""
    app = Flask(__name__, static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=hops)  # type: ignore[method-assign]
    apps = [App(app_config) for app_config in config.apps]
    intake, metrics = Intake(connection, Spool(config.var / "spool")), Metrics(len(apps))
    refusals = Refusals(metrics)
    app.wsgi_app = Callbacks(apps, intake, metrics, refusals, app.wsgi_app)  # type: ignore[method-assign]
    for target in apps:
        if len(target.keys) > 1:
            metrics.old_key.labels(target.name)  # 0 shows as well, or nobody could wait for it to stand still
    intake.start()
    intake.missed(target.name for target in apps)

    @app.post("/callback/<name>", provide_automatic_options=False)
    def callback(name: str) -> Response:
        """Those of the apps do not come here."""
        raise UnknownApp

    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "up"}, 200)

    @app.get("/readyz")
    def readyz() -> Response:
        components = intake.components()
        ready = any(components.values())
        shown = {name: "up" if up else "down" for name, up in components.items()}
        return _json({"ready": ready, "components": shown}, 200 if ready else 503)

    @app.get("/metrics")
    def metrics_page() -> Response:
        return Response(metrics.render(), mimetype="text/plain")

    @app.errorhandler(UnknownApp)
    def unknown(error: UnknownApp) -> Response:
        return _json(refusals.told("none", error.status, str(error)), error.status)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        response = _json(refusals.told("none", status, error.name.lower()), status)
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    return app


def _json(body: object, status: int) -> Response:
    return Response(msgspec.json.encode(body), status, mimetype="application/json")
