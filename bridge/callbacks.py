"""A callback, from the request to its sealed reply. It touches neither SQL nor DingTalk's API.

WSGI beneath Flask: Flask's context, routing and request object would take a third of a callback's CPU.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

import msgspec
import structlog
from werkzeug.wsgi import get_input_stream

from bridge import crypto, messages
from bridge.config import AppConfig
from bridge.crypto import SUITE_CREATION_OWNER, Key, Opened
from bridge.errors import MalformedCallback, NotDurable, Refused, TooLarge
from bridge.hush import Hush
from bridge.intake import Intake
from bridge.messages import Parsed
from bridge.metrics import Metrics
from bridge.verdicts import VERDICTS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

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

    def seal(self, opened: Opened, parsed: Parsed, query: _Query) -> dict[str, str]:
        """The encrypted reply, for the owner and with the key that came in."""
        return crypto.seal(opened.key, self._reply(opened, parsed), opened.owner, query.timestamp, query.nonce)

    def _reply(self, opened: Opened, parsed: Parsed) -> bytes:
        """`success`, or a suite check's `Random` where that is wanted (crypto.md §9: sources disagree)."""
        wanted = self.check_reply == "random" or (self.check_reply == "auto" and opened.owner == SUITE_CREATION_OWNER)
        return parsed.random.encode() if wanted and parsed.random else b"success"


class Refusals:
    """Requests that are refused: counted, and a line for the operator, unless there are too many."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._hush = Hush()

    def told(self, app: str, status: int, reason: str) -> dict[str, str]:
        """What the sender is told. `app` is the name of a known app, or "none"."""
        self._metrics.refused.labels(app, str(status)).inc()
        if (unsaid := self._hush.unsaid((app, status))) is not None:
            log.warning("refused", app=app, status=status, reason=reason, unsaid=unsaid)
        return {"error": reason}


class Posted(NamedTuple):
    """What was posted to a path that `Callbacks` knows."""

    path: str
    query: str
    body: bytes
    #: When it began to come, on time.monotonic()'s clock.
    begun: float


class Answer(NamedTuple):
    """A status of HTTP and an object for JSON."""

    status: int
    told: Mapping[str, str]


class _Callback(NamedTuple):
    """One that DingTalk has sent."""

    app: App
    query: _Query
    opened: Opened
    parsed: Parsed
    begun: float


class Callbacks:
    """POST to /callback/<app> for each of these apps; all else goes to `pages`."""

    def __init__(
        self, apps: Iterable[App], intake: Intake, metrics: Metrics, refusals: Refusals, pages: "WSGIApplication"
    ) -> None:
        # All spellings at once: DingTalk refuses redirects (errcode 71012).
        self._apps = {f"callback/{app.name}{end}": app for app in apps for end in ("", "/")}
        self._intake = intake
        self._metrics = metrics
        self._refusals = refusals
        self._pages = pages

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        begun, path = time.monotonic(), environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "POST" or not self.knows(path):
            return self._pages(environ, start_response)
        try:
            (answer,) = self.answer([Posted(path, environ["QUERY_STRING"], _body(environ), begun)])
        except Refused as error:
            answer = self._fault(self._app(path), error)
        body = msgspec.json.encode(answer.told)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [body]

    def knows(self, path: str) -> bool:
        """Whether what is posted to this path is a callback."""
        return path.lstrip("/") in self._apps

    def answer(self, posted: Sequence[Posted]) -> list[Answer]:
        """The answer to each of these, whatever happens, once what they brought is durable: all with one call."""
        opened = [(self._app(one.path), self._open(one)) for one in posted]
        callbacks = [found for _, found in opened if isinstance(found, _Callback)]
        against = self._make_durable(callbacks)
        answers = []
        for app, found in opened:
            if not isinstance(found, _Callback):
                answers.append(self._fault(app, found))
            elif against is not None and found.parsed.events:
                self._intake.missed([app.name])
                answers.append(self._fault(app, against))
            else:
                answers.append(self._reply(found))
        return answers

    def stop(self) -> None:
        """No more callbacks will come."""
        self._intake.stop()

    def _app(self, path: str) -> App:
        return self._apps[path.lstrip("/")]

    def _open(self, posted: Posted) -> _Callback | Exception:
        """What DingTalk has sent, or what stands against it."""
        app = self._app(posted.path)
        try:
            query = _query(posted.query)
            opened = app.open(query, posted.body)
        except Refused as refusal:
            if (verdict := VERDICTS.get(type(refusal))) is not None:
                self._intake.judged(app.name, verdict, str(refusal))
            return refusal
        except Exception as error:  # noqa: BLE001 - it is told
            return error
        try:
            if opened.key != app.keys[0]:
                self._metrics.old_key.labels(app.name).inc()
            parsed = messages.parse(opened.message, app.name, app.corp_id)
            return _Callback(app, query, opened, parsed, posted.begun)
        except Exception as error:  # noqa: BLE001 - it is told
            # From here on the sender is DingTalk. What it is refused lands on its failed list; a stranger's does not,
            # and must not make us call an API that has a monthly quota.
            self._intake.missed([app.name])
            return error

    def _make_durable(self, callbacks: Sequence[_Callback]) -> Exception | None:
        """What stands against all that these brought, if anything does."""
        brought = [(callback.app.name, event) for callback in callbacks for event in callback.parsed.events]
        if not brought:
            return None
        try:
            outcomes = self._intake.take([event for _, event in brought])
            for (app, event), outcome in zip(brought, outcomes, strict=True):
                self._metrics.count(app, event.type, outcome)
        except Exception as error:  # noqa: BLE001 - it is told
            return error
        return None

    def _reply(self, callback: _Callback) -> Answer:
        """The sealed reply to what is durable."""
        app, query, opened, parsed, begun = callback
        try:
            if parsed.events:
                self._intake.judged(app.name, "good")
            else:
                self._metrics.count(app.name, parsed.type, "checked")
            reply = app.seal(opened, parsed, query)
        except Exception as error:  # noqa: BLE001 - it is told
            self._intake.missed([app.name])
            return self._fault(app, error)
        seconds = time.monotonic() - begun
        self._metrics.seconds.observe(seconds)
        if seconds > LATE_SECONDS:
            self._intake.missed([app.name])
        return Answer(200, reply)

    def _fault(self, app: App, error: Exception) -> Answer:
        """What the sender is told instead."""
        if isinstance(error, Refused):
            status, reason = error.status, str(error)
        elif isinstance(error, NotDurable):
            status, reason = 503, str(error)
        else:
            log.error("a callback failed", app=app.name, exc_info=error)
            status, reason = 500, "internal server error"
        return Answer(status, self._refusals.told(app.name, status, reason))


_decode_body = msgspec.json.Decoder(_Body).decode


def _body(environ: "WSGIEnvironment") -> bytes:
    """The whole body. Raises TooLarge and MalformedCallback."""
    try:
        body: bytes = get_input_stream(environ).read(MAX_BODY + 1)
    except Exception:  # noqa: BLE001 - the server's own, of chunks that are none or a sender who is gone
        raise MalformedCallback("the body breaks off") from None
    if len(body) > MAX_BODY:
        raise TooLarge
    return body


def _query(text: str) -> _Query:
    """Raises MalformedCallback."""
    given: dict[str, str] = {}
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        # Of a name that stands there twice the first counts that says anything.
        if value and name not in given:
            given[name] = value
    return _Query(_first(given, *SIGNATURE_NAMES), _first(given, *TIMESTAMP_NAMES), _first(given, "nonce"))


def _first(given: Mapping[str, str], *names: str) -> str:
    """The first of these that says anything. Raises MalformedCallback."""
    for name in names:
        if value := given.get(name):
            return unquote_plus(value)
    raise MalformedCallback(f"no {names[-1]} in the query")
