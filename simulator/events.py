"""What happened, and the two generations of payload that tell of it. Pure: no I/O.

Sources: events.md §1 — "A" as captured in 2021 and sent to API registrations, "B" as documented since 2022.
"""

import uuid
from dataclasses import dataclass
from typing import Any, Literal

Generation = Literal["A", "B"]
Payload = dict[str, Any]

#: The contact events of an internal app.
CONTACT_EVENTS = (
    "user_add_org",
    "user_modify_org",
    "user_leave_org",
    "user_active_org",
    "org_admin_add",
    "org_admin_remove",
    "org_dept_create",
    "org_dept_modify",
    "org_dept_remove",
    "org_change",
    "org_remove",
    "label_user_change",
    "label_conf_add",
    "label_conf_modify",
    "label_conf_del",
)
#: Who did it is told of these alone.
_WITH_OPERATOR = ("user_add_org", "user_modify_org", "user_leave_org")
#: In generation B these carry the time a second time, as a string.
_WITH_TIME_STRING = (*_WITH_OPERATOR, "org_admin_add", "org_admin_remove")


@dataclass(frozen=True, slots=True)
class Diff:
    """Some fields of one user before and after, by the event's own names; a missing one is empty."""

    userid: str
    before: dict[str, str]
    after: dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """One happening; `born` in ms. `labels` are roles or role groups, as the payload does not say which."""

    type: str
    born: int
    users: tuple[str, ...] = ()
    departments: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    action: str | None = None
    operator: str | None = None
    diffs: tuple[Diff, ...] = ()
    label_before: str | None = None
    label_after: str | None = None
    #: What a deleted role or group took with it; never told in the payload.
    roles_gone: tuple[int, ...] = ()


def payload(event: Event, corp_id: str, generation: Generation) -> Payload:
    """The decrypted message, with new ids each time it is made."""
    return _first(event, corp_id) if generation == "A" else _second(event, corp_id)


def _first(event: Event, corp_id: str) -> Payload:
    told: Payload = {"EventType": event.type, "CorpId": corp_id, "TimeStamp": str(event.born)}
    if event.type == "label_user_change":
        told |= {"UserIdList": list(event.users), "LabelIdList": list(event.labels), "action": event.action}
    elif event.labels:
        told |= {"LabelIdList": list(event.labels), "scope": "1"}
    elif event.users:
        told["UserId"] = list(event.users)
    elif event.departments:
        told["DeptId"] = list(event.departments)
    if event.label_before is not None:
        told |= {"PreLabelList": [event.label_before], "PostLabelList": [event.label_after]}
    if event.operator and event.type in _WITH_OPERATOR:
        told["OptStaffId"] = event.operator
    return told


def _second(event: Event, corp_id: str) -> Payload:
    told: Payload = {
        "EventType": event.type,
        "EventTime": event.born,
        "CorpId": corp_id,
        "BizId": uuid.uuid4().hex,
        "eventId": uuid.uuid4().hex,
    }
    if event.type == "label_user_change":
        told |= {"userIdList": list(event.users), "labelIdList": list(event.labels), "action": event.action}
    elif event.labels:
        # The documented label_conf_del shows no scope.
        told |= {"labelIdList": list(event.labels)} | ({} if event.type == "label_conf_del" else {"scope": "1"})
    elif event.users:
        told["userId"] = list(event.users)
    elif event.departments:
        told["deptId"] = list(event.departments)
    if event.label_before is not None:
        # The documentation has these the other way round than the captures of generation A.
        told |= {"preLabelList": [event.label_after], "postLabelList": [event.label_before]}
    if event.type in _WITH_TIME_STRING:
        told["timeStamp"] = str(event.born)
    if event.diffs:
        told["diffInfo"] = _diff_info(event)
    if event.operator and event.type in _WITH_OPERATOR:
        told["optStaffId"] = event.operator
    return told


def _diff_info(event: Event) -> Any:
    """An object in the HTTP documentation, an array in Stream samples: both forms are to be met."""
    told = [{"prev": diff.before, "curr": diff.after, "userid": diff.userid} for diff in event.diffs]
    return told if len(told) > 1 or event.born % 2 else told[0]
