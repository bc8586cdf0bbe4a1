"""Drift and heal against a simulated DingTalk: what was changed without a word is found, told and mended."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.config import HealConfig
from bridge.events import Entity
from ops import comparing
from ops.comparing import Healed
from simulator.model import Department, Membership, Role, RoleGroup, RoleHolding, User
from simulator.tenant import View
from tests.installation import CORP, Installation, installed
from tests.truth import differences
from workers.answers import Branch
from workers.comparison import Comparison
from workers.copy import Copy
from workers.dingtalk import DingTalk
from workers.drift import Drift, Finding
from workers.errors import ApiError, Transient
from workers.store import tables

#: Nothing is too much to remove.
BOLD = HealConfig(max_removals=1000, max_share=1)


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path, users=40) as installation:
        copy(installation)
        yield installation


@pytest.fixture
def one_place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite alone, for what the datastore has no part in."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=60) as installation:
        copy(installation)
        yield installation


def the_client(place: Installation) -> DingTalk:
    found = place.parts.readers.client(CORP)
    assert found is not None
    return found


def copy(place: Installation) -> None:
    parts = place.parts
    assert list(Copy(parts.store, parts.clock, parts.folder, the_client(place), CORP).run())[-1].faults == []


def look(place: Installation, client: Any = None, whole: bool = False) -> Drift:
    drift = Drift(
        place.parts.connection, place.parts.refresher, client or the_client(place), CORP, HealConfig(), whole=whole
    )
    for _ in drift.run():
        pass
    return drift


def comparison(place: Installation, client: Any = None, limits: HealConfig = BOLD, **given: bool) -> Comparison:
    return Comparison(place.parts.store, place.parts.clock, client or the_client(place), CORP, limits, **given)


def heal(place: Installation, client: Any = None, limits: HealConfig = BOLD, **given: bool) -> Healed:
    return comparing.heal(place.parts, comparison(place, client, limits, **given), lambda done, found: None)


def told(findings: Sequence[Finding]) -> set[tuple[str, str, str]]:
    return {(one.entity, one.id, one.field) for one in findings}


def tenant(place: Installation) -> Any:
    return place.simulator.tenants[CORP]


def somebody(place: Installation) -> User:
    """A user who is no main administrator."""
    return next(user for user in tenant(place).users.rows.values() if user.admin_level == 0)


def rewrite(place: Installation, user: User, **changed: Any) -> None:
    with tenant(place).lock:
        tenant(place).put_user(replace(user, **changed))


def below(place: Installation, dept_id: int) -> set[int]:
    view = View(tenant(place))
    return {key for key in tenant(place).departments.rows if dept_id in view.ancestors(key)}


def a_branch(place: Installation) -> int:
    """A department other than the root that has some below it."""
    keys = [key for key in tenant(place).departments.rows if key != 1]
    return max(keys, key=lambda key: (len(below(place, key)), key))


Silent = Callable[[Installation], set[tuple[str, str, str]]]


def field_of(name: str, value: Any) -> Silent:
    def change(place: Installation) -> set[tuple[str, str, str]]:
        user = somebody(place)
        rewrite(place, user, **{name: value})
        return {("user", user.userid, {"admin_level": "admin", "hired_date": "hired_at"}.get(name, name))}

    return change


def joined(place: Installation) -> set[tuple[str, str, str]]:
    user = replace(somebody(place), userid="newcomer", unionid="u-new", roles=())
    tenant(place).put_user(user)
    leads = {("department", str(row.dept_id), "manager_userids") for row in user.departments if row.leader}
    return {("user", "newcomer", "row"), *leads}


def left(place: Installation) -> set[tuple[str, str, str]]:
    user = next(
        one for one in tenant(place).users.rows.values()
        if one.admin_level == 0 and not any(row.leader for row in one.departments)
    )  # fmt: skip
    tenant(place).drop_user(user.userid)
    return {("user", user.userid, "row")}


def moved(place: Installation) -> set[tuple[str, str, str]]:
    user = next(one for one in tenant(place).users.rows.values() if not any(row.leader for row in one.departments))
    home = next(key for key in tenant(place).departments.rows if user.membership(key) is None)
    rewrite(place, user, departments=(Membership(home, 5, False),))
    return {("user", user.userid, "departments")}


def placed(place: Installation) -> set[tuple[str, str, str]]:
    user = somebody(place)
    first, *others = user.departments
    rewrite(place, user, departments=(Membership(first.dept_id, 77, first.leader), *others))
    return {("user", user.userid, "departments")}


def promoted(place: Installation) -> set[tuple[str, str, str]]:
    user = next(one for one in tenant(place).users.rows.values() if not one.departments[0].leader)
    first, *others = user.departments
    rewrite(place, user, departments=(Membership(first.dept_id, first.order, True), *others))
    return {("user", user.userid, "departments"), ("department", str(first.dept_id), "manager_userids")}


def given_a_role(place: Installation) -> set[tuple[str, str, str]]:
    user = somebody(place)
    role = next(key for key in tenant(place).roles.rows if not user.holds(key))
    rewrite(place, user, roles=(*user.roles, RoleHolding(role, ())))
    return {("user", user.userid, "roles")}


def relieved_of_a_role(place: Installation) -> set[tuple[str, str, str]]:
    user = next(one for one in tenant(place).users.rows.values() if one.roles)
    rewrite(place, user, roles=user.roles[1:])
    return {("user", user.userid, "roles")}


def founded(place: Installation) -> set[tuple[str, str, str]]:
    tenant(place).put_department(Department(4711, a_branch(place), "new", 3))
    return {("department", "4711", "row")}


def department(**changed: Any) -> Silent:
    def change(place: Installation) -> set[tuple[str, str, str]]:
        row = tenant(place).departments.rows[a_branch(place)]
        tenant(place).put_department(replace(row, **changed))
        names = {"order": "sort_order"}
        return {("department", str(row.dept_id), names.get(name, name)) for name in changed}

    return change


def hung_elsewhere(place: Installation) -> set[tuple[str, str, str]]:
    leaf = max(key for key in tenant(place).departments.rows if below(place, key) == {key})
    row = tenant(place).departments.rows[leaf]
    home = next(key for key in tenant(place).departments.rows if key not in (leaf, row.parent_id))
    tenant(place).put_department(replace(row, parent_id=home))
    return {("department", str(leaf), "parent_id")}


def closed(place: Installation) -> set[tuple[str, str, str]]:
    """A department without members or branches."""
    tenant(place).put_department(Department(4711, 1, "short-lived", 3))
    copy(place)
    tenant(place).drop_department(4711)
    return {("department", "4711", "row")}


def renamed_corp(place: Installation) -> set[tuple[str, str, str]]:
    tenant(place).put_department(replace(tenant(place).departments.rows[1], name="Another name"))
    return {("department", "1", "name"), ("corp", CORP, "name")}


def new_role(place: Installation) -> set[tuple[str, str, str]]:
    group = next(iter(tenant(place).role_groups.rows))
    tenant(place).put_role(Role(4711, group, "new"))
    return {("role", "4711", "row")}


def renamed_role(place: Installation) -> set[tuple[str, str, str]]:
    role = next(iter(tenant(place).roles.rows.values()))
    tenant(place).put_role(replace(role, name="another"))
    return {("role", str(role.role_id), "name")}


def regrouped_role(place: Installation) -> set[tuple[str, str, str]]:
    role = next(iter(tenant(place).roles.rows.values()))
    tenant(place).put_role(replace(role, group_id=next(k for k in tenant(place).role_groups.rows if k != role.group_id)))
    return {("role", str(role.role_id), "group_id")}


def renamed_group(place: Installation) -> set[tuple[str, str, str]]:
    group = next(iter(tenant(place).role_groups.rows))
    tenant(place).put_role_group(RoleGroup(group, "another"))
    return {("role_group", str(group), "name")}


def dropped_role(place: Installation) -> set[tuple[str, str, str]]:
    role = next(iter(tenant(place).roles.rows))
    holders = View(tenant(place)).holders(role)
    for user in holders:
        rewrite(place, user, roles=tuple(row for row in user.roles if row.role_id != role))
    tenant(place).drop_role(role)
    return {("role", str(role), "row"), *(("user", user.userid, "roles") for user in holders)}


SILENT: dict[str, Silent] = {
    "joined": joined,
    "left": left,
    "moved": moved,
    "placed": placed,
    "promoted": promoted,
    "name": field_of("name", "新名"),
    "title": field_of("title", ""),
    "mobile": field_of("mobile", "19900000000"),
    "email": field_of("email", "new@example.com"),
    "telephone": field_of("telephone", "0571-1"),
    "work_place": field_of("work_place", "elsewhere"),
    "remark": field_of("remark", "new"),
    "extension": field_of("extension", "{}"),
    "job_number": field_of("job_number", "4711"),
    "hired": field_of("hired_date", 1_500_000_000_000),
    "unionid": field_of("unionid", "u-another"),
    "boss": field_of("boss", True),
    "admin": field_of("admin_level", 2),
    # No list tells of these two: they are read singly.
    "manager": field_of("manager_userid", "nobody"),
    "senior": field_of("senior", True),
    "given a role": given_a_role,
    "relieved of a role": relieved_of_a_role,
    "founded": founded,
    "closed": closed,
    "renamed": department(name="another name"),
    "department's place": department(order=12345),
    "hung elsewhere": hung_elsewhere,
    "renamed corp": renamed_corp,
    "new role": new_role,
    "renamed role": renamed_role,
    "regrouped role": regrouped_role,
    "renamed group": renamed_group,
    "dropped role": dropped_role,
}


def test_every_kind_of_silent_change_is_told_and_mended(place: Installation) -> None:
    """One installation for all, as each needs the same: DingTalk changes, drift tells it, heal mends it."""
    for name, change in SILENT.items():
        expected = change(place)
        found = look(place)
        assert told(found.findings) == expected, name
        assert {one.cause for one in found.findings} == {"lost event"}, name
        assert found.faults == [], name
        before = place.rows(tables.changes)
        assert look(place).findings == found.findings, name
        assert place.rows(tables.changes) == before, name
        assert heal(place).faults == [], name
        assert differences(place) == [], name
        assert look(place).findings == [], name
