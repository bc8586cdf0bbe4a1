"""The console's Flask app: what it is made of, and how it tells of errors."""

import redis
import structlog
from flask import Blueprint, Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from bridge.config import Config
from ops.console import metrics, sources
from ops.console.dashboard import create_dashboard
from ops.console.faults import told
from ops.console.headers import guard_answers
from ops.console.login import create_login
from ops.console.overview import create_overview
from ops.console.sessions import LIFETIME, StoredKey
from ops.console.sources import Sources
from workers.store.engine import Store

#: Bytes; forms here are short.
MAX_BODY = 1 << 16

log = structlog.get_logger()


def create_console(config: Config, connection: redis.Redis, store: Store) -> Flask:
    """The WSGI app. It starts also while Redis or the datastore is away, and says so on its pages."""
    app = Flask(__name__)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY,
        PERMANENT_SESSION_LIFETIME=LIFETIME,
        SESSION_COOKIE_NAME="dingbridge_console",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.session_interface = StoredKey(connection)
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=hops)  # type: ignore[method-assign]
    asked = Sources(connection, store, {app.name: app.suite_key or "" for app in config.suites})
    guard_answers(app)
    app.register_blueprint(create_login(config.console, connection))
    app.register_blueprint(_create_probes(asked))
    app.register_blueprint(create_overview(asked))
    app.register_blueprint(create_dashboard(connection), url_prefix="/rq")
    _tell_errors(app)
    return app


def _create_probes(asked: Sources) -> Blueprint:
    """`/healthz` and `/metrics`, for machines and without a log-in."""
    blueprint = Blueprint("probes", __name__)

    @blueprint.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "up"}

    @blueprint.get("/metrics", endpoint="metrics")
    def metrics_page() -> Response:
        return Response(metrics.render(asked), mimetype="text/plain")

    return blueprint


def _tell_errors(app: Flask) -> None:

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return told(error.code or 500, error.description or error.name)

    @app.errorhandler(redis.RedisError)
    def redis_away(error: redis.RedisError) -> Response:
        log.warning("Redis is away", reason=type(error).__name__)
        return told(503, sources.REDIS_AWAY)
