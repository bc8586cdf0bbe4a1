"""A suite's life: ticket, authorisation, permanent code, activation, corp information, the end."""

from typing import Any

from simulator.server import Simulator
from tests.simulator.helpers import Api
from tests.simulator.test_api_tokens import signed


def suite_token(sim: Simulator, api: Api) -> str:
    asked = {"suite_key": "suitekey1", "suite_secret": "secret2", "suite_ticket": sim.app("shop").ticket}
    return str(api.post("/service/get_suite_token", asked)["suite_access_token"])


def told(api: Api, event: str) -> dict[str, Any]:
    made: dict[str, Any] = api.control("POST", "/suite", {"app": "shop", "event": event})
    payload: dict[str, Any] = made["payload"]
    assert payload["EventType"] == event and payload["SuiteKey"] == "suitekey1"
    return payload


def test_from_authorisation_to_activation(sim: Simulator, api: Api) -> None:
    corp_id = sim.app("shop").corp_id
    code = told(api, "tmp_auth_code")
    assert code["AuthCorpId"] == corp_id
    token = suite_token(sim, api)
    asked = {"tmp_auth_code": code["AuthCode"]}
    given = api.post("/service/get_permanent_code", asked, suite_access_token=token)
    assert given["auth_corp_info"] == {"corpid": corp_id, "corp_name": sim.tenants[corp_id].name}
    assert api.post("/service/get_permanent_code", asked, suite_access_token=token)["errcode"] == 40078
    agent_id = sim.app("shop").corps[corp_id].agent_id
    agent = {"suite_key": "suitekey1", "auth_corpid": corp_id, "agentid": agent_id}
    assert api.post("/service/get_agent", agent, suite_access_token=token)["close"] == 2
    body = {"suite_key": "suitekey1", "auth_corpid": corp_id, "permanent_code": given["permanent_code"]}
    assert api.post("/service/activate_suite", body, suite_access_token=token)["errcode"] == 0
    assert api.post("/service/get_agent", agent, suite_access_token=token)["close"] == 1
    wrong = body | {"permanent_code": "x"}
    assert api.post("/service/activate_suite", wrong, suite_access_token=token)["errcode"] == 40084
    assert api.post("/service/get_agent", agent | {"agentid": 1}, suite_access_token=token)["errcode"] == 52019


def test_auth_info(sim: Simulator, api: Api) -> None:
    corp_id = sim.app("shop").corp_id
    info = api.post("/service/get_auth_info", {"auth_corpid": corp_id}, **signed(sim))
    assert info["auth_corp_info"]["corpid"] == corp_id and info["auth_corp_info"]["is_authenticated"] is True
    agent = info["auth_info"]["agent"][0]
    assert set(agent) == {"agentid", "agent_name", "logo_url", "appid", "admin_list"}
    assert info["auth_user_info"]["userId"] in agent["admin_list"]
    headers = {"x-acs-dingtalk-access-token": suite_token(sim, api)}
    new = api.json("GET", "/v1.0/oauth2/apps/authInfo", fields={"authCorpId": corp_id}, headers=headers)
    assert new["authAppInfo"]["agentList"][0]["agentId"] == agent["agentid"]
    refused = api.raw("GET", "/v1.0/oauth2/apps/authInfo", fields={"authCorpId": "x"}, headers=headers)
    assert refused.status == 400 and refused.json()["code"] == "orgNotAuthApp"


def test_a_new_ticket_kills_the_old(sim: Simulator, api: Api) -> None:
    old = sim.app("shop").ticket
    assert told(api, "suite_ticket")["SuiteTicket"] == sim.app("shop").ticket != old


def test_after_suite_relieve_nothing_opens_any_more(sim: Simulator, api: Api) -> None:
    corp = {"auth_corpid": sim.app("shop").corp_id}
    api.token = api.post("/service/get_corp_token", corp, **signed(sim))["access_token"]
    assert isinstance(told(api, "suite_relieve")["TimeStamp"], str)
    assert api.post("/topapi/user/listadmin")["errcode"] == 40014
    assert api.post("/service/get_corp_token", corp, **signed(sim))["errcode"] == 33001
    told(api, "tmp_auth_code")
    assert api.post("/service/get_corp_token", corp, **signed(sim))["errcode"] == 0


def test_a_stopped_micro_app_shows_in_get_agent(sim: Simulator, api: Api) -> None:
    corp_id = sim.app("shop").corp_id
    stop = told(api, "org_micro_app_stop")
    agent = {"auth_corpid": corp_id, "agentid": stop["AgentId"]}
    assert api.post("/service/get_agent", agent, **signed(sim))["close"] == 0
    told(api, "org_micro_app_restore")
    assert api.post("/service/get_agent", agent, **signed(sim))["close"] == 1


def test_a_dissolved_corp(sim: Simulator, api: Api) -> None:
    sim.change("shop", "org_remove")
    asked = {"auth_corpid": sim.app("shop").corp_id}
    assert api.post("/service/get_auth_info", asked, **signed(sim))["errcode"] == 70001
