"""Registration by API, and reading what failed."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simulator.server import Simulator
from tests.simulator.helpers import AES_KEY, CORP, TOKEN, Api, Receiver

TAGS = ["user_add_org", "org_dept_create"]


@pytest.fixture
def corp_receiver() -> Iterator[Receiver]:
    """API registrations are owned by the corp."""
    found = Receiver(CORP)
    yield found
    found.close()


def body(url: str, **other: Any) -> dict[str, Any]:
    return {"call_back_tag": TAGS, "token": TOKEN, "aes_key": AES_KEY, "url": url} | other


def test_register_checks_the_url_and_then_sends_only_the_tags(
    sim: Simulator, api: Api, corp_receiver: Receiver
) -> None:
    assert api.post("/call_back/register_call_back", body(corp_receiver.url))["errcode"] == 0
    assert corp_receiver.messages == [{"EventType": "check_url"}]
    for kind in ("org_dept_create", "org_dept_modify", "label_conf_add"):
        sim.change("acme", kind)
    assert sim.deliveries.wait_idle(10)
    assert [message["EventType"] for message in corp_receiver.messages] == ["check_url", "org_dept_create"]
    assert "DeptId" in corp_receiver.messages[1]


def test_one_registration_for_an_app(api: Api, corp_receiver: Receiver) -> None:
    for path in ("/call_back/get_call_back", "/call_back/delete_call_back"):
        assert api.get(path)["errcode"] == 71007
    assert api.post("/call_back/update_call_back", body(corp_receiver.url))["errcode"] == 71007
    api.post("/call_back/register_call_back", body(corp_receiver.url))
    assert api.post("/call_back/register_call_back", body(corp_receiver.url))["errcode"] == 71006
    shown = api.get("/call_back/get_call_back")
    assert {name: shown[name] for name in body("")} == body(corp_receiver.url)
    assert api.post("/call_back/update_call_back", body(corp_receiver.url + "?x=1"))["errcode"] == 0
    assert api.get("/call_back/get_call_back")["url"].endswith("?x=1")
    assert api.get("/call_back/delete_call_back")["errcode"] == 0
    assert api.get("/call_back/get_call_back")["errcode"] == 71007


def test_what_register_refuses(api: Api, corp_receiver: Receiver) -> None:
    url = corp_receiver.url
    wrong: list[tuple[int, dict[str, Any]]] = [
        (71010, body(url, token="short")),
        (71010, body(url, aes_key="short")),
        (71010, body(url, call_back_tag=[])),
        (71010, {"url": url}),
        (71011, body("ftp://x/y")),
        (71012, body("http://127.0.0.1:1/nobody")),
    ]
    for errcode, asked in wrong:
        assert api.post("/call_back/register_call_back", asked)["errcode"] == errcode
    corp_receiver.answers = [b"success", 302]
    assert api.post("/call_back/register_call_back", body(url))["errcode"] == 71009
    assert api.post("/call_back/register_call_back", body(url))["errcode"] == 71012
    assert api.get("/call_back/get_call_back")["errcode"] == 71007


def fail(sim: Simulator, tag: str, payload: dict[str, Any]) -> int:
    born = time.time_ns() // 1_000_000
    sim.app("acme").give_up(tag, CORP, born, {"EventType": tag, **payload})
    return born


def failed(api: Api, form: str = "new") -> dict[str, Any]:
    api.control("PUT", "/faults", {"failed_form": form})
    return api.get("/call_back/get_call_back_failed_result")


def test_the_failed_list_is_empty_and_reading_clears_it(sim: Simulator, api: Api) -> None:
    empty = failed(api)
    assert empty["failed_list"] == [] and empty["has_more"] is False
    for number in range(250):
        fail(sim, "user_add_org", {"UserId": [str(number)]})
    first, second = failed(api), failed(api)
    assert len(first["failed_list"]) == 200 and first["has_more"] is True
    assert len(second["failed_list"]) == 50 and second["has_more"] is False
    assert failed(api)["failed_list"] == []


def test_the_forms(sim: Simulator, api: Api) -> None:
    born = fail(sim, "user_add_org", {"userId": ["a"]})
    fail(sim, "label_conf_add", {"LabelIdList": [7], "scope": "1"})
    fail(sim, "org_dept_create", {"DeptId": [5]})
    user, label, department = failed(api)["failed_list"]
    assert user == {
        "call_back_tag": "user_add_org",
        "event_time": born,
        "user_add_org": {"userid": ["a"], "corpid": CORP},
    }
    assert label["label_conf_add"] == {"roleLabelChange": {"LabelIdList": [7], "scope": "1"}, "corpid": CORP}
    assert department["org_dept_create"] == {"callbackData": {"deptid": [5]}, "corpid": CORP}
    born = fail(sim, "user_add_org", {"UserId": ["a"]})
    flat = {"event_time": born, "call_back_tag": "user_add_org", "userid": ["a"], "deptid": [], "corpid": CORP}
    assert failed(api, "2016")["failed_list"] == [flat]
    fail(sim, "user_add_org", {"UserId": ["a"]})
    assert json.loads(failed(api, "string")["failed_list"][0]["user_add_org"]) == {"userid": ["a"], "corpid": CORP}
    fail(sim, "user_add_org", {"UserId": ["a"]})
    (item,) = failed(api, "data")["failed_list"]
    assert json.loads(item["data"]) == {"userid": ["a"], "corpid": CORP} and "user_add_org" not in item


def test_the_isv_list_pages_and_confirms(sim: Simulator, api: Api) -> None:
    for number in range(5):
        fail(sim, "user_add_org", {"UserId": [str(number)]})
    path = "/topapi/callback/failrecord/list"
    asked = {"tags": ["user_add_org"], "cursor": 0, "status": 1, "page_size": 3}
    page = api.post(path, {"req": asked})
    assert len(page["failed_list"]) == 3 and page["has_more"] is True
    item = page["failed_list"][0]
    assert json.loads(item["call_back_data"])["UserId"] == ["0"] and item["corpid"] == CORP
    rest = api.post(path, {"req": json.dumps(asked | {"cursor": page["failed_list"][-1]["id"], "confirm": True})})
    assert len(rest["failed_list"]) == 2 and rest["has_more"] is False
    assert len(api.post(path, {"req": asked})["failed_list"]) == 3
    assert len(api.post(path, {"req": asked | {"status": 0}})["failed_list"]) == 2
    assert api.post(path, {"req": asked | {"page_size": 101}})["errcode"] == 400002
    assert api.post(path, {"req": "x"})["errcode"] == 400002
