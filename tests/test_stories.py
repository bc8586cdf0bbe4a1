"""What happens to people, departments, roles and corps, told one story a test on a real installation.

Each ends with every table equal to DingTalk's truth, and with the rows, changes and jobs that a reader would expect.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import sqlalchemy as sa

import workers
from bridge import messages
from bridge.accept import Acceptor
from bridge.events import CONTACT_EVENTS
from simulator import changes_departments, changes_roles, changes_users
from simulator.edit import Edit
from simulator.events import payload
from simulator.model import Department, Membership, Role, User
from simulator.tenant import Tenant
from tests.installation import AES_KEY, CORP, Installation, installed
from tests.test_way_through import copy
from tests.truth import differences
from tests.workers.helpers import chain_breaks
from workers.directory import Change, Directory, Event
from workers.forget import forget
from workers.jobworker import JobWorker
from workers.registry import Registry
from workers.store import tables
from workers.store.draft import ChangeKind

Act = Callable[[Edit], object]


@dataclass
class Story:
    """An installation that has its first copy; users' functions note what they are called for."""

    place: Installation
    #: Jobs that ran: an event's type, or what a change did to which entity.
    jobs: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def tenant(self) -> Tenant:
        return self.place.simulator.tenants[CORP]

    def happen(self, act: Act) -> None:
        """The organisation changes, DingTalk tells of it, and everything that follows is done."""
        with self.tenant.lock:
            edit = Edit(self.tenant, random.Random(7), 10_000)
            act(edit)
        for told in edit.events:
            self.tell("acme", payload(told, CORP, "B"))
        self.settle()

    def tell(self, app: str, message: Mapping[str, Any]) -> None:
        parsed = messages.parse(json.dumps(message).encode(), app, CORP)
        assert Acceptor(self.place.parts.connection).accept(parsed.events) == [True]

    def settle(self) -> None:
        """All events, the reads that they leave, and the jobs; then every table equals the tenant."""
        self.place.work_off()
        worker = JobWorker(["jobs"], self.place.parts.connection, self.place.parts.store, self.place.parts.registry)
        while worker.turn():
            pass
        assert differences(self.place) == []
        assert list(chain_breaks(self.place.rows(tables.changes))) == []
        assert self.place.rows(tables.outbox) == []

    def person(self, number: int = 0) -> User:
        """Someone who is no admin, leads nobody and manages nothing."""
        free = [
            user
            for user in self.tenant.users.rows.values()
            if not user.admin_level and user.userid not in self.tenant.reports
            if not any(membership.leader for membership in user.departments)
        ]
        return free[number]

    def departments(self) -> list[Department]:
        """All but the root."""
        return [row for row in self.tenant.departments.rows.values() if row.parent_id is not None]

    def row(self, table: sa.Table, **where: Any) -> dict[str, Any]:
        (found,) = [row for row in self.place.rows(table) if where.items() <= row.items()]
        return found

    def changes(self, entity: ChangeKind, entity_id: str | int) -> list[dict[str, Any]]:
        """What the events did to an entity, in order; the first copy found it as it was."""
        rows = sorted(self.place.rows(tables.changes), key=lambda row: row["seq"])
        ours = [row for row in rows if (row["entity"], row["entity_id"]) == (entity, str(entity_id))]
        return [row for row in ours if row["event_id"] is not None]

    def memberships(self, userid: str) -> set[int]:
        return {row["dept_id"] for row in self.place.rows(tables.department_members) if row["userid"] == userid}


@pytest.fixture
def begin(redis_url: str, datastore_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens an installation for a story; its configuration can be given."""

    @contextmanager
    def tell(**changed: Any) -> Iterator[Story]:
        registry = Registry()
        monkeypatch.setattr(workers, "registry", registry)
        jobs: list[tuple[str, ...]] = []

        @registry.on(*CONTACT_EVENTS)
        def on_event(event: Event, directory: Directory) -> None:
            jobs.append((event.type,))

        @registry.on_change(*get_args(ChangeKind))
        def on_change(change: Change, directory: Directory) -> None:
            jobs.append((change.entity, change.entity_id, change.operation))

        with installed(redis_url, datastore_url, tmp_path, users=15, **changed) as place:
            copy(place)
            assert (differences(place), place.rows(tables.outbox)) == ([], [])
            yield Story(place, jobs)

    return tell


@pytest.fixture
def story(begin: Any) -> Iterator[Story]:
    with begin() as begun:
        yield begun


def test_a_leaver_keeps_a_row_that_says_since_when(story: Story) -> None:
    user = story.person()
    story.happen(lambda edit: changes_users.user_leave_org(edit, user.userid))
    row = story.row(tables.users, userid=user.userid)
    assert row["deleted_at"] is not None
    assert (row["name"], row["mobile"]) == (user.name, user.mobile)
    assert story.memberships(user.userid) == set()
    (change,) = story.changes("user", user.userid)
    assert change["operation"] == "delete"
    assert {row["dept_id"] for row in change["before"]["departments"]} == {row.dept_id for row in user.departments}
    assert (change["after"]["departments"], change["after"]["roles"]) == ([], [])
    assert sorted(story.jobs) == [("user", user.userid, "delete"), ("user_leave_org",)]


def test_a_mover_leaves_one_department_and_joins_another(story: Story) -> None:
    user = story.person()
    here = {row.dept_id for row in user.departments}
    there = next(row.dept_id for row in story.departments() if row.dept_id not in here)
    story.happen(lambda edit: edit.rewrite([(user, replace(user, departments=(Membership(there, 5, False),)))]))
    assert story.memberships(user.userid) == {there}
    (change,) = story.changes("user", user.userid)
    assert change["operation"] == "update"
    assert {row["dept_id"] for row in change["before"]["departments"]} == here
    assert change["after"]["departments"] == [{"dept_id": there, "leader": False, "sort_order": 5}]
    assert sorted(story.jobs) == [("user", user.userid, "update"), ("user_modify_org",)]


def test_a_re_hire_brings_the_same_row_back_to_life(story: Story) -> None:
    user = story.person()
    story.happen(lambda edit: changes_users.user_leave_org(edit, user.userid))
    story.happen(lambda edit: changes_users.user_add_org(edit, user.userid))
    row = story.row(tables.users, userid=user.userid)
    assert (row["deleted_at"], row["unionid"]) == (None, user.unionid)
    gone, back = story.changes("user", user.userid)
    assert (gone["operation"], back["operation"]) == ("delete", "restore")
    assert back["before"]["deleted_at"] == gone["after"]["deleted_at"] is not None
    assert back["after"]["deleted_at"] is None
    assert back["after"]["departments"] != []
    entity = ("user", user.userid)
    assert [job for job in story.jobs if job[0] == "user"] == [(*entity, "delete"), (*entity, "restore")]
    assert ("user_add_org",) in story.jobs


def test_a_namesake_is_somebody_else(story: Story) -> None:
    user = story.person()

    def join(edit: Edit) -> None:
        changes_users.user_add_org(edit, "namesake")
        edit.tenant.put_user(replace(edit.user("namesake"), name=user.name))

    story.happen(join)
    rows = [row for row in story.place.rows(tables.users) if row["name"] == user.name]
    assert {row["userid"] for row in rows} >= {user.userid, "namesake"}
    assert len({row["unionid"] for row in rows}) == len(rows)
    story.happen(lambda edit: changes_users.user_leave_org(edit, "namesake"))
    assert story.row(tables.users, userid=user.userid)["deleted_at"] is None
    assert story.changes("user", user.userid) == []
    assert [row["operation"] for row in story.changes("user", "namesake")] == ["create", "delete"]
    assert {job[1] for job in story.jobs if job[0] == "user"} == {"namesake"}


def test_a_merged_department_hands_over_its_people_and_its_departments(story: Story) -> None:
    merged = next(row for row in story.departments() if story.tenant.members[row.dept_id])
    into = next(row for row in story.departments() if row.parent_id == 1 and row is not merged)
    below = Department(900_001, merged.dept_id, "Below", 1)
    story.happen(
        lambda edit: (edit.tenant.put_department(below), edit.tell("org_dept_create", departments=[below.dept_id]))  # type: ignore[func-returns-value]
    )
    people = members_of(story, merged.dept_id)

    def merge(edit: Edit) -> None:
        for child in edit.view.children(merged.dept_id):
            edit.tenant.put_department(replace(child, parent_id=into.dept_id))
            edit.tell("org_dept_modify", departments=[child.dept_id])
        edit.rewrite([(user, moved(user, merged.dept_id, into.dept_id)) for user in people])
        edit.tenant.drop_department(merged.dept_id)
        edit.tell("org_dept_remove", departments=[merged.dept_id])

    story.happen(merge)
    assert story.row(tables.departments, dept_id=merged.dept_id)["deleted_at"] is not None
    assert story.changes("department", merged.dept_id)[-1]["operation"] == "delete"
    assert story.row(tables.departments, dept_id=below.dept_id)["parent_id"] == into.dept_id
    _, change = story.changes("department", below.dept_id)
    assert (change["before"]["parent_id"], change["after"]["parent_id"]) == (merged.dept_id, into.dept_id)
    for user in people:
        (change,) = story.changes("user", user.userid)
        before, after = ({row["dept_id"] for row in change[when]["departments"]} for when in ("before", "after"))
        assert after == before - {merged.dept_id} | {into.dept_id}
        assert ("user", user.userid, "update") in story.jobs
    assert ("department", str(merged.dept_id), "delete") in story.jobs


def members_of(story: Story, dept_id: int) -> list[User]:
    """The members of a department as they are now."""
    return [story.tenant.users.rows[userid] for userid in story.tenant.members[dept_id]]


def moved(user: User, out: int, into: int) -> User:
    kept = tuple(row for row in user.departments if row.dept_id not in (out, into))
    return replace(user, departments=(*kept, Membership(into, 5, False)))


def test_a_renamed_role_changes_nobody_who_has_it(story: Story) -> None:
    role = next(row for row in story.tenant.roles.rows.values() if story.tenant.holders[row.role_id])

    def rename(edit: Edit) -> None:
        edit.tenant.put_role(replace(role, name="Renamed"))
        edit.tell("label_conf_modify", labels=[role.role_id])

    story.happen(rename)
    assert story.row(tables.roles, role_id=role.role_id)["name"] == "Renamed"
    (change,) = story.changes("role", role.role_id)
    assert (change["before"]["name"], change["after"]["name"]) == (role.name, "Renamed")
    assert sorted(story.jobs) == [("label_conf_modify",), ("role", str(role.role_id), "update")]


def test_a_deleted_role_group_takes_its_roles_from_everybody(story: Story) -> None:
    roles: dict[int, list[Role]] = {}
    for role in story.tenant.roles.rows.values():
        roles.setdefault(role.group_id, []).append(role)
    group, gone = next(
        (group, own) for group, own in roles.items() if any(story.tenant.holders[row.role_id] for row in own)
    )
    holders = {userid for role in gone for userid in story.tenant.holders[role.role_id]}
    story.happen(lambda edit: changes_roles.label_conf_del(edit, group))
    (event,) = story.place.rows(tables.events)
    (change,) = story.changes("role_group", group)
    assert (change["operation"], change["event_id"]) == ("delete", event["id"])
    expected = {("label_conf_del",), ("role_group", str(group), "delete")}
    for role in gone:
        assert story.row(tables.roles, role_id=role.role_id)["deleted_at"] is not None
        expected.add(("role", str(role.role_id), "delete"))
    for userid in holders:
        (change,) = story.changes("user", userid)
        lost = set(change["before"]["roles"]) - set(change["after"]["roles"])
        assert lost == set(change["before"]["roles"]) & {role.role_id for role in gone}
        assert change["event_id"] == event["id"]
        expected.add(("user", userid, "update"))
    assert sorted(story.jobs) == sorted(expected)


def test_a_dissolved_corp_is_buried_with_everything_in_it(story: Story) -> None:
    users, departments = list(story.tenant.users.rows), list(story.tenant.departments.rows)
    story.happen(lambda edit: changes_departments.org_remove(edit, None))
    corp = story.row(tables.corps)
    assert (corp["status"], corp["deleted_at"] is None) == ("dissolved", False)
    for table in (tables.users, tables.departments, tables.roles, tables.role_groups):
        assert [row for row in story.place.rows(table) if row["deleted_at"] is None] == []
    assert story.place.rows(tables.department_members) == story.place.rows(tables.role_members) == []
    (event,) = story.place.rows(tables.events)
    assert (event["type"], event["status"]) == ("org_remove", "applied")
    for kind, ids in (("user", users), ("department", departments)):
        for entity_id in ids:
            (change,) = story.changes(kind, entity_id)  # type: ignore[arg-type]
            assert (change["operation"], change["event_id"]) == ("delete", event["id"])
            assert (kind, str(entity_id), "delete") in story.jobs
    assert ("corp", CORP, "delete") in story.jobs
    assert ("org_remove",) in story.jobs


def test_a_corp_seen_by_two_apps_is_one_corp_that_one_of_them_reads(begin: Any) -> None:
    keys = [{"token": "tok3nForTests", "aes_key": AES_KEY}]
    apps = [
        {
            "name": name,
            "kind": "internal",
            "keys": keys,
            "owner_keys": [key, CORP],
            "corp_id": CORP,
            "app_key": key,
            "app_secret": "s3cretForTests",
        }
        for name, key in (("acme", "dingtestappkey00001"), ("beta", "dingtestappkey00002"))
    ]
    with begin(apps=apps) as story:
        user = story.person()
        leaving = story.place.simulator.change("acme", "user_leave_org", user.userid, "B", deliver=False)
        assert {row["app"] for row in leaving} == {"acme", "beta"}
        for row in leaving:
            story.tell(row["app"], row["payload"])
        story.settle()
        told = {row["app"]: row for row in story.place.rows(tables.events) if row["type"] == "user_leave_org"}
        assert {row["status"] for row in told.values()} == {"applied", "folded"}
        (folded,) = (row for row in told.values() if row["status"] == "folded")
        (applied,) = (row for row in told.values() if row["status"] == "applied")
        assert folded["folded_into"] == [applied["id"]]
        (change,) = story.changes("user", user.userid)
        assert (change["operation"], change["event_id"]) == ("delete", applied["id"])
        assert sorted(story.jobs) == [("user", user.userid, "delete"), ("user_leave_org",), ("user_leave_org",)]
        assert {row["corp_id"] for row in story.place.rows(tables.users)} == {CORP}


def test_a_person_who_is_forgotten_is_nowhere_and_a_re_hire_is_news(story: Story) -> None:
    user = replace(story.person(), name="Wang Unmistakable", mobile="13999999999", email="gone@example.com")
    values = (user.name, user.mobile, user.email, user.unionid)
    story.happen(lambda edit: edit.rewrite([(story.person(), user)]))
    story.happen(lambda edit: changes_users.user_leave_org(edit, user.userid))
    assert all(value in everything(story) for value in values)
    done = list(story.jobs)
    forget(story.place.parts.store, CORP, user.userid)
    assert [value for value in values if value in everything(story)] == []
    # A late event reads the person once more, and finds nobody.
    story.happen(lambda edit: edit.tell("user_modify_org", [user.userid]))
    assert [value for value in values if value in everything(story)] == []
    assert story.jobs == [*done, ("user_modify_org",)]
    assert [row["operation"] for row in story.changes("user", user.userid)] == ["update", "delete"]
    story.happen(lambda edit: changes_users.user_add_org(edit, user.userid))
    assert story.row(tables.users, userid=user.userid)["name"] == user.name
    change = story.changes("user", user.userid)[-1]
    assert (change["operation"], change["before"]["name"], change["after"]["name"]) == ("restore", None, user.name)


def everything(story: Story) -> str:
    """All text of all tables."""
    rows = [row for table in tables.metadata.sorted_tables for row in story.place.rows(table)]
    return msgspec.json.encode(rows).decode()
