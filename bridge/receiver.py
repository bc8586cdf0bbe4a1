"""The Flask app that DingTalk calls: callback, health and metrics. It touches neither SQL nor DingTalk's API."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import redis
import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.middleware.proxy_fix import ProxyFix

from bridge import crypto, messages
from bridge.config import AppConfig, Config
from bridge.crypto import SUITE_CREATION_OWNER, Key, Opened
from bridge.errors import MalformedCallback, NotDurable, Refused, UnknownApp
from bridge.hush import Hush
from bridge.intake import Intake
from bridge.metrics import Metrics
from bridge.spool import Spool
from bridge.verdicts import VERDICTS

#: Bytes; DingTalk documents no limit, its own payloads are a few kilobytes.
MAX_BODY = 1 << 20
#: Seconds from which an answer may have come too late: DingTalk gives up after 1.2 to 2.5 (delivery.md §1).
LATE_SECONDS = 1.0
#: Query parameters by meaning; the first that is not empty wins (Callback-Crypto README, KB-E/0004).
SIGNATURE_NAMES = ("msg_signature", "signature")
TIMESTAMP_NAMES = ("timestamp", "timeStamp")

log = structlog.get_logger()


class _Body(msgspec.Struct):
    encrypt: str


class _Query(NamedTuple):
    """What a callback's query says of its body."""

    signature: str
    timestamp: str
    nonce: str


class App:
    """One configured app, ready to open envelopes."""

    def __init__(self, config: AppConfig) -> None:
        self.name = config.name
        self.corp_id = config.corp_id
        self.check_reply = config.check_reply
        self.keys: tuple[Key, ...] = tuple(pair.key() for pair in config.keys)
        self.owners = frozenset(config.owner_keys)
        if config.kind == "suite":
            # While a suite is being created it has no key of its own yet.
            self.owners |= {SUITE_CREATION_OWNER}

    def open(self, query: _Query, body: bytes) -> Opened:
        """The envelope of a request. Raises Refused."""
        try:
            encrypted = _decode_body(body).encrypt
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedCallback("the body is no JSON object with a string `encrypt`") from None
        return crypto.open_envelope(self.keys, self.owners, *query, encrypted)

    def seal(self, opened: Opened, parsed: messages.Parsed, query: _Query) -> Response:
        """The encrypted reply, for the owner and with the key that came in."""
        message = self._reply(opened, parsed)
        return _json(crypto.seal(opened.key, message, opened.owner, query.timestamp, query.nonce), 200)

    def _reply(self, opened: Opened, parsed: messages.Parsed) -> bytes:
        """`success`, or a suite check's `Random` where that is wanted (crypto.md §9: sources disagree)."""
        wanted = self.check_reply == "random" or (self.check_reply == "auto" and opened.owner == SUITE_CREATION_OWNER)
        return parsed.random.encode() if wanted and parsed.random else b"success"


def create_receiver(config: Config, connection: redis.Redis) -> Flask:
    """The WSGI app, with its drainer at work; `connection` is a client of Patience.RECEIVER."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1
    app.url_map.strict_slashes = False  # DingTalk refuses redirects (errcode 71012)
    app.url_map.merge_slashes = False
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=hops)  # type: ignore[method-assign]
    apps = {app_config.name: App(app_config) for app_config in config.apps}
    hush = Hush()
    intake, metrics = Intake(connection, Spool(config.var / "spool")), Metrics()
    for target in apps.values():
        if len(target.keys) > 1:
            metrics.old_key.labels(target.name)  # 0 shows as well, or nobody could wait for it to stand still
    intake.start()
    intake.missed(apps)

    @app.post("/callback/<name>", provide_automatic_options=False)
    def callback(name: str) -> Response:
        begun = time.perf_counter()
        if (target := apps.get(name)) is None:
            raise UnknownApp
        try:
            body, query = _body(), _query()
            opened = target.open(query, body)
        except Refused as refusal:
            if (verdict := VERDICTS.get(type(refusal))) is not None:
                intake.judged(name, verdict, str(refusal))
            raise
        if opened.key != target.keys[0]:
            metrics.old_key.labels(name).inc()
        # From here on the sender is DingTalk. What it is refused lands on its failed list; a stranger's does not, and
        # must not make us call an API that has a monthly quota.
        missed = True
        try:
            parsed = messages.parse(opened.message, target.name, target.corp_id)
            outcomes = intake.take(parsed.events) if parsed.events else []
            for event, outcome in zip(parsed.events, outcomes, strict=True):
                metrics.count(name, event.type, outcome)
            if parsed.events:
                intake.judged(name, "good")
            else:
                metrics.count(name, parsed.type, "checked")
            reply = target.seal(opened, parsed, query)
            seconds = time.perf_counter() - begun
            metrics.seconds.observe(seconds)
            missed = seconds > LATE_SECONDS
            return reply
        finally:
            if missed:
                intake.missed([name])

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

    def refusal(status: int, reason: str) -> Response:
        """One JSON line for the sender, one log line for the operator. Only known app names are repeated."""
        name = (request.view_args or {}).get("name")
        app_name = name if name in apps else "none"
        metrics.refused.labels(app_name, str(status)).inc()
        if (unsaid := hush.unsaid((app_name, status))) is not None:
            log.warning("refused", app=app_name, status=status, reason=reason, unsaid=unsaid)
        return _json({"error": reason}, status)

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return refusal(error.status, str(error))

    @app.errorhandler(NotDurable)
    def not_durable(error: NotDurable) -> Response:
        return refusal(503, str(error))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return refusal(error.code or 500, error.name.lower())

    return app


_decode_body = msgspec.json.Decoder(_Body).decode


def _body() -> bytes:
    """The whole body. Raises RequestEntityTooLarge."""
    body = request.get_data()
    # Werkzeug cuts a chunked body off at MAX_CONTENT_LENGTH without a word; hence the one byte more.
    if len(body) > MAX_BODY:
        raise RequestEntityTooLarge
    return body


def _query() -> _Query:
    """Raises MalformedCallback."""
    given = request.args
    return _Query(_first(given, *SIGNATURE_NAMES), _first(given, *TIMESTAMP_NAMES), _first(given, "nonce"))


def _first(given: Mapping[str, str], *names: str) -> str:
    """The first of these that says anything. Raises MalformedCallback."""
    for name in names:
        if value := given.get(name):
            return value
    raise MalformedCallback(f"no {names[-1]} in the query")


def _json(body: object, status: int) -> Response:
    return Response(msgspec.json.encode(body), status, mimetype="application/json")
