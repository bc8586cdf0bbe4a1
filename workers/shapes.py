"""What DingTalk's answers tell, as types.

Absent is not empty: a field that was left out is UNSET, an empty one None.
"""

from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType

from workers.lenient import Json

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
