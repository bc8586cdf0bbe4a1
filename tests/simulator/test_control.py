"""Control over HTTP: truth, changes, traffic, access, refusals."""

from typing import Any

import pytest

from simulator.server import Simulator
from tests.servers import wait_until
from tests.simulator.helpers import CORP, Api


def test_overview(api: Api) -> None:
    shown = api.control("GET", "")
    acme, shop = shown["apps"]
    assert acme["name"] == "acme" and acme["corp_id"] == CORP and acme["users"] == 600 and acme["failed_list"] == 0
    assert shop["kind"] == "suite" and shop["suite_ticket"] and shop["authorized"] == [shop["corp_id"]]


def test_truth_has_the_datastores_names(sim: Simulator, api: Api) -> None:
    shown = api.control("GET", "/truth?app=acme")
    assert shown == sim.truth("acme")
    assert set(shown) == {"corp", "users", "departments", "role_groups", "roles"}
    assert set(shown["users"][0]) == {
        "userid",
        "unionid",
        "name",
        "title",
        "mobile",
        "email",
        "job_number",
        "manager_userid",
        "active",
        "admin",
        "admin_level",
        "boss",
        "senior",
        "hired_date",
        "departments",
        "roles",
    }
    assert set(shown["departments"][0]) == {"dept_id", "parent_id", "name", "order", "manager_userids"}
    assert shown["departments"][0]["parent_id"] is None
    assert set(shown["users"][0]["departments"][0]) == {"dept_id", "order", "leader"}
    assert not any(user["email"] == "" for user in shown["users"])


def test_changes(api: Api) -> None:
    made = api.control("POST", "/changes", {"app": "acme", "event": "label_conf_add", "count": 3, "generation": "A"})
    assert [row["event"] for row in made] == ["label_conf_add"] * 3
    assert {row["generation"] for row in made} == {"A"} and {row["delivery"] for row in made} == {None}
    assert made[0]["payload"]["CorpId"] == CORP
    userid = api.control("GET", "/truth?app=acme")["users"][3]["userid"]
    named = api.control("POST", "/changes", {"app": "acme", "event": "user_modify_org", "entity": userid})
    assert userid in str(named[0]["payload"])


def test_traffic_starts_and_stops(sim: Simulator, api: Api) -> None:
    before = api.control("GET", "/truth?app=acme")
    assert api.control("POST", "/traffic", {"per_second": 200, "app": "acme"}) == {"per_second": 200.0}
    wait_until(lambda: api.control("GET", "/truth?app=acme") != before)
    assert api.control("POST", "/traffic", {"per_second": 0})["per_second"] == 0
    sim.stop_traffic()
    after = sim.truth("acme")
    assert sim.truth("shop") == sim.truth("shop") and sim.truth("acme") == after


def test_traffic_in_every_organisation(sim: Simulator) -> None:
    before = [sim.truth(name) for name in ("acme", "shop")]
    sim.start_traffic(300)
    wait_until(lambda: all(sim.truth(name) != was for name, was in zip(("acme", "shop"), before, strict=True)))
    sim.stop_traffic()


def test_access(api: Api) -> None:
    assert api.control("GET", "/access?app=acme")["authed_dept"] == [1]
    api.control("PUT", "/access", {"app": "acme", "authed_dept": [], "authed_user": ["x"]})
    assert api.control("GET", "/access?app=acme")["authed_user"] == ["x"]


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("GET", "/truth?app=nobody", None, "no app is called nobody"),
        ("GET", "/truth", None, "no app is called None"),
        ("POST", "/changes", {"app": "acme", "event": "x"}, "no contact event"),
        ("POST", "/changes", {"app": "acme", "event": "org_dept_remove", "entity": 1}, "root department"),
        ("POST", "/changes", {"app": "acme", "count": 0}, "count"),
        ("POST", "/changes", [1], "JSON object"),
        ("POST", "/traffic", {"per_second": -1}, "per_second"),
        ("POST", "/suite", {"app": "acme", "event": "suite_ticket"}, "no suite"),
        ("PUT", "/access", {"app": "acme", "permissions": ["x"]}, "permissions"),
        ("PUT", "/access", {"app": "acme", "authed_dept": 1}, "a list"),
        ("PUT", "/faults", {"x": 1}, "no fault"),
    ],
)
def test_a_wrong_request_is_told_why(api: Api, method: str, path: str, body: Any, why: str) -> None:
    raw = api.raw(method, f"/_sim{path}", **({} if body is None else {"json": body}))
    assert raw.status == 400 and why in raw.json()["error"]


def test_an_unknown_path(api: Api) -> None:
    assert api.get("/topapi/nothing")["errcode"] == 404
    raw = api.raw("GET", "/v1.0/nothing")
    assert raw.status == 404 and raw.json()["code"] == "InvalidAction.NotFound"
