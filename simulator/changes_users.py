"""Changes to people: they join, change, leave, activate and become administrators. Pure: no I/O."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulator.edit import Edit, ImpossibleChange, leads
from simulator.model import Leaver, Membership, User
from simulator.seed import DAY, FIRST_HIRING, new_extension, new_order, new_user, person_name
from simulator.words import PLACES, TITLES

#: `leaveReason` of empLeaveRecords.
REASONS = ("delete", "leave", "oapi", "cancel", "unknown")


def user_add_org(edit: Edit, named: str | None) -> None:
    """One to three people join, in one event; sometimes it is someone who had left."""
    count = 1 if named is not None or edit.rng.random() < 0.85 else edit.rng.randrange(2, 4)
    edit.tell("user_add_org", [_join(edit, named).userid for _ in range(count)])


def user_modify_org(edit: Edit, named: str | None) -> None:
    """Fields, departments, or the place and leadership in one department."""
    before = edit.user(named)
    change = edit.rng.choices((_fields, _departments, _standing), (65, 20, 15))[0]
    edit.rewrite([(before, change(edit, before))])


def user_leave_org(edit: Edit, named: str | None) -> None:
    """Someone leaves; whoever reported to them loses their manager. The main administrator stays."""
    user = edit.user(named) if named is not None else _someone_else(edit)
    if user.admin_level == 1:
        raise ImpossibleChange("the main administrator cannot leave the organisation")
    edit.tenant.leavers[user.userid] = Leaver(user, time.time(), edit.rng.choice(REASONS))
    reports = [edit.tenant.users.rows[userid] for userid in edit.tenant.reports.get(user.userid, ())]
    edit.tenant.drop_user(user.userid)
    edit.tell("user_leave_org", [user.userid])
    edit.tell_of_managers(leads(user))
    edit.rewrite([(report, replace(report, manager_userid=None)) for report in reports if report.userid != user.userid])


def user_active_org(edit: Edit, named: str | None) -> None:
    """An inactive user signs in; where everyone is active, somebody joins first."""
    if named is None and not edit.tenant.inactive:
        newcomer = replace(_join(edit, None), active=False)
        edit.tenant.put_user(newcomer)
        edit.tell("user_add_org", [newcomer.userid])
    user = edit.user(named if named is not None else edit.tenant.inactive.draw(edit.rng))
    edit.tenant.put_user(replace(user, active=True, real_authed=True))
    edit.tell("user_active_org", [user.userid])


def org_admin_add(edit: Edit, named: str | None) -> None:
    """Someone becomes a sub-administrator."""
    user = edit.user(named) if named is not None else _someone_else(edit)
    if not user.admin_level:
        edit.tenant.put_user(replace(user, admin_level=2))
    edit.tell("org_admin_add", [user.userid])


def org_admin_remove(edit: Edit, named: str | None) -> None:
    """A sub-administrator is none any more; where there is none, one is made first."""
    subs = [userid for userid in edit.tenant.admins if edit.tenant.users.rows[userid].admin_level == 2]
    if named is None and not subs:
        org_admin_add(edit, None)
        subs = list(edit.events[-1].users)
    user = edit.user(named if named is not None else edit.rng.choice(subs))
    if user.admin_level != 2:
        raise ImpossibleChange(f"user {user.userid} is no sub-administrator")
    edit.tenant.put_user(replace(user, admin_level=0))
    edit.tell("org_admin_remove", [user.userid])


def _join(edit: Edit, named: str | None) -> User:
    tenant, rng = edit.tenant, edit.rng
    if named in tenant.users.rows:
        raise ImpossibleChange(f"user {named} is in the organisation already")
    if named is None and tenant.leavers and rng.random() < 0.25:
        named = rng.choice(list(tenant.leavers))
    departments = tuple(edit.membership(dept_id) for dept_id in _some_departments(edit, rng.choice((1, 1, 1, 2))))
    gone = tenant.leavers.pop(named, None) if named is not None else None
    if gone:
        user = replace(gone.user, departments=departments, roles=(), manager_userid=None, admin_level=0, boss=False)
    else:
        user = new_user(rng, edit.next_serial(), departments, named)
    tenant.put_user(user)
    return user


def _someone_else(edit: Edit) -> User:
    """Anyone but the main administrator; where there is nobody, somebody joins first."""
    users = edit.tenant.users.rows
    if len(users) - sum(users[userid].admin_level == 1 for userid in edit.tenant.admins) < 1:
        user_add_org(edit, None)
    while (user := edit.user(None)).admin_level == 1:
        pass
    return user


def _some_departments(edit: Edit, count: int) -> list[int]:
    known = list(edit.tenant.departments.rows)
    return edit.rng.sample(known, min(count, len(known)))


def _fields(edit: Edit, user: User) -> User:
    """One to three fields get new values; at least one is another than before."""
    for _ in range(10):
        names = edit.rng.sample(list(_FIELDS), edit.rng.randrange(1, 4))
        after = replace(user, **{name: _FIELDS[name](edit, user) for name in names})
        if after != user:
            return after
    return replace(user, job_number=f"{edit.next_serial():06d}")


def _departments(edit: Edit, user: User) -> User:
    """Into one more department, out of one, or from one to another."""
    rows = list(user.departments)
    kind = edit.rng.choice(("join", "leave", "swap"))
    if kind in ("leave", "swap") and (len(rows) > 1 or kind == "swap"):
        rows.pop(edit.rng.randrange(len(rows)))
    if kind in ("join", "swap") or not rows:
        taken = {row.dept_id for row in user.departments}
        fresh = [dept_id for dept_id in _some_departments(edit, 5) if dept_id not in taken]
        rows += [edit.membership(dept_id) for dept_id in fresh[:1]]
    return replace(user, departments=tuple(rows or user.departments))


def _standing(edit: Edit, user: User) -> User:
    rows = list(user.departments)
    place = edit.rng.randrange(len(rows))
    row = rows[place]
    if edit.rng.random() < 0.5:
        rows[place] = Membership(row.dept_id, row.order, not row.leader)
    else:
        rows[place] = Membership(row.dept_id, new_order(edit.rng), row.leader)
    return replace(user, departments=tuple(rows))


def _manager(edit: Edit, user: User) -> str | None:
    manager = edit.user(None).userid
    return None if manager == user.userid or edit.rng.random() < 0.2 else manager


_FIELDS: dict[str, Callable[[Edit, User], Any]] = {
    "name": lambda edit, user: person_name(edit.rng),
    "title": lambda edit, user: edit.rng.choice((*TITLES, "")),
    "job_number": lambda edit, user: f"{edit.next_serial():06d}",
    "mobile": lambda edit, user: f"19{edit.rng.randrange(10**9):09d}",
    "telephone": lambda edit, user: edit.rng.choice(("", f"0571-{edit.rng.randrange(80000000, 90000000)}")),
    "email": lambda edit, user: edit.rng.choice(("", f"mail{edit.next_serial()}@example.com")),
    "work_place": lambda edit, user: edit.rng.choice((*PLACES, "")),
    "remark": lambda edit, user: edit.rng.choice(("", "备注：已转正", "备注：外派")),
    "manager_userid": _manager,
    "hired_date": lambda edit, user: FIRST_HIRING + edit.rng.randrange(4000) * DAY,
    "extension": lambda edit, user: new_extension(edit.rng),
    "avatar": lambda edit, user: f"https://static.example.com/avatar/new{edit.next_serial()}.jpg",
}
