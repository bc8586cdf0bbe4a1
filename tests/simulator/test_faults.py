"""Faults that can be set while it runs, and the count of calls."""

import time
from typing import Any

import pytest

from simulator.faults import BadFault, CallLog, Faults
from tests.simulator.helpers import Api


def test_by_default_nothing_is_wrong(api: Api) -> None:
    assert api.control("GET", "/faults") == {
        "calls_per_second": None,
        "error_rate": 0.0,
        "latency_ms": 0.0,
        "lag_seconds": 0.0,
        "ban": None,
        "wrap_errors": False,
        "failed_form": "new",
        "lose_rate": 0.0,
        "double_rate": 0.0,
        "shuffle_ms": 0.0,
        "retry_delays": [10.0, 30.0],
    }


@pytest.mark.parametrize(
    "wrong",
    [{"nope": 1}, {"error_rate": 2}, {"ban": "x"}, {"calls_per_second": 0}, {"lag_seconds": 601}, {"retry_delays": 1}],
)
def test_what_cannot_be_set(wrong: dict[str, Any]) -> None:
    faults = Faults()
    with pytest.raises(BadFault):
        faults.set({"latency_ms": 5, **wrong})
    assert faults == Faults()


def test_the_limit_counts_each_app_and_path_by_the_second(api: Api) -> None:
    api.control("PUT", "/faults", {"calls_per_second": 5})
    codes = [api.post("/topapi/user/listadmin")["errcode"] for _ in range(8)]
    assert codes == [0] * 5 + [90018] * 3
    assert api.post("/topapi/role/list")["errcode"] == 0
    counts = api.control("GET", "/calls")
    assert counts["by_app"]["acme"]["/topapi/user/listadmin"] == {"calls": 8, "refused": 3, "peak": 5}
    assert counts["calls"]["/topapi/role/list"] == 1
    assert api.control("DELETE", "/calls")["total"] == 0
    api.control("PUT", "/faults", {"calls_per_second": 1})
    headers = {"x-acs-dingtalk-access-token": api.token}
    raw = [api.raw("GET", "/v1.0/contact/users/x", headers=headers) for _ in range(2)][1]
    assert raw.status == 403 and raw.json()["code"] == "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"


def test_the_window_slides() -> None:
    log = CallLog()
    assert log.admit("a", "/x", 1) and not log.admit("a", "/x", 1) and log.admit("b", "/x", 1)
    deadline = time.monotonic() + 1.05
    while not log.admit("a", "/x", 1):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_gateway_errors_can_come_wrapped(api: Api) -> None:
    api.control("PUT", "/faults", {"wrap_errors": True})
    api.token = "x"
    answer = api.post("/topapi/user/listadmin")
    assert answer["errcode"] == 88 and answer["sub_code"] == "40014" and answer["sub_msg"]


def test_errors_at_a_rate(api: Api) -> None:
    api.control("PUT", "/faults", {"error_rate": 1})
    raws = [api.raw("POST", f"/topapi/user/listadmin?access_token={api.token}") for _ in range(30)]
    seen = {raw.status if raw.status != 200 else raw.json()["errcode"] for raw in raws}
    assert seen == {502, -1, 400001}


def test_a_ban_is_no_errcode(api: Api) -> None:
    api.control("PUT", "/faults", {"ban": "html"})
    raw = api.raw("GET", "/gettoken")
    assert raw.headers["Content-Type"].startswith("text/html") and b"<html" in raw.data
    api.control("PUT", "/faults", {"ban": "json"})
    assert api.get("/gettoken")["status"] == 1111
    api.control("PUT", "/faults", {"ban": None})
    assert api.login()["errcode"] == 0


def test_latency(api: Api) -> None:
    api.control("PUT", "/faults", {"latency_ms": 120})
    begun = time.monotonic()
    api.post("/topapi/user/listadmin")
    assert time.monotonic() - begun >= 0.12
