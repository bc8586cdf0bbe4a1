"""Typed, tolerant reading of DingTalk's API answers, one function for each. Pure: no I/O.

What cannot be read raises msgspec.ValidationError, whose text names the field and never its value.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from msgspec import ValidationError

from workers.lenient import (
    Json,
    as_dept_ids,
    as_flag,
    as_int,
    as_list,
    as_object,
    as_objects,
    as_optional_flag,
    as_optional_int,
    as_text,
    as_userid,
    as_userids,
    pick,
    result_of,
    says_yes,
    text_of,
)
from workers.shapes import (
    Agent,
    Authorization,
    Branch,
    Callback,
    Department,
    FailedList,
    Membership,
    Page,
    PermanentCode,
    RoleGroup,
    RoleName,
    RoleRef,
    RoleRow,
    Scope,
    User,
)

T = TypeVar("T")

_TEXTS = (
    "unionid", "name", "title", "mobile", "state_code", "telephone", "email", "org_email", "work_place", "remark",
    "extension", "job_number", "manager_userid",
)  # fmt: skip
_FLAGS = ("active", "admin", "boss", "senior")
#: The pairs of `{123:456}`, whose keys are not quoted.
_NUMBER_KEYED = re.compile(r"(-?[0-9]+)\"?\s*:\s*\"?(-?\w+)")
#: Today's names of a user's fields by those of pushed rows, in lower case.
_PUSHED_NAMES = {
    **{name: name for name in ("unionid", "name", "mobile", "email", "remark", "active")},
    "position": "title", "jobnumber": "job_number", "statecode": "state_code", "tel": "telephone",
    "orgemail": "org_email", "workplace": "work_place", "extattr": "extension", "hireddate": "hired_date",
    "manageruserid": "manager_userid", "isadmin": "admin", "isboss": "boss", "issenior": "senior",
    "department": "dept_id_list", "roles": "role_list",
}  # fmt: skip


def read_user(answer: Json) -> User:
    """A user of v2/user/get (KB-A/0056)."""
    return _user(result_of(answer), None)


def read_users(answer: Json, dept_id: int, cursor: int, size: int) -> Page[User]:
    """Members of a department, of v2/user/list (KB-A/0062).

    It tells order and leadership for that department alone; in the others the user has order None and does not lead.
    """
    return _page(result_of(answer), lambda item: _user(item, dept_id), cursor, size)


def read_department(answer: Json) -> Department:
    """A department of v2/department/get (KB-A/0081)."""
    result = result_of(answer)
    parent = as_optional_int(result.get("parent_id"), "parent_id")
    return Department(
        dept_id=as_int(result.get("dept_id"), "dept_id"),
        name=as_text(result.get("name"), "name"),
        parent_id=parent if parent is not None and parent > 0 else None,
        order=as_optional_int(result.get("order"), "order"),
        manager_userids=as_userids(result.get("dept_manager_userid_list"), "dept_manager_userid_list"),
        raw=result,
    )


def read_department_ids(answer: Json) -> list[int]:
    """Ids of v2/department/listsubid (KB-A/0083), without DingTalk's special ones below 1."""
    return as_dept_ids(result_of(answer).get("dept_id_list"), "dept_id_list")


def read_branches(answer: Json) -> list[Branch]:
    """Departments of v2/department/listsub (KB-A/0082), without DingTalk's special ones below 1."""
    if "result" not in answer:
        raise ValidationError("result is missing")
    found = [
        Branch(
            dept_id=as_int(item.get("dept_id"), "dept_id"),
            name=as_text(item.get("name"), "name"),
            parent_id=as_optional_int(item.get("parent_id"), "parent_id"),
        )
        for item in as_objects(answer["result"], "result")
    ]
    return [branch for branch in found if branch.dept_id > 0]


def read_userids(answer: Json) -> list[str]:
    """Ids of user/listid (KB-A/0065)."""
    return list(as_userids(result_of(answer).get("userid_list"), "userid_list"))


def read_role_groups(answer: Json, offset: int, size: int) -> Page[RoleGroup]:
    """A page of role/list (KB-A/0089); one that breaks off is none, as half a list would look like deleted roles."""
    result = result_of(answer)
    if result.get("list") is None:
        raise ValidationError("list is missing")
    page = _page(result, _role_group, offset, size)
    if not page.items and says_yes(pick(result, "has_more", "hasMore")):
        raise ValidationError("list is empty, and yet there is more")
    return page


def read_role_members(answer: Json, offset: int, size: int) -> Page[str]:
    """A page of userids of role/simplelist (KB-A/0096)."""

    def userid(item: Any) -> str:
        return as_userid(as_object(item, "list").get("userid"), "userid")

    return _page(result_of(answer), userid, offset, size)


def read_admins(answer: Json) -> list[tuple[str, int]]:
    """Userid and level (1 main, 2 sub) of each admin, of user/listadmin (KB-A/0068)."""
    if "result" not in answer:
        raise ValidationError("result is missing")
    return [
        (as_userid(item.get("userid"), "userid"), as_int(item.get("sys_level"), "sys_level"))
        for item in as_objects(answer["result"], "result")
    ]


def read_scope(answer: Json) -> Scope:
    """What the app may see, of auth/scopes (KB-A/0053)."""
    result = result_of(answer)
    scopes = as_object(result.get("auth_org_scopes"), "auth_org_scopes")
    return Scope(
        users=as_userids(scopes.get("authed_user"), "authed_user"),
        departments=tuple(as_dept_ids(scopes.get("authed_dept"), "authed_dept")),
        user_fields=as_userids(result.get("auth_user_field"), "auth_user_field"),
    )


def read_pushed_user(userid: str, row: Json) -> User:
    """A user of a pushed row (KB-E/0350), whose keys are in lower case; `raw` is what it says, by today's names.

    Two of its fields look like objects and are no JSON as a rule: `{123:false}`.
    """
    body: Json = {name: row[old] for old, name in _PUSHED_NAMES.items() if old in row} | {"userid": userid}
    for old, name, field in (
        ("orderindepts", "dept_order_list", "order"),
        ("isleaderindepts", "leader_in_dept", "leader"),
    ):
        given = row.get(old) or ""
        pairs = given.items() if isinstance(given, dict) else _NUMBER_KEYED.findall(str(given))
        body[name] = [{"dept_id": dept_id, field: value} for dept_id, value in pairs]
    return _user(body, None)


def read_pushed_department(dept_id: int, row: Json) -> Department:
    """A department of a pushed row (KB-E/0350), whose keys are in lower case."""
    parent = as_optional_int(row.get("parentid"), "parentid")
    managers = as_text(row.get("deptmanageruseridlist"), "deptManagerUseridList") or ""
    return Department(
        dept_id=dept_id,
        name=as_text(row.get("name"), "name"),
        parent_id=parent if parent is not None and parent > 0 else None,
        order=as_optional_int(row.get("order"), "order"),
        manager_userids=tuple(userid for userid in managers.split("|") if userid),
        raw=row,
    )


def read_pushed_role(row: Json) -> RoleRow:
    """A role of a pushed row, whose keys are in lower case."""
    group_id = as_optional_int(pick(row, "group_id", "groupid"), "group_id")
    return RoleRow(
        as_text(pick(row, "role_name", "rolename"), "role_name"),
        group_id,
        as_text(pick(row, "group_name", "groupname"), "group_name"),
    )


def read_token(answer: Json) -> tuple[str, int]:
    """An access token and its lifetime in seconds, of gettoken (KB-A/1444)."""
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise ValidationError("access_token is missing")
    return token, as_int(answer.get("expires_in"), "expires_in")


def read_suite_token(answer: Json) -> tuple[str, int]:
    """A suite's access token and its lifetime in seconds, of get_suite_token (KB-A/1445)."""
    return read_token({"access_token": answer.get("suite_access_token"), "expires_in": answer.get("expires_in")})


def read_permanent_code(answer: Json) -> PermanentCode:
    """The permanent code and its corp, of get_permanent_code (KB-E/0240)."""
    corp = as_object(answer.get("auth_corp_info"), "auth_corp_info")
    code, corp_id = as_text(answer.get("permanent_code"), "permanent_code"), as_text(corp.get("corpid"), "corpid")
    if code is None or corp_id is None:
        raise ValidationError("permanent_code or corpid is missing")
    return PermanentCode(code, corp_id)


def read_authorization(answer: Json) -> Authorization:
    """What get_auth_info says (KB-A/0042), and so does the row of an authorisation (KB-E/0350).

    Without a list of agents it says nothing: none at all would mean that the app was removed.
    """
    corp = as_object(answer.get("auth_corp_info"), "auth_corp_info")
    corp_id = as_text(corp.get("corpid"), "corpid")
    if corp_id is None:
        raise ValidationError("corpid is missing")
    listed = as_object(answer.get("auth_info"), "auth_info").get("agent")
    if listed is None:
        raise ValidationError("agent is missing")
    agents = tuple(
        Agent(
            as_int(item.get("agentid"), "agentid"),
            as_text(item.get("agent_name"), "agent_name"),
            as_optional_int(item.get("appid"), "appid"),
        )
        for item in as_objects(listed, "agent")
    )
    return Authorization(corp_id, as_text(corp.get("corp_name"), "corp_name"), agents)


def read_agent_state(answer: Json) -> int:
    """Whether an agent is 0 disabled, 1 normal or 2 not activated, of get_agent (KB-A/0043)."""
    return as_int(answer.get("close"), "close")


def read_callback(answer: Json) -> Callback:
    """The registered callback, of get_call_back (KB-E/0237); it tells the secrets, too."""
    tags = tuple(str(tag) for tag in as_list(answer.get("call_back_tag"), "call_back_tag"))
    url, token, aes_key = (as_text(answer.get(name), name) or "" for name in ("url", "token", "aes_key"))
    return Callback(url, tags, token, aes_key)


def read_nothing(_answer: Json) -> None:
    """Of a call whose success is all that it says."""


def read_failed_list(answer: Json) -> FailedList:
    """A page of either failed list (KB-A/0015); an unreadable item or flag must not cost the others."""
    result = result_of(answer)
    if "failed_list" not in result and text_of(answer, "errcode") != "0":
        raise ValidationError("failed_list is missing")
    more = says_yes(pick(result, "has_more", "hasMore"))
    return FailedList(as_list(result.get("failed_list"), "failed_list"), more)


def _user(item: Any, listed_in: int | None) -> User:
    raw = as_object(item, "user")
    roles = as_objects(raw.get("role_list"), "role_list")
    user = User(
        userid=as_userid(raw.get("userid"), "userid"),
        raw=raw,
        departments=_memberships(raw, listed_in),
        roles=tuple(_role_ref(role) for role in roles),
    )
    for field in _TEXTS:
        if field in raw:
            setattr(user, field, as_text(raw[field], field))
    for field in _FLAGS:
        if raw.get(field) not in (None, ""):
            setattr(user, field, as_flag(raw[field], field))
    if "hired_date" in raw:
        user.hired_date = as_optional_int(raw["hired_date"], "hired_date")
    return user


def _memberships(raw: Json, listed_in: int | None) -> tuple[Membership, ...]:
    """dept_id_list says which; where that is left out, the lists of orders and leaders do."""
    orders = _by_department(raw, "dept_order_list", "order", as_optional_int)
    leads = _by_department(raw, "leader_in_dept", "leader", as_optional_flag)
    if listed_in is not None:
        orders.setdefault(listed_in, as_optional_int(raw.get("dept_order"), "dept_order"))
        leads.setdefault(listed_in, as_optional_flag(raw.get("leader"), "leader"))
    listed = raw.get("dept_id_list")
    ids: Iterable[int] = orders | leads if listed is None else as_dept_ids(listed, "dept_id_list")
    return tuple(Membership(dept_id, orders.get(dept_id), leads.get(dept_id, False)) for dept_id in ids)


def _by_department(raw: Json, name: str, field: str, read: Callable[[Any, str], T]) -> dict[int, T]:
    items = as_objects(raw.get(name), name)
    pairs = ((as_int(item.get("dept_id"), "dept_id"), read(item.get(field), field)) for item in items)
    return {dept_id: value for dept_id, value in pairs if dept_id > 0}


def _role_ref(item: Json) -> RoleRef:
    role = _role_name(item)
    return RoleRef(role.id, role.name, as_text(pick(item, "group_name", "groupName"), "group_name"))


def _role_name(item: Json) -> RoleName:
    return RoleName(
        as_int(pick(item, "id", "role_id", "roleId"), "role id"),
        as_text(pick(item, "name", "role_name", "roleName"), "role name"),
    )


def _role_group(item: Any) -> RoleGroup:
    group = as_object(item, "role group")
    return RoleGroup(
        group_id=as_int(pick(group, "groupId", "group_id"), "groupId"),
        name=as_text(pick(group, "name", "group_name", "groupName"), "name"),
        roles=tuple(_role_name(role) for role in as_objects(group.get("roles"), "roles")),
    )


def _page(result: Json, read: Callable[[Any], T], begin: int, size: int) -> Page[T]:
    """Trusts a returned cursor over counting, and refuses one that stands still: such a list would never end."""
    items = [read(item) for item in as_list(result.get("list"), "list")]
    cursor = as_optional_int(pick(result, "next_cursor", "nextCursor"), "next_cursor")
    more = pick(result, "has_more", "hasMore")
    if not (as_flag(more, "has_more") if more not in (None, "") else cursor is not None or len(items) >= size):
        return Page(items, None)
    if cursor is None:
        # Counting what came skips nothing, should DingTalk give fewer than asked for; an empty page is the end.
        return Page(items, begin + len(items) if items else None)
    if cursor == begin:
        raise ValidationError("next_cursor stands still")
    return Page(items, cursor)
