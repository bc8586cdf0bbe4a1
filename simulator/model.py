"""The records of an organisation, as values that never change. Pure: no I/O."""

from dataclasses import dataclass
from typing import NamedTuple

#: DingTalk's id of every organisation's root department.
ROOT = 1


class Membership(NamedTuple):
    """A user in a department: the place in its list (64 bit) and whether they lead it."""

    dept_id: int
    order: int
    leader: bool


class RoleHolding(NamedTuple):
    """A role that a user has, and the departments it lets them manage."""

    role_id: int
    scopes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class User:
    """A member of the organisation. None stands for a field that DingTalk leaves out; hired_date is in ms."""

    userid: str
    unionid: str
    name: str
    title: str
    job_number: str
    mobile: str
    telephone: str
    email: str
    org_email: str
    work_place: str
    remark: str
    departments: tuple[Membership, ...]
    roles: tuple[RoleHolding, ...] = ()
    avatar: str | None = None
    manager_userid: str | None = None
    hired_date: int | None = None
    extension: str | None = None
    state_code: str = "86"
    hide_mobile: bool = False
    active: bool = True
    real_authed: bool = True
    senior: bool = False
    boss: bool = False
    #: 0 none, 1 main administrator, 2 sub-administrator (`sys_level` of listadmin).
    admin_level: int = 0

    def membership(self, dept_id: int) -> Membership | None:
        return next((row for row in self.departments if row.dept_id == dept_id), None)

    def holds(self, role_id: int) -> bool:
        return any(row.role_id == role_id for row in self.roles)


@dataclass(frozen=True, slots=True)
class Department:
    """A department; only the root has no parent. Its managers are the members whose `leader` is true."""

    dept_id: int
    parent_id: int | None
    name: str
    order: int
    auto_add_user: bool = True
    create_dept_group: bool = True


@dataclass(frozen=True, slots=True)
class RoleGroup:
    """A group of roles."""

    group_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Role:
    """A role ("label" in events) in one group."""

    role_id: int
    group_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Leaver:
    """Someone who left: the last state, when (epoch seconds) and why (`leaveReason` of empLeaveRecords)."""

    user: User
    left_at: float
    reason: str
