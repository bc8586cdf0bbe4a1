"""Registration of callbacks, and the list of those that failed (api.md §6)."""

import json
import time
from typing import Any
from urllib.parse import urlsplit

from bridge.crypto import Key
from simulator.apps import Failure, Subscription
from simulator.call import Body, Call, Route
from simulator.callbacks import CHECK_TIMEOUT, Unreachable, WrongReply
from simulator.errors import ApiError
from simulator.params import Params

#: Items that one call of the failed list returns and thereby removes (KB-E/0230).
FAILED_PAGE = 200
#: Seconds that the ISV list of failed callbacks keeps an item (api.md §6).
KEPT = 7 * 86_400
#: Payload names that stand in a failed item, by the item's own name.
_IDS = {"userid": ("UserId", "userId"), "deptid": ("DeptId", "deptId")}


def register_call_back(call: Call) -> Body:
    """Checks the URL at once. One registration for an app: a second one answers 71006."""
    if call.app.registration is not None:
        raise ApiError(71006)
    return _subscribe(call)


def update_call_back(call: Call) -> Body:
    _registered(call)
    return _subscribe(call)


def get_call_back(call: Call) -> Body:
    found = _registered(call)
    return {
        "call_back_tag": list(found.tags or ()),
        "token": found.key.token,
        "aes_key": found.key.aes_key,
        "url": found.url,
    }


def delete_call_back(call: Call) -> Body:
    _registered(call)
    call.app.registration = None
    return {}


def get_call_back_failed_result(call: Call) -> Body:
    """Reading removes what is returned."""
    with call.app.lock:
        page, call.app.failures[:] = call.app.failures[:FAILED_PAGE], call.app.failures[FAILED_PAGE:]
        more = bool(call.app.failures)
    form = call.world.faults.failed_form
    return {"failed_list": [_item(failure, form) for failure in page], "has_more": more}


def failrecord_list(call: Call) -> Body:
    """The ISV's list: pages by `cursor`, the id of the last item seen; `confirm` marks what it returns."""
    asked = call.params.nested("req", 400002)
    tags = asked.texts("tags", 400002)
    size = asked.within("page_size", 1, 100, 400002, 100)
    with call.app.lock:
        found = [failure for failure in call.app.failures if failure.tag in tags and _asked_for(call, asked, failure)]
        if asked.flag("confirm"):
            call.app.confirmed.update(failure.id for failure in found[:size])
    shown = [
        {
            "id": failure.id,
            "call_back_tag": failure.tag,
            "call_back_data": json.dumps(failure.payload, ensure_ascii=False),
            "corpid": failure.corp_id,
            "event_time": failure.event_time,
        }
        for failure in found[:size]
    ]
    return {"failed_list": shown, "has_more": len(found) > size}


def _registered(call: Call) -> Subscription:
    if call.app.registration is None:
        raise ApiError(71007)
    return call.app.registration


def _subscribe(call: Call) -> Body:
    tags = call.params.texts("call_back_tag", 71010)
    token = call.params.text("token", 71010)
    # The API's own rule for tokens is 6 to 63 characters (KB-E/0233).
    if not 6 <= len(token) < 64:
        raise ApiError(71010)
    try:
        key = Key(token, call.params.text("aes_key", 71010))
    except ValueError:
        raise ApiError(71010) from None
    # API registrations are owned by the corp, those of a suite by the suite (crypto.md §7).
    owner = call.app.client_id if call.app.is_suite else call.corp_id
    wanted = Subscription(_url(call.params.text("url", 71010)), key, owner, tuple(tags))
    try:
        call.world.deliveries.check(wanted, {"EventType": "check_url"}, CHECK_TIMEOUT)
    except Unreachable:
        raise ApiError(71012) from None
    except WrongReply:
        raise ApiError(71009) from None
    call.app.registration = wanted
    return {}


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ApiError(71011)
    return text


def _asked_for(call: Call, asked: Params, failure: Failure) -> bool:
    """status: 0 confirmed, 1 not; begin_time and end_time are epoch seconds."""
    confirmed = failure.id in call.app.confirmed
    seconds = failure.event_time / 1000
    earliest = max(time.time() - KEPT, asked.integer("begin_time", default=0))
    return (
        failure.id > asked.integer("cursor", default=0)
        and confirmed == (asked.integer("status", default=1) == 0)
        and earliest <= seconds <= asked.integer("end_time", default=2**53)
    )


def _item(failure: Failure, form: str) -> Body:
    """One item: as documented today, flat as in 2016, or as the .NET SDK has it: JSON text under the tag or `data`."""
    told = {name: ids for name, keys in _IDS.items() for key in keys if (ids := failure.payload.get(key)) is not None}
    head: Body = {"call_back_tag": failure.tag, "event_time": failure.event_time}
    if form == "2016":
        return head | {"userid": [], "deptid": [], "corpid": failure.corp_id} | told | _labels(failure)
    data = _data(failure, told) | {"corpid": failure.corp_id}
    if form == "new":
        return head | {failure.tag: data}
    return head | {failure.tag if form == "string" else "data": json.dumps(data, ensure_ascii=False)}


def _data(failure: Failure, told: Body) -> Body:
    """Users stand in the item itself, roles under roleLabelChange, the rest under callbackData (KB-A/0015)."""
    if "userid" in told:
        return told
    if failure.tag.startswith("label_"):
        return {"roleLabelChange": _labels(failure)}
    return {"callbackData": told}


def _labels(failure: Failure) -> dict[str, Any]:
    """A role event's own fields."""
    if not failure.tag.startswith("label_"):
        return {}
    names = ("userIdList", "labelIdList", "action", "scope", "preLabelList", "postLabelList")
    wanted = {*names, *(name[0].upper() + name[1:] for name in names)}
    return {name: value for name, value in failure.payload.items() if name in wanted}


ROUTES = (
    Route("/call_back/register_call_back", register_call_back, reads=False),
    Route("/call_back/update_call_back", update_call_back, reads=False),
    Route("/call_back/get_call_back", get_call_back, "GET", reads=False),
    Route("/call_back/delete_call_back", delete_call_back, "GET", reads=False),
    Route("/call_back/get_call_back_failed_result", get_call_back_failed_result, "GET", reads=False),
    Route("/topapi/callback/failrecord/list", failrecord_list, opened_by="either", reads=False),
)
