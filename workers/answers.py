"""Typed, tolerant decoding of DingTalk's API answers. Pure: no I/O.

DingTalk's documentation shows quoted numbers, objects in place of arrays and two casings of a key; all of it is taken
(api.md). Absent is not empty: a field that was left out is UNSET, an empty one None. What cannot be read raises
msgspec.ValidationError, whose text names the field and never its value.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType, ValidationError

Json: TypeAlias = dict[str, Any]
Text: TypeAlias = str | UnsetType | None
T = TypeVar("T")


class Membership(Struct, frozen=True):
    """A user in a department; `order` is exact, beyond 2^53 too."""

    dept_id: int
    order: int | None
    leader: bool


class RoleRef(Struct, frozen=True):
    """A role as a user's own answer names it."""

    id: int
    name: str | None
    group_name: str | None


class User(Struct):
    """A user; `hired_date` in ms since 1970, `raw` the object as it came."""

    userid: str
    raw: Json
    departments: tuple[Membership, ...]
    roles: tuple[RoleRef, ...]
    unionid: Text = UNSET
    name: Text = UNSET
    title: Text = UNSET
    mobile: Text = UNSET
    state_code: Text = UNSET
    telephone: Text = UNSET
    email: Text = UNSET
    org_email: Text = UNSET
    work_place: Text = UNSET
    remark: Text = UNSET
    extension: Text = UNSET
    job_number: Text = UNSET
    manager_userid: Text = UNSET
    hired_date: int | UnsetType | None = UNSET
    active: bool | UnsetType = UNSET
    admin: bool | UnsetType = UNSET
    boss: bool | UnsetType = UNSET
    senior: bool | UnsetType = UNSET
    #: 1 main, 2 sub; of user/listadmin, as no user's own answer tells it.
    admin_level: int | None = None


class Department(Struct):
    """A department; the root (1) has no parent."""

    dept_id: int
    name: str | None
    parent_id: int | None
    order: int | None
    manager_userids: tuple[str, ...]
    raw: Json


class Branch(Struct, frozen=True):
    """A department as the list of those below its parent tells it."""

    dept_id: int
    name: str | None
    parent_id: int | None


class RoleName(Struct, frozen=True):
    """A role as the role list names it."""

    id: int
    name: str | None


class RoleGroup(Struct):
    """A group of the role list."""

    group_id: int
    name: str | None
    roles: tuple[RoleName, ...]


class RoleRow(Struct, frozen=True):
    """A role as a pushed row tells it."""

    name: str | None
    group_id: int | None
    group_name: str | None


class SomeRoles(Struct, frozen=True):
    """Some roles of a corp, where its role list cannot be read.

    What the newest pushed row says of each and that row's place, None where it says that it is gone; `named` are known
    by their id alone.
    """

    told: dict[int, tuple[str, RoleRow | None]]
    named: tuple[int, ...] = ()


class CorpName(Struct, frozen=True):
    """What a pushed row tells of a corp itself."""

    name: str | None


class Scope(Struct):
    """What the app may see: these users, these departments with all below them, these fields of a user."""

    users: tuple[str, ...]
    departments: tuple[int, ...]
    user_fields: tuple[str, ...]


class Agent(Struct, frozen=True):
    """One micro-app of a suite in a corp."""

    agentid: int
    name: str | None
    appid: int | None


class Authorization(Struct, frozen=True):
    """What a corp that authorised a suite tells of itself."""

    corp_id: str
    corp_name: str | None
    agents: tuple[Agent, ...]


class PermanentCode(Struct, frozen=True):
    """What a temporary authorisation code is exchanged for, once."""

    code: str
    corp_id: str

    def __repr__(self) -> str:
        return f"PermanentCode(corp_id={self.corp_id!r})"


class Callback(Struct, frozen=True):
    """A callback that is registered by API: where it goes, for which events, under which pair of keys."""

    url: str
    tags: tuple[str, ...]
    token: str
    aes_key: str

    def __repr__(self) -> str:
        return f"Callback(url={self.url!r})"


class FailedList(Struct):
    """A page of the callbacks that failed, each item as it came, and whether there are more."""

    items: list[Any]
    more: bool


class Page(Struct, Generic[T]):
    """A part of a list and where the next part begins; None is the end."""

    items: list[T]
    next: int | None


_TEXTS = (
    "unionid", "name", "title", "mobile", "state_code", "telephone", "email", "org_email", "work_place", "remark",
    "extension", "job_number", "manager_userid",
)  # fmt: skip
_FLAGS = ("active", "admin", "boss", "senior")
_FLAG_WORDS = {"true": True, "1": True, "false": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]+")
#: The pairs of `{123:456}`, whose keys are not quoted.
_NUMBER_KEYED = re.compile(r"([0-9]+)\"?\s*:\s*\"?(-?\w+)")
#: Today's names of a user's fields by those of pushed rows, in lower case.
_PUSHED_NAMES = {
    **{name: name for name in ("unionid", "name", "mobile", "email", "remark", "active")},
    "position": "title", "jobnumber": "job_number", "statecode": "state_code", "tel": "telephone",
    "orgemail": "org_email", "workplace": "work_place", "extattr": "extension", "hireddate": "hired_date",
    "manageruserid": "manager_userid", "isadmin": "admin", "isboss": "boss", "issenior": "senior",
    "department": "dept_id_list", "roles": "role_list",
}  # fmt: skip


def decode(body: bytes) -> Json:
    """The JSON object in a body; raises ValueError when there is none.

    NUL is replaced, as no SQL text can hold it, and so is half an emoji, which a name that was cut short may end with.
    """
    if b"\\u0000" in body:
        body = body.replace(b"\\u0000", b"\\ufffd")
    try:
        return _object(_lenient(body), "answer")
    except RecursionError:
        raise ValueError("nested too deep") from None


def _lenient(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        lenient = json.dumps(json.loads(body.decode("utf-8-sig", "replace")), ensure_ascii=False)
        return msgspec.json.decode(lenient.encode("utf-8", "replace"))


def read_user(answer: Json) -> User:
    """A user of v2/user/get (KB-A/0056)."""
    return _user(_result(answer), None)


def read_users(answer: Json, dept_id: int, cursor: int, size: int) -> Page[User]:
    """Members of a department, of v2/user/list (KB-A/0062).

    It tells order and leadership for that department alone; in the others the user has order None and does not lead.
    """
    return _page(_result(answer), lambda item: _user(item, dept_id), cursor, size)


def read_department(answer: Json) -> Department:
    """A department of v2/department/get (KB-A/0081)."""
    result = _result(answer)
    parent = _optional_int(result.get("parent_id"), "parent_id")
    return Department(
        dept_id=_int(result.get("dept_id"), "dept_id"),
        name=_text(result.get("name"), "name"),
        parent_id=parent if parent is not None and parent > 0 else None,
        order=_optional_int(result.get("order"), "order"),
        manager_userids=_userids(result.get("dept_manager_userid_list"), "dept_manager_userid_list"),
        raw=result,
    )


def read_department_ids(answer: Json) -> list[int]:
    """Ids of v2/department/listsubid (KB-A/0083), without DingTalk's special ones below 1."""
    return _dept_ids(_result(answer).get("dept_id_list"), "dept_id_list")


def read_branches(answer: Json) -> list[Branch]:
    """Departments of v2/department/listsub (KB-A/0082), without DingTalk's special ones below 1."""
    if "result" not in answer:
        raise ValidationError("result is missing")
    found = [
        Branch(
            dept_id=_int(item.get("dept_id"), "dept_id"),
            name=_text(item.get("name"), "name"),
            parent_id=_optional_int(item.get("parent_id"), "parent_id"),
        )
        for item in _objects(answer["result"], "result")
    ]
    return [branch for branch in found if branch.dept_id > 0]


def read_userids(answer: Json) -> list[str]:
    """Ids of user/listid (KB-A/0065)."""
    return list(_userids(_result(answer).get("userid_list"), "userid_list"))


def read_role_groups(answer: Json, offset: int, size: int) -> Page[RoleGroup]:
    """A page of role/list (KB-A/0089)."""
    return _page(_result(answer), _role_group, offset, size)


def read_role_members(answer: Json, offset: int, size: int) -> Page[str]:
    """A page of userids of role/simplelist (KB-A/0096)."""
    return _page(_result(answer), lambda item: _userid(_object(item, "list").get("userid"), "userid"), offset, size)


def read_admins(answer: Json) -> list[tuple[str, int]]:
    """Userid and level (1 main, 2 sub) of each admin, of user/listadmin (KB-A/0068)."""
    if "result" not in answer:
        raise ValidationError("result is missing")
    return [
        (_userid(item.get("userid"), "userid"), _int(item.get("sys_level"), "sys_level"))
        for item in _objects(answer["result"], "result")
    ]


def read_scope(answer: Json) -> Scope:
    """What the app may see, of auth/scopes (KB-A/0053)."""
    result = _result(answer)
    scopes = _object(result.get("auth_org_scopes"), "auth_org_scopes")
    return Scope(
        users=_userids(scopes.get("authed_user"), "authed_user"),
        departments=tuple(_dept_ids(scopes.get("authed_dept"), "authed_dept")),
        user_fields=_userids(result.get("auth_user_field"), "auth_user_field"),
    )


def read_pushed_user(userid: str, row: Json) -> User:
    """A user of a pushed row (KB-E/0350), whose keys are in lower case; `raw` is what it says, by today's names.

    Two of its fields look like objects and are no JSON: `{123:false}`.
    """
    body: Json = {name: row[old] for old, name in _PUSHED_NAMES.items() if old in row} | {"userid": userid}
    for old, name, field in (
        ("orderindepts", "dept_order_list", "order"),
        ("isleaderindepts", "leader_in_dept", "leader"),
    ):
        pairs = _NUMBER_KEYED.findall(str(row.get(old) or ""))
        body[name] = [{"dept_id": dept_id, field: value} for dept_id, value in pairs]
    return _user(body, None)


def read_pushed_department(dept_id: int, row: Json) -> Department:
    """A department of a pushed row (KB-E/0350), whose keys are in lower case."""
    parent = _optional_int(row.get("parentid"), "parentid")
    managers = _text(row.get("deptmanageruseridlist"), "deptManagerUseridList") or ""
    return Department(
        dept_id=dept_id,
        name=_text(row.get("name"), "name"),
        parent_id=parent if parent is not None and parent > 0 else None,
        order=_optional_int(row.get("order"), "order"),
        manager_userids=tuple(userid for userid in managers.split("|") if userid),
        raw=row,
    )


def read_pushed_role(row: Json) -> RoleRow:
    """A role of a pushed row, whose keys are in lower case."""
    group_id = _optional_int(_pick(row, "group_id", "groupid"), "group_id")
    return RoleRow(
        _text(_pick(row, "role_name", "rolename"), "role_name"),
        group_id,
        _text(_pick(row, "group_name", "groupname"), "group_name"),
    )


def read_token(answer: Json) -> tuple[str, int]:
    """An access token and its lifetime in seconds, of gettoken (KB-A/1444)."""
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise ValidationError("access_token is missing")
    return token, _int(answer.get("expires_in"), "expires_in")


def read_suite_token(answer: Json) -> tuple[str, int]:
    """A suite's access token and its lifetime in seconds, of get_suite_token (KB-A/1445)."""
    return read_token({"access_token": answer.get("suite_access_token"), "expires_in": answer.get("expires_in")})


def read_permanent_code(answer: Json) -> PermanentCode:
    """The permanent code and its corp, of get_permanent_code (KB-E/0240)."""
    corp = _object(answer.get("auth_corp_info"), "auth_corp_info")
    code, corp_id = _text(answer.get("permanent_code"), "permanent_code"), _text(corp.get("corpid"), "corpid")
    if code is None or corp_id is None:
        raise ValidationError("permanent_code or corpid is missing")
    return PermanentCode(code, corp_id)


def read_authorization(answer: Json) -> Authorization:
    """What get_auth_info says (KB-A/0042), and so does the row of an authorisation (KB-E/0350)."""
    corp = _object(answer.get("auth_corp_info"), "auth_corp_info")
    corp_id = _text(corp.get("corpid"), "corpid")
    if corp_id is None:
        raise ValidationError("corpid is missing")
    info = answer.get("auth_info")
    listed = _objects(_object(info, "auth_info").get("agent"), "agent") if info else []
    agents = tuple(
        Agent(
            _int(item.get("agentid"), "agentid"),
            _text(item.get("agent_name"), "agent_name"),
            _optional_int(item.get("appid"), "appid"),
        )
        for item in listed
    )
    return Authorization(corp_id, _text(corp.get("corp_name"), "corp_name"), agents)


def read_agent_state(answer: Json) -> int:
    """Whether an agent is 0 disabled, 1 normal or 2 not activated, of get_agent (KB-A/0043)."""
    return _int(answer.get("close"), "close")


def read_callback(answer: Json) -> Callback:
    """The registered callback, of get_call_back (KB-E/0237); it tells the secrets, too."""
    tags = tuple(str(tag) for tag in _list(answer.get("call_back_tag"), "call_back_tag"))
    url, token, aes_key = (_text(answer.get(name), name) or "" for name in ("url", "token", "aes_key"))
    return Callback(url, tags, token, aes_key)


def read_nothing(_answer: Json) -> None:
    """Of a call whose success is all that it says."""


def read_failed_list(answer: Json) -> FailedList:
    """A page of either failed list (KB-A/0015); an unreadable item or flag must not cost the others."""
    result = _result(answer)
    if "failed_list" not in result and text_of(answer, "errcode") != "0":
        raise ValidationError("failed_list is missing")
    more = str(_pick(result, "has_more", "hasMore")).lower()
    return FailedList(_list(result.get("failed_list"), "failed_list"), _FLAG_WORDS.get(more, False))


def text_of(answer: Json, field: str) -> str:
    """A field as text, "" where it is absent: codes and messages come as strings or numbers."""
    return _text(answer.get(field), field) or ""


def _user(item: Any, listed_in: int | None) -> User:
    raw = _object(item, "user")
    roles = _objects(raw.get("role_list"), "role_list")
    user = User(
        userid=_userid(raw.get("userid"), "userid"),
        raw=raw,
        departments=_memberships(raw, listed_in),
        roles=tuple(_role_ref(role) for role in roles),
    )
    for field in _TEXTS:
        if field in raw:
            setattr(user, field, _text(raw[field], field))
    for field in _FLAGS:
        if raw.get(field) not in (None, ""):
            setattr(user, field, _flag(raw[field], field))
    if "hired_date" in raw:
        user.hired_date = _optional_int(raw["hired_date"], "hired_date")
    return user


def _memberships(raw: Json, listed_in: int | None) -> tuple[Membership, ...]:
    """dept_id_list says which; where that is left out, the lists of orders and leaders do."""
    orders = _by_department(raw, "dept_order_list", "order", _optional_int)
    leads = _by_department(raw, "leader_in_dept", "leader", _optional_flag)
    if listed_in is not None:
        orders.setdefault(listed_in, _optional_int(raw.get("dept_order"), "dept_order"))
        leads.setdefault(listed_in, _optional_flag(raw.get("leader"), "leader"))
    listed = raw.get("dept_id_list")
    ids: Iterable[int] = orders | leads if listed is None else _dept_ids(listed, "dept_id_list")
    return tuple(Membership(dept_id, orders.get(dept_id), leads.get(dept_id, False)) for dept_id in ids)


def _by_department(raw: Json, name: str, field: str, read: Callable[[Any, str], T]) -> dict[int, T]:
    items = _objects(raw.get(name), name)
    pairs = ((_int(item.get("dept_id"), "dept_id"), read(item.get(field), field)) for item in items)
    return {dept_id: value for dept_id, value in pairs if dept_id > 0}


def _role_ref(item: Json) -> RoleRef:
    role = _role_name(item)
    return RoleRef(role.id, role.name, _text(_pick(item, "group_name", "groupName"), "group_name"))


def _role_name(item: Json) -> RoleName:
    return RoleName(
        _int(_pick(item, "id", "role_id", "roleId"), "role id"),
        _text(_pick(item, "name", "role_name", "roleName"), "role name"),
    )


def _role_group(item: Any) -> RoleGroup:
    group = _object(item, "role group")
    return RoleGroup(
        group_id=_int(_pick(group, "groupId", "group_id"), "groupId"),
        name=_text(_pick(group, "name", "group_name", "groupName"), "name"),
        roles=tuple(_role_name(role) for role in _objects(group.get("roles"), "roles")),
    )


def _page(result: Json, read: Callable[[Any], T], begin: int, size: int) -> Page[T]:
    """Trusts a returned cursor over counting, and refuses one that stands still: such a list would never end."""
    items = [read(item) for item in _list(result.get("list"), "list")]
    cursor = _optional_int(_pick(result, "next_cursor", "nextCursor"), "next_cursor")
    more = _pick(result, "has_more", "hasMore")
    if not (_flag(more, "has_more") if more not in (None, "") else cursor is not None or len(items) >= size):
        return Page(items, None)
    if cursor is None:
        # Counting what came skips nothing, should DingTalk give fewer than asked for; an empty page is the end.
        return Page(items, begin + len(items) if items else None)
    if cursor == begin:
        raise ValidationError("next_cursor stands still")
    return Page(items, cursor)


def _result(answer: Json) -> Json:
    return _object(answer["result"], "result") if "result" in answer else answer


def _pick(item: Json, *names: str) -> Any:
    return next((item[name] for name in names if name in item), None)


def _parsed(value: Any, field: str) -> Any:
    """JSON text where a list or an object is meant."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise ValidationError(f"{field} is no JSON") from None


def _object(value: Any, field: str) -> Json:
    value = _parsed(value, field)
    if not isinstance(value, dict):
        raise ValidationError(f"{field} is no object")
    return value


def _list(value: Any, field: str) -> list[Any]:
    value = _parsed(value, field)
    if isinstance(value, list):
        return value
    return [] if value in (None, "", {}) else [value]


def _objects(value: Any, field: str) -> list[Json]:
    return [_object(item, field) for item in _list(value, field)]


def _dept_ids(value: Any, field: str) -> list[int]:
    ids = dict.fromkeys(_int(item, field) for item in _list(value, field))
    return [dept_id for dept_id in ids if dept_id > 0]


def _userids(value: Any, field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_userid(item, field) for item in _list(value, field)))


def _userid(value: Any, field: str) -> str:
    if isinstance(value, str) and value:
        return value
    if type(value) is int:
        return str(value)
    raise ValidationError(f"{field} is no id")


def _text(value: Any, field: str) -> str | None:
    if isinstance(value, str):
        return value or None
    if value in (None, {}, []):
        return None
    return msgspec.json.encode(value).decode()


def _optional_int(value: Any, field: str) -> int | None:
    return None if value in (None, "") else _int(value, field)


def _int(value: Any, field: str) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValidationError(f"{field} is no whole number")


def _optional_flag(value: Any, field: str) -> bool:
    return value not in (None, "") and _flag(value, field)


def _flag(value: Any, field: str) -> bool:
    if isinstance(value, bool):
        return value
    word = _FLAG_WORDS.get(str(value).lower())
    if word is None:
        raise ValidationError(f"{field} is neither true nor false")
    return word
