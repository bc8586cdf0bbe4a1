"""Drift and heal against a simulated DingTalk: what was changed without a word is found, told and mended."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.accept import Acceptor
from bridge.config import HealConfig
from bridge.events import Entity
from ops import comparing
from ops.comparing import Healed
from simulator.model import Department, Membership, Role, RoleGroup, RoleHolding, User
from simulator.tenant import View
from tests.installation import CORP, Installation, installed
from tests.truth import differences
from tests.workers.helpers import an_event
from workers import reconcile
from workers.comparison import Comparison
from workers.copy import Copy
from workers.dingtalk import DingTalk
from workers.drift import Drift, Finding
from workers.errors import ApiError, QuotaSpent, Throttled, Transient
from workers.moment import SECOND
from workers.readers import Answer
from workers.reconcile import Plan
from workers.refresh import Noted
from workers.registry import Registry
from workers.shapes import Branch
from workers.snapshot import ATTEMPTS
from workers.store import reads, tables
from workers.store.draft import Cause
from workers.store.reads import Due, Priority
from workers.workoff import MAX_ATTEMPTS, WorkOff

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
        # The lists tell the level; a read tells both.
        fields = {"admin_level": ("admin", "admin_level"), "hired_date": ("hired_at",)}.get(name, (name,))
        return {("user", user.userid, field) for field in fields}

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
    tenant(place).drop_department(4712)
    return {("department", "4712", "row")}


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
    tenant(place).put_role(
        replace(role, group_id=next(k for k in tenant(place).role_groups.rows if k != role.group_id))
    )
    return {("role", str(role.role_id), "group_id")}


def renamed_group(place: Installation) -> set[tuple[str, str, str]]:
    group = next(iter(tenant(place).role_groups.rows))
    tenant(place).put_role_group(RoleGroup(group, "another"))
    return {("role_group", str(group), "name")}


def dropped_role(place: Installation) -> set[tuple[str, str, str]]:
    view = View(tenant(place))
    role = next(key for key in reversed(tenant(place).roles.rows) if view.holders(key))
    holders = view.holders(role)
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
    with tenant(place).lock:
        tenant(place).put_department(Department(4712, 1, "short-lived", 3))
    copy(place)
    expected = {one for change in SILENT.values() for one in change(place)}
    before = place.rows(tables.changes)
    found = look(place)
    assert told(found.findings) == expected
    assert {one.cause for one in found.findings} == {"lost event"}
    assert found.faults == []
    assert [line for line in found.objections if "memberships" in line or "users" in line] == []
    # Nothing was written.
    assert place.rows(tables.changes) == before
    assert place.rows(tables.reads) == []
    healed = heal(place)
    assert healed.faults == []
    assert differences(place) == []
    assert healed.mended["user delete"] == 1
    assert look(place).findings == []
    assert heal(place).mended == {}


class TestCauses:
    def test_an_event_that_still_waits(self, one_place: Installation) -> None:
        user = somebody(one_place)
        rewrite(one_place, user, title="another")
        Acceptor(one_place.parts.connection).accept([an_event(users=[user.userid])])
        assert {one.cause for one in look(one_place).findings} == {"still queued"}
        one_place.work_off()
        assert look(one_place).findings == []

    def test_a_read_that_is_noted(self, one_place: Installation) -> None:
        user = somebody(one_place)
        rewrite(one_place, user, title="another")
        for _ in comparison(one_place).run():
            pass
        assert {one.cause for one in look(one_place).findings} == {"still queued"}

    def test_what_was_put_off_for_long_is_read_at_once(self, one_place: Installation) -> None:
        user = somebody(one_place)
        rewrite(one_place, user, name="another")
        now = one_place.parts.clock.now().micros
        with one_place.parts.store.writing() as connection:
            reads.add(connection, [Due(Entity(CORP, "user", user.userid), now, "copy", None, Priority.COPY)])
            connection.execute(sa.update(tables.reads).values(attempts=1, due_at=now + 900 * SECOND))
        assert heal(one_place).faults == []
        assert (differences(one_place), one_place.rows(tables.reads)) == ([], [])

    @pytest.mark.parametrize("attempts", [1, MAX_ATTEMPTS])
    def test_what_others_try_in_vain_is_waited_for_so_often_only(self, one_place: Installation, attempts: int) -> None:
        backlog = WorkOff(one_place.parts.store, one_place.parts.clock, one_place.parts.folder, CORP)
        now = one_place.parts.clock.now().micros
        with one_place.parts.store.writing() as connection:
            reads.add(connection, [Due(Entity(CORP, "user", "u"), now + 900 * SECOND, "copy", None, Priority.COPY)])
            connection.execute(sa.update(tables.reads).values(attempts=attempts, error="busy"))
        assert backlog.step() == (attempts < MAX_ATTEMPTS)
        assert backlog.faults == ([] if attempts < MAX_ATTEMPTS else ["user cannot be read: busy"])

    def test_a_spent_quota_ends_it(self, one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        place, user = one_place, somebody(one_place)
        now = place.parts.clock.now().micros
        with place.parts.store.writing() as connection:
            reads.add(connection, [Due(Entity(CORP, "user", user.userid), now, "heal", None, Priority.HEAL)])

        def spent(*_: object, **__: object) -> None:
            raise QuotaSpent("90020", wait=600.0)

        monkeypatch.setattr(DingTalk, "user", spent)
        with pytest.raises(QuotaSpent):
            WorkOff(place.parts.store, place.parts.clock, place.parts.folder, CORP).step()

    @pytest.mark.parametrize("error", [Throttled("90018", wait=0.01), QuotaSpent("90020", wait=600.0)])
    def test_a_throttle_is_no_attempt_at_a_list_and_a_spent_quota_ends_it(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch, error: Throttled
    ) -> None:
        listed, left = DingTalk.branches, [error] * (ATTEMPTS + 1)

        def throttled(client: DingTalk, dept_id: int, *, live: bool = True) -> list[Branch]:
            if left:
                raise left.pop()
            return listed(client, dept_id, live=live)

        monkeypatch.setattr(DingTalk, "branches", throttled)
        if isinstance(error, QuotaSpent):
            with pytest.raises(QuotaSpent):
                look(one_place)
            assert len(left) == ATTEMPTS
        else:
            assert (look(one_place).faults, left) == ([], [])

    def test_what_an_event_waits_for_is_not_among_the_faults(self, one_place: Installation) -> None:
        """Else three of those would end the waiting for three others."""
        place = one_place
        now = place.parts.clock.now().micros
        access = place.simulator.app("acme").access
        access.permissions = access.permissions - {"qyapi_get_member"}
        alone, echo = (Entity(CORP, "user", userid) for userid in list(place.simulator.tenants[CORP].users.rows)[:2])
        with place.parts.store.writing() as connection:
            reads.add(connection, [Due(alone, now, "heal", None, Priority.HEAL), Due(echo, now, "echo", "e1")])
        backlog = WorkOff(place.parts.store, place.parts.clock, place.parts.folder, CORP)
        assert not backlog.step()
        assert len(backlog.faults) == 1

    def test_who_lies_outside_of_the_scope_and_who_comes_back(self, one_place: Installation) -> None:
        branch = a_branch(one_place)
        access = one_place.simulator.app("acme").access
        access.authed_dept = (branch,)
        found = look(one_place).findings
        assert {(one.field, one.here, one.dingtalk, one.cause) for one in found} == {("visible", True, False, "scope")}
        assert heal(one_place, allow_scope=True).faults == []
        assert look(one_place).findings == []
        access.authed_dept = (1,)
        back = [one for one in look(one_place).findings if one.field == "visible"]
        assert {(one.here, one.dingtalk, one.cause) for one in back} == {(False, True, "hidden")}
        assert len(back) == len(found)
        heal(one_place)
        assert differences(one_place) == []

    def test_since_when(self, one_place: Installation) -> None:
        user = somebody(one_place)
        rewrite(one_place, user, title="another")
        (row,) = [row for row in one_place.rows(tables.users) if row["userid"] == user.userid]
        (found,) = look(one_place).findings
        assert (found.since, found.here, found.dingtalk) == (row["fetched_at"], row["title"], "another")


def test_a_corp_that_was_dissolved_without_a_word(place: Installation) -> None:
    tenant(place).dissolved = True
    (found,) = look(place).findings
    assert (found.field, found.here, found.dingtalk) == ("status", "active", "dissolved")
    stopped = heal(place, limits=HealConfig())
    assert stopped.report.stopped
    assert {row["status"] for row in place.rows(tables.corps)} == {"active"}
    assert heal(place).faults == []
    assert differences(place) == []
    assert look(place).findings == []


def test_whoever_read_before_must_read_again(place: Installation) -> None:
    user = somebody(place)
    entity = Entity(CORP, "user", user.userid)
    refresher = place.parts.refresher
    noted = refresher.note([entity])
    answers, _ = refresher.read({entity: True})
    rewrite(place, user, title="another")
    for _ in comparison(place).run():
        pass
    causes = {entity: Cause(None, False)}
    written, _ = refresher.write(noted, answers, causes, lambda draft, written: None)
    assert written == set()
    place.work_off()
    assert differences(place) == []


def test_while_it_compares_others_write_but_nobody_who_read_before(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    entity = Entity(CORP, "user", somebody(place).userid)
    refresher = place.parts.refresher
    written: list[set[Entity]] = []

    def read() -> tuple[Noted, dict[Entity, Answer]]:
        return refresher.note([entity]), refresher.read({entity: True})[0]

    def write(noted: Noted, answers: dict[Entity, Answer]) -> None:
        causes = {entity: Cause(None, False)}
        written.append(refresher.write(noted, answers, causes, lambda draft, written: None)[0])

    before = read()

    def compare(*given: Any) -> Plan:
        write(*before)
        write(*read())
        return reconcile_compare(*given)

    reconcile_compare = reconcile.compare
    monkeypatch.setattr(reconcile, "compare", compare)
    for _ in comparison(place).run():
        pass
    assert written == [set(), {entity}]


def test_a_read_that_is_noted_already_keeps_its_event_and_time(one_place: Installation) -> None:
    user = somebody(one_place)
    entity = Entity(CORP, "user", user.userid)
    later = one_place.parts.clock.now().micros + 3_600_000_000
    with one_place.parts.store.writing() as connection:
        reads.schedule(connection, [Due(entity, later, "echo", "e1")])
    rewrite(one_place, user, title="another")
    for _ in comparison(one_place).run():
        pass
    (row,) = [row for row in one_place.rows(tables.reads) if row["entity_id"] == user.userid]
    assert (row["due_at"], row["cause"], row["event_id"], row["version"]) == (later, "echo", "e1", 1)


class TestRemovals:
    LIMITS = HealConfig(max_removals=5, max_share=0.05)

    def drop(self, place: Installation, count: int) -> list[str]:
        leavers = [one for one in tenant(place).users.rows.values() if one.admin_level == 0][:count]
        for user in leavers:
            tenant(place).drop_user(user.userid)
        return [user.userid for user in leavers]

    def test_too_many_at_once_are_left_until_somebody_allows_it(self, one_place: Installation) -> None:
        leavers = self.drop(one_place, 10)
        changed = somebody(one_place)
        rewrite(one_place, changed, title="another")
        stopped = heal(one_place, limits=self.LIMITS)
        assert stopped.report.removals["users"] == 10
        assert any("10 of 60 users" in reason and "--allow-removals" in reason for reason in stopped.report.stopped)
        assert any("10 of 60 users" in reason for reason in look(one_place).objections) is False  # 20 is its limit
        rows = {row["userid"]: row for row in one_place.rows(tables.users)}
        assert {rows[userid]["deleted_at"] for userid in leavers} == {None}
        assert rows[changed.userid]["title"] == "another"
        (kept,) = one_place.rows(tables.comparisons)
        assert kept["outcome"] == "stopped"
        assert kept["report"]["removals"]["users"] == 10
        allowed = heal(one_place, limits=self.LIMITS, allow_removals=True)
        assert allowed.report.stopped == []
        assert allowed.mended["user delete"] == 10
        assert differences(one_place) == []
        (kept,) = one_place.rows(tables.comparisons)
        assert kept["outcome"] == "done"

    @pytest.mark.parametrize(
        "limits", [HealConfig(max_removals=10, max_share=0), HealConfig(max_removals=0, max_share=1)]
    )
    def test_both_the_number_and_the_share_must_be_passed(self, one_place: Installation, limits: HealConfig) -> None:
        self.drop(one_place, 3)
        assert heal(one_place, limits=limits).report.stopped == []
        assert differences(one_place) == []

    def test_a_move_of_many_is_no_removal(self, one_place: Installation) -> None:
        home = a_branch(one_place)
        for user in list(tenant(one_place).users.rows.values()):
            if len(user.departments) == 1 and user.membership(home) is None:
                rewrite(one_place, user, departments=(Membership(home, 1, False),))
        healed = heal(one_place, limits=self.LIMITS)
        assert healed.report.stopped == []
        assert differences(one_place) == []

    def test_roles_that_all_vanish_are_left_too(self, one_place: Installation) -> None:
        before = [row["deleted_at"] for row in one_place.rows(tables.roles)]
        for user in list(tenant(one_place).users.rows.values()):
            rewrite(one_place, user, roles=())
        for role in list(tenant(one_place).roles.rows):
            tenant(one_place).drop_role(role)
        stopped = heal(one_place, limits=self.LIMITS).report.stopped
        assert any(" roles" in reason for reason in stopped)
        assert [row["deleted_at"] for row in one_place.rows(tables.roles)] == before
        heal(one_place, limits=self.LIMITS, allow_removals=True)
        assert differences(one_place) == []


class TestScope:
    def test_what_a_scope_has_lost_is_left_until_somebody_allows_it(self, one_place: Installation) -> None:
        access = one_place.simulator.app("acme").access
        access.authed_dept = (a_branch(one_place),)
        for _ in range(2):
            # It is no measure for the second night that the first one saw it.
            stopped = heal(one_place)
            assert any("scope has lost department 1" in reason for reason in stopped.report.stopped)
            assert all(row["visible"] for row in one_place.rows(tables.users))
        assert heal(one_place, allow_scope=True).report.stopped == []
        assert not all(row["visible"] for row in one_place.rows(tables.users))
        assert heal(one_place).report.stopped == []

    def test_a_scope_that_grew_or_whose_department_is_gone_lost_nothing(self, one_place: Installation) -> None:
        access = one_place.simulator.app("acme").access
        tenant(one_place).put_department(Department(4711, 1, "own", 3))
        access.authed_dept = (a_branch(one_place), 4711)
        heal(one_place, allow_scope=True)
        tenant(one_place).drop_department(4711)
        access.authed_dept = (a_branch(one_place),)
        assert heal(one_place).report.stopped == []
        access.authed_dept = (1,)
        assert heal(one_place).report.stopped == []
        assert differences(one_place) == []


class Partly:
    """A client that cannot list one department."""

    def __init__(self, whole: DingTalk, broken: int, error: ApiError) -> None:
        self._whole = whole
        self._broken = broken
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def branches(self, dept_id: int, *, live: bool = True) -> list[Branch]:
        if dept_id == self._broken:
            raise self._error
        return self._whole.branches(dept_id, live=live)

    def users_page(self, dept_id: int, cursor: int = 0, *, live: bool = True) -> Any:
        if dept_id == self._broken:
            raise self._error
        return self._whole.users_page(dept_id, cursor, live=live)


def test_a_department_that_cannot_be_listed_is_named_and_nothing_below_it_is_judged(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.snapshot.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("workers.comparison.LEAST_PART", 0)
    branch = a_branch(place)
    client = Partly(the_client(place), branch, Transient("-1", "busy", "/topapi/v2/department/listsub"))
    outside = next(
        one
        for one in tenant(place).users.rows.values()
        if not {m.dept_id for m in one.departments} & below(place, branch)
    )
    rewrite(place, outside, title="another")
    healed = heal(place, client, limits=HealConfig(max_removals=0, max_share=0))
    assert [f"department {branch}" in fault and "busy" in fault for fault in healed.faults] == [True, True]
    assert healed.report.stopped == []
    assert healed.report.removals == {}
    assert healed.mended == {"user update": 1}
    assert differences(place) == []
    (kept,) = place.rows(tables.comparisons)
    assert kept["outcome"] == "partial"


def test_what_passes_is_asked_for_again(one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.snapshot.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("workers.snapshot.ATTEMPTS", 50)
    one_place.simulator.faults.set({"error_rate": 0.3})
    rewrite(one_place, somebody(one_place), title="another")
    for _ in comparison(one_place).run():
        pass
    one_place.simulator.faults.set({"error_rate": 0})
    (kept,) = one_place.rows(tables.comparisons)
    assert (kept["outcome"], kept["report"]["faults"]) == ("done", [])
    one_place.work_off()
    assert differences(one_place) == []


def test_what_a_comparison_costs(one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lists for each department and one more for each further hundred of its members, one for each role."""
    monkeypatch.setattr("workers.comparison.LEAST_PART", 0)
    one_place.simulator.calls.clear()
    for _ in comparison(one_place).run():
        pass
    made = one_place.simulator.calls.as_dict()["calls"]
    departments, roles = len(tenant(one_place).departments.rows), len(tenant(one_place).roles.rows)
    assert made == {
        "/auth/scopes": 1,
        "/topapi/v2/department/listsub": departments,
        "/topapi/v2/user/list": departments,
        "/topapi/role/list": 1,
        "/topapi/role/simplelist": roles,
        "/topapi/user/listadmin": 1,
    }
    # A seventh of the users and of the departments, and the root, which no list tells of.
    people = len(tenant(one_place).users.rows)
    kinds = [row["kind"] for row in one_place.rows(tables.reads)]
    assert kinds.count("user") == -(-people // 7)
    assert -(-departments // 7) <= kinds.count("department") <= -(-departments // 7) + 1


def test_what_it_changes_is_news_to_users_functions_but_not_before_a_first_copy(
    redis_url: str, tmp_path: Path, registry: Registry
) -> None:
    registry.on_change("user")(look)
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path, users=20) as place:
        first = heal(place)
        assert first.report.quiet
        assert differences(place) == []
        assert place.rows(tables.outbox) == []
        user = somebody(place)
        rewrite(place, user, title="another")
        assert not heal(place).report.quiet
        assert len(place.rows(tables.outbox)) == 1
