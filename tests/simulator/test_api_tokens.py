"""Tokens: who gets one, what it opens, when it dies."""

import time
from typing import Any

import pytest

from simulator.api_tokens import signature
from simulator.server import SimApp, Simulator, create_simulator, running
from tests.simulator.helpers import ACME, AES_KEY, CORP, TOKEN, Api


def signed(sim: Simulator, **other: Any) -> dict[str, Any]:
    stamp, ticket = str(int(time.time() * 1000)), sim.app("shop").ticket
    query = {"accessKey": "suitekey1", "timestamp": stamp, "suiteTicket": ticket}
    query |= {"signature": signature("secret2", stamp, ticket)}
    return query | other


def test_gettoken_gives_the_same_token_again(api: Api) -> None:
    first, second = api.login(), api.login()
    assert first["access_token"] == second["access_token"] and first["expires_in"] == 7200
    v1 = api.json("POST", "/v1.0/oauth2/accessToken", json={"appKey": "dingappkey1", "appSecret": "secret1"})
    assert v1 == {"accessToken": first["access_token"], "expireIn": 7200}


#: Written out again here, from KB-A/0056.
NEVER_FOR_SUITES = {
    "mobile",
    "state_code",
    "telephone",
    "email",
    "org_email",
    "work_place",
    "remark",
    "extension",
    "hired_date",
}


@pytest.mark.parametrize(("key", "secret"), [("dingappkey1", "wrong"), ("nobody", "secret1"), ("", "")])
def test_wrong_credentials(api: Api, key: str, secret: str) -> None:
    assert api.login(key, secret)["errcode"] == 40089
    raw = api.raw("POST", "/v1.0/oauth2/accessToken", json={"appKey": key, "appSecret": secret})
    assert raw.status == 400 and raw.json()["code"] == "invalidClientIdOrSecret" and raw.json()["requestid"]


def test_a_call_without_a_known_token(api: Api) -> None:
    for token in ("", "unknown"):
        api.token = token
        assert api.post("/topapi/user/listadmin")["errcode"] == 40014
    raw = api.raw("GET", "/v1.0/contact/users/x", headers={"x-acs-dingtalk-access-token": "unknown"})
    assert raw.status == 400 and raw.json()["code"] == "InvalidAuthentication"


def test_the_wrong_method(api: Api) -> None:
    assert api.get("/topapi/user/listadmin")["errcode"] == 43002
    assert api.post("/auth/scopes")["errcode"] == 43001


def test_all_tokens_die_at_once_and_gettoken_gives_a_new_one(api: Api) -> None:
    old = api.token
    api.control("PUT", "/faults", {"expire_tokens": True})
    assert api.post("/topapi/user/listadmin")["errcode"] == 42001
    assert api.login()["access_token"] != old
    assert api.post("/topapi/user/listadmin")["errcode"] == 0


def test_a_token_opens_its_own_corp_only() -> None:
    other = SimApp("other", "internal", TOKEN, AES_KEY, "k2", "dingcorp0002", "k2", "s2")
    sharing = SimApp("sharing", "internal", TOKEN, AES_KEY, "k3", CORP, "k3", "s3")
    sim = create_simulator([ACME, other, sharing], 30, 1)
    with running(sim) as base:
        api = Api(base)
        names: dict[str, str] = {}
        for app in (ACME, other, sharing):
            api.login(app.app_key, app.app_secret)
            names[app.name] = api.post("/topapi/v2/department/get", {"dept_id": 1})["result"]["name"]
        api.http.clear()
    assert names["acme"] == names["sharing"] != names["other"]


def test_the_suites_signature(sim: Simulator, api: Api) -> None:
    corp = {"auth_corpid": sim.app("shop").corp_id}
    first = api.post("/service/get_corp_token", corp, **signed(sim))
    second = api.post("/service/get_corp_token", corp, **signed(sim))
    assert first["errcode"] == 0 and first["access_token"] != second["access_token"]
    stale = str(int(time.time() * 1000) - 61_000)
    wrong: dict[int, dict[str, Any]] = {
        853001: {"timestamp": "now"},
        853002: {"timestamp": stale},
        853003: {"accessKey": "dingappkey1"},
        853004: {"signature": "x"},
        853005: {"suiteTicket": "old", "signature": signature("secret2", stale, "old")},
    }
    for errcode, other in wrong.items():
        query = signed(sim, **other)
        if errcode == 853005:
            query["signature"] = signature("secret2", query["timestamp"], "old")
        assert api.post("/service/get_corp_token", corp, **query)["errcode"] == errcode
    assert api.post("/service/get_corp_token", {"auth_corpid": "x"}, **signed(sim))["errcode"] == 33001


def test_suite_token_and_the_2016_way(sim: Simulator, api: Api) -> None:
    shop = sim.app("shop")
    asked = {"suite_key": "suitekey1", "suite_secret": "secret2", "suite_ticket": shop.ticket}
    token = api.post("/service/get_suite_token", asked)["suite_access_token"]
    code = shop.corps[shop.corp_id].permanent_code
    body = {"auth_corpid": shop.corp_id, "permanent_code": code}
    assert api.post("/service/get_corp_token", body, suite_access_token=token)["errcode"] == 0
    wrong = body | {"permanent_code": "x"}
    assert api.post("/service/get_corp_token", wrong, suite_access_token=token)["errcode"] == 40084
    assert api.post("/service/get_corp_token", body, suite_access_token="x")["errcode"] == 40082
    assert api.post("/service/get_suite_token", asked | {"suite_ticket": "x"})["errcode"] == 40085
    assert api.post("/service/get_suite_token", asked | {"suite_secret": "x"})["errcode"] == 40088


def test_new_style_tokens(sim: Simulator, api: Api) -> None:
    shop = sim.app("shop")
    asked = {"suiteKey": "suitekey1", "suiteSecret": "secret2", "suiteTicket": shop.ticket}
    assert api.post("/v1.0/oauth2/suiteAccessToken", asked)["expireIn"] == 7200
    corp = api.post("/v1.0/oauth2/corpAccessToken", asked | {"authCorpId": shop.corp_id})
    api.token = corp["accessToken"]
    assert api.post("/topapi/user/listadmin")["errcode"] == 0
    for key, secret, corp_id in (("suitekey1", "secret2", shop.corp_id), ("dingappkey1", "secret1", CORP)):
        body = {"client_id": key, "client_secret": secret, "grant_type": "client_credentials"}
        api.token = api.post(f"/v1.0/oauth2/{corp_id}/token", body)["access_token"]
        assert api.post("/topapi/user/listadmin")["errcode"] == 0
        refused = api.raw("POST", "/v1.0/oauth2/dingother/token", json=body)
        assert refused.status == 401 and refused.json()["code"] == "unauthorized.client"
        refused = api.raw("POST", f"/v1.0/oauth2/{corp_id}/token", json=body | {"client_secret": "x"})
        assert refused.status == 400 and refused.json()["code"] == "invalid.client"


def test_a_suite_never_sees_private_fields(sim: Simulator, api: Api) -> None:
    shop = sim.app("shop")
    api.token = api.post("/service/get_corp_token", {"auth_corpid": shop.corp_id}, **signed(sim))["access_token"]
    users = sim.tenants[shop.corp_id].users.rows.values()
    user = next(user for user in users if user.extension and user.hired_date)
    shown = api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]
    assert not NEVER_FOR_SUITES & set(shown) and shown["name"] == user.name
