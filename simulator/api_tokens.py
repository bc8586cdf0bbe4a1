"""The token calls of internal apps and of suites, old style and v1.0 (api.md §1)."""

import base64
import hmac
import time

from simulator.apps import App, Authorization
from simulator.call import Body, Call, Route
from simulator.errors import ApiError, NewStyleError
from simulator.tokens import LIFETIME

#: Milliseconds that a signed call's timestamp may be off (853002).
SKEW = 60_000


def gettoken(call: Call) -> Body:
    app = _client(call, call.params.optional("appkey"), call.params.optional("appsecret"), suite=False)
    if app is None:
        raise ApiError(40089)
    return {"access_token": _lasting(call, app, app.corp_id), "expires_in": LIFETIME}


def get_suite_token(call: Call) -> Body:
    app = _client(call, call.params.optional("suite_key"), call.params.optional("suite_secret"), suite=True)
    if app is None:
        raise ApiError(40088)
    if call.params.optional("suite_ticket") != app.ticket:
        raise ApiError(40085)
    token = call.world.tokens.issue(app, app.corp_id, "suite", lasting=False)
    return {"suite_access_token": token, "expires_in": LIFETIME}


def get_corp_token(call: Call) -> Body:
    """Signed, or (2016) with the suite token and the corp's permanent code. A new token each time (KB-A/1446)."""
    corp_id = call.params.text("auth_corpid")
    app = suite_of(call)
    granted = _authorized(app, corp_id)
    if not call.query.optional("signature") and call.params.optional("permanent_code") != granted.permanent_code:
        raise ApiError(40084)
    return {"access_token": call.world.tokens.issue(app, corp_id, "corp", lasting=False), "expires_in": LIFETIME}


def suite_of(call: Call) -> App:
    """The suite that signed the call (KB-A/1429) or whose suite_access_token it carries."""
    if call.query.optional("suite_access_token"):
        return _suite_by_token(call)
    stamp = call.query.optional("timestamp")
    if not stamp.isdecimal():
        raise ApiError(853001)
    if abs(int(stamp) - time.time() * 1000) > SKEW:
        raise ApiError(853002)
    key = call.query.optional("accessKey")
    app = next((app for app in call.world.apps.values() if app.is_suite and app.client_id == key), None)
    if app is None:
        raise ApiError(853003)
    ticket = call.query.optional("suiteTicket")
    if not hmac.compare_digest(signature(app.secret, stamp, ticket), call.query.optional("signature")):
        raise ApiError(853004)
    if ticket != app.ticket:
        raise ApiError(853005)
    return app


def signature(secret: str, timestamp: str, ticket: str) -> str:
    """Base64 of HMAC-SHA256 over timestamp, newline, ticket (KB-A/1429); the caller URL-encodes it."""
    return base64.b64encode(hmac.digest(secret.encode(), f"{timestamp}\n{ticket}".encode(), "sha256")).decode()


def v1_access_token(call: Call) -> Body:
    app = _client(call, call.params.optional("appKey"), call.params.optional("appSecret"), suite=False)
    if app is None:
        raise NewStyleError(400, "invalidClientIdOrSecret", "无效的clientId或者clientSecret")
    return {"accessToken": _lasting(call, app, app.corp_id), "expireIn": LIFETIME}


def v1_unified_token(call: Call) -> Body:
    """For internal apps and suites alike, without a ticket (KB-A/0037)."""
    if call.params.optional("grant_type") != "client_credentials":
        raise NewStyleError(400, "unsupported.grant.type", "unsupported.grant.type")
    key, secret = call.params.optional("client_id"), call.params.optional("client_secret")
    app = _client(call, key, secret, suite=False) or _client(call, key, secret, suite=True)
    if app is None:
        raise NewStyleError(400, "invalid.client", "invalid.client")
    corp_id = call.path["corp_id"]
    if app.authorization(corp_id) is None:
        raise NewStyleError(401, "unauthorized.client", "unauthorized.client")
    if app.is_suite:
        token = call.world.tokens.issue(app, corp_id, "corp", lasting=False)
    else:
        token = _lasting(call, app, corp_id)
    return {"access_token": token, "expires_in": LIFETIME}


def v1_suite_token(call: Call) -> Body:
    app = _v1_suite(call)
    return {"accessToken": call.world.tokens.issue(app, app.corp_id, "suite", lasting=False), "expireIn": LIFETIME}


def v1_corp_token(call: Call) -> Body:
    app = _v1_suite(call)
    corp_id = call.params.optional("authCorpId")
    if app.authorization(corp_id) is None:
        raise NewStyleError(400, "invalidCorpId", "参数错误")
    return {"accessToken": call.world.tokens.issue(app, corp_id, "corp", lasting=False), "expireIn": LIFETIME}


def _v1_suite(call: Call) -> App:
    app = _client(call, call.params.optional("suiteKey"), call.params.optional("suiteSecret"), suite=True)
    if app is None:
        raise NewStyleError(400, "invalidSuiteKey", "无效的suiteKey")
    if call.params.optional("suiteTicket") != app.ticket:
        raise NewStyleError(400, "invalidSuiteTicket", "无效的suiteTicket")
    return app


def _client(call: Call, key: str, secret: str, suite: bool) -> App | None:
    """The app of this kind with these credentials; an app without credentials never matches."""
    for app in call.world.apps.values():
        if app.is_suite == suite and key and app.client_id == key and app.secret:
            return app if hmac.compare_digest(app.secret.encode(), secret.encode()) else None
    return None


def _lasting(call: Call, app: App, corp_id: str) -> str:
    return call.world.tokens.issue(app, corp_id, "corp", lasting=True)


def _suite_by_token(call: Call) -> App:
    grant = call.world.tokens.find(call.query.optional("suite_access_token"))
    if grant is None or grant.kind != "suite" or grant.expired:
        raise ApiError(40082)
    return grant.app


def _authorized(app: App, corp_id: str) -> Authorization:
    granted = app.authorization(corp_id)
    if granted is None:
        raise ApiError(33001)
    return granted


ROUTES = (
    Route("/gettoken", gettoken, "GET", opened_by=None, reads=False),
    Route("/service/get_suite_token", get_suite_token, opened_by=None, reads=False),
    Route("/service/get_corp_token", get_corp_token, opened_by=None, reads=False),
    Route("/v1.0/oauth2/accessToken", v1_access_token, opened_by=None, style="new", reads=False),
    Route("/v1.0/oauth2/suiteAccessToken", v1_suite_token, opened_by=None, style="new", reads=False),
    Route("/v1.0/oauth2/corpAccessToken", v1_corp_token, opened_by=None, style="new", reads=False),
    Route("/v1.0/oauth2/<corp_id>/token", v1_unified_token, opened_by=None, style="new", reads=False),
)
