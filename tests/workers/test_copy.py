"""A full copy: what it finds, what it costs, and what it does where something cannot be read."""

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge import events
from bridge.accept import Acceptor
from ops import compose
from simulator.tenant import View
from tests.installation import CORP, Installation, installed
from tests.servers import wait_until
from tests.truth import differences
from tests.workers.helpers import an_event
from workers.copy import MAX_ATTEMPTS, Copy, Progress
from workers.dingtalk import ROLE_GROUPS_PAGE, DingTalk
from workers.errors import ApiError, Gone, QuotaSpent, Throttled, Transient
from workers.fold import Folder, Outcome
from workers.moment import SECOND
from workers.refresh import Refresher
from workers.registry import Registry
from workers.shapes import Scope
from workers.store import comparisons, copies, tables
from workers.store.draft import ChangeKind
from workers.store.reads import Taken

KINDS: list[ChangeKind] = ["user", "department", "role", "role_group", "corp"]


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path, users=40) as installation:
        yield installation


@pytest.fixture
def one_place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite alone, for what the datastore has no part in."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=40) as installation:
        yield installation


def the_client(place: Installation) -> DingTalk:
    found = place.parts.readers.client(CORP)
    assert found is not None
    return found


def start(place: Installation, client: Any = None, folder: Folder | None = None) -> Iterator[Progress]:
    parts = place.parts
    return Copy(parts.store, parts.clock, folder or parts.folder, client or the_client(place), CORP).run()


def copy(place: Installation, client: Any = None, folder: Folder | None = None) -> Progress:
    """A whole copy; how it ended."""
    return list(start(place, client, folder))[-1]


def grant(place: Installation, departments: Sequence[int] = (), users: Sequence[str] = ()) -> None:
    """What the app may see from now on."""
    access = place.simulator.app("acme").access
    access.authed_dept, access.authed_user = tuple(departments), tuple(users)


def living(place: Installation, table: sa.Table, key: str) -> set[Any]:
    """What is there and visible."""
    return {row[key] for row in place.rows(table) if row["deleted_at"] is None and row["visible"]}


def below(place: Installation, dept_id: int) -> set[int]:
    """A department with all that lie under it."""
    view = View(place.simulator.tenants[CORP])
    return {key for key in place.simulator.tenants[CORP].departments.rows if dept_id in view.ancestors(key)}


def members(place: Installation, departments: set[int]) -> set[str]:
    users = place.simulator.truth("acme")["users"]
    return {row["userid"] for row in users if any(own["dept_id"] in departments for own in row["departments"])}


def a_branch(place: Installation) -> int:
    """A department other than the root that has some below it, or members."""
    tenant = place.simulator.tenants[CORP]
    return max((key for key in tenant.departments.rows if key != 1), key=lambda key: len(below(place, key)))


@dataclass
class Partly:
    """A client that cannot list one department."""

    whole: DingTalk
    broken: int

    def scopes(self, *, live: bool = True, fresh: bool = False) -> Scope:
        return self.whole.scopes(live=live)

    def sub_departments(self, dept_id: int, *, live: bool = True) -> list[int]:
        if dept_id == self.broken:
            raise Transient("-1", "busy", "/topapi/v2/department/listsubid")
        return self.whole.sub_departments(dept_id, live=live)

    def user_ids(self, dept_id: int, *, live: bool = True) -> list[str]:
        return self.whole.user_ids(dept_id, live=live)


def test_the_datastore_equals_the_tenant(place: Installation) -> None:
    steps = list(start(place))
    assert differences(place) == []
    assert steps[-1].faults == []
    assert steps[-1].read == steps[-1].found
    assert [step.found for step in steps] == sorted(step.found for step in steps)
    truth = place.simulator.truth("acme")
    assert steps[-1].found == len(truth["users"]) + len(truth["departments"]) + 1
    assert place.rows(tables.reads) == []


def test_it_makes_no_call_too_many(one_place: Installation) -> None:
    copy(one_place)
    truth = one_place.simulator.truth("acme")
    departments, users = len(truth["departments"]), len(truth["users"])
    assert one_place.simulator.calls.as_dict()["calls"] == {
        "/gettoken": 1,
        "/auth/scopes": 1,
        "/topapi/v2/department/listsubid": departments,
        "/topapi/user/listid": departments,
        "/topapi/v2/department/get": departments,
        "/topapi/v2/user/get": users,
        "/topapi/role/list": math.ceil(len(truth["role_groups"]) / ROLE_GROUPS_PAGE),
        # One for each batch of reads that has an admin in it, and here there is one batch.
        "/topapi/user/listadmin": 1,
    }


def with_functions(place: Installation) -> Folder:
    """A folder for which every change has a function."""
    registry = Registry()
    registry.on_change(*KINDS)(lambda change, directory: None)
    return Folder(
        Refresher(place.parts.store, place.parts.clock, place.parts.readers), registry, place.parts.suites, 1.0
    )


def test_a_first_copy_runs_no_functions(redis_url: str, tmp_path: Path) -> None:
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=300) as place:
        copy(place, folder=with_functions(place))
        assert {row["entity"] for row in place.rows(tables.changes)} == set(KINDS)
        assert place.rows(tables.outbox) == []
        assert differences(place) == []


def test_it_runs_them_where_somebody_asks_for_it(one_place: Installation) -> None:
    parts = one_place.parts
    folder = with_functions(one_place)
    first = Copy(parts.store, parts.clock, folder, the_client(one_place), CORP, with_jobs=True)
    assert list(first.run())[-1].faults == []
    owed = {row["change_seq"] for row in one_place.rows(tables.outbox)}
    assert owed == {row["seq"] for row in one_place.rows(tables.changes)}
    assert {lane for row in one_place.rows(tables.outbox) if (lane := row["lane"])} == first.lanes


def test_a_later_copy_runs_them_for_what_it_changes(one_place: Installation) -> None:
    copy(one_place)
    known = {row["seq"] for row in one_place.rows(tables.changes)}
    one_place.simulator.change("acme", event="user_modify_org", deliver=False)
    copy(one_place, folder=with_functions(one_place))
    owed = {row["change_seq"] for row in one_place.rows(tables.outbox)}
    assert owed == {row["seq"] for row in one_place.rows(tables.changes)} - known != set()


def test_it_is_complete_though_a_worker_reads_beside_it(place: Installation) -> None:
    parts = place.parts
    beside = compose.sync_worker(parts, events.queue_names())
    steps = start(place)
    for _ in steps:
        beside.turn()
    assert differences(place) == []


def test_jobs_of_a_batch_that_ends_last_are_told_of(one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read what others had noted; all of the copy's own was read before."""
    turns, plain = iter(range(99)), Copy._work

    def work(made: Copy) -> tuple[Sequence[Taken], Outcome | None]:
        if next(turns) != 1:
            return plain(made)
        wait_until(lambda: made._listed > 0 and made._left == 0, 20, "the other batch")
        return [], Outcome(lanes={"a lane"})

    monkeypatch.setattr(Copy, "_work", work)
    parts = one_place.parts
    made = Copy(parts.store, parts.clock, parts.folder, the_client(one_place), CORP)
    for _ in made.run():
        pass
    assert "a lane" in made.lanes


@pytest.mark.parametrize("finisher", ["another copy", "the workers"])
def test_what_a_copy_that_was_broken_off_has_found_is_not_lost(
    redis_url: str, datastore_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finisher: str
) -> None:
    monkeypatch.setattr("workers.copy.BATCH", 64)  # or it would have read everything before it is broken off
    with installed(redis_url, datastore_url, tmp_path, users=300) as place:
        steps = start(place)
        while next(steps).read == 0:
            assert differences(place) != []
        steps.close()  # type: ignore[attr-defined]
        assert differences(place) != []
        if finisher == "another copy":
            assert copy(place).faults == []
        else:
            place.work_off()
        assert differences(place) == []


@pytest.mark.parametrize("tried", [False, True])
def test_what_a_first_copy_left_is_read_by_a_later_one_though_a_comparison_came_between(
    redis_url: str, tmp_path: Path, tried: bool
) -> None:
    """Also at once what was tried in vain, and put off for long."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=300) as place:
        steps = start(place)
        while next(steps).read == 0:
            assert differences(place) != []
        steps.close()  # type: ignore[attr-defined]
        with place.parts.store.writing() as connection:
            now = place.parts.clock.now().micros
            comparisons.copied(connection, CORP, now, Scope((), (1,), ()))
            if tried:
                copies.finish(connection, CORP)
                connection.execute(sa.update(tables.reads).values(attempts=1, due_at=now + 900 * SECOND))
        assert copy(place).faults == []
        assert differences(place) == []


def test_it_walks_what_the_app_may_see_now(one_place: Installation) -> None:
    grant(one_place, departments=[a_branch(one_place)])
    copy(one_place)
    grant(one_place, departments=[1])
    copy(one_place)
    assert differences(one_place) == []


def test_a_second_copy_changes_nothing(place: Installation) -> None:
    copy(place)
    before = place.rows(tables.changes)
    copy(place)
    assert place.rows(tables.changes) == before


def test_it_finds_what_no_event_told(place: Installation) -> None:
    copy(place)
    for _ in range(30):
        place.simulator.change("acme", deliver=False)
    copy(place)
    # What is gone without a word is no part of a copy; the comparison finds it.
    assert [line for line in differences(place) if "DingTalk None" not in line] == []


def test_only_what_the_app_may_see_is_copied(place: Installation) -> None:
    branch = a_branch(place)
    grant(place, [branch])
    last = copy(place)
    place.work_off()
    assert last.faults == []
    assert living(place, tables.departments, "dept_id") == below(place, branch)
    assert living(place, tables.users, "userid") == members(place, below(place, branch))


def test_single_users_in_the_scope_are_copied_too(place: Installation) -> None:
    branch = a_branch(place)
    inside = members(place, below(place, branch))
    outside = next(row["userid"] for row in place.simulator.truth("acme")["users"] if row["userid"] not in inside)
    grant(place, [branch], [outside])
    copy(place)
    place.work_off()
    assert living(place, tables.users, "userid") == inside | {outside}


def test_a_department_that_cannot_be_listed_is_named_and_stops_nothing(place: Installation) -> None:
    leaf = max(key for key in place.simulator.tenants[CORP].departments.rows if below(place, key) == {key})
    last = copy(place, Partly(the_client(place), leaf))
    (fault,) = last.faults
    assert f"department {leaf} cannot be listed" in fault
    assert "busy" in fault
    others = set(place.simulator.tenants[CORP].departments.rows) - {leaf}
    assert living(place, tables.departments, "dept_id") == others | {leaf}
    assert living(place, tables.users, "userid") >= members(place, others)


def test_a_department_that_is_gone_before_its_turn_is_no_fault(one_place: Installation) -> None:
    client = Failing(the_client(one_place), a_branch(one_place), Gone("60003"), 1, scope_refused=True)
    assert copy(one_place, client).faults == []
    assert one_place.rows(tables.comparisons)[0]["copied_at"] is not None


def test_what_cannot_be_read_is_named_and_stops_nothing(one_place: Installation) -> None:
    access = one_place.simulator.app("acme").access
    access.permissions = access.permissions - {"qyapi_get_member"}
    last = copy(one_place)
    truth = one_place.simulator.truth("acme")
    (fault,) = last.faults
    assert fault.startswith(f"{len(truth['users'])} users cannot be read: ")
    assert "60011" in fault
    # No fault names a person.
    assert not any(row["userid"] in fault for fault in last.faults for row in truth["users"])
    assert living(one_place, tables.departments, "dept_id") == {row["dept_id"] for row in truth["departments"]}
    access.permissions = access.permissions | {"qyapi_get_member"}
    assert copy(one_place).faults == []
    assert differences(one_place) == []


def listings(place: Installation) -> int:
    return int(place.simulator.calls.as_dict()["calls"].get("/topapi/user/listid", 0))


def versions(place: Installation) -> set[int]:
    """How often users were read."""
    return {row["version"] for row in place.rows(tables.users)}


@pytest.mark.parametrize("stage", ["listing", "reading"])
def test_one_that_was_killed_goes_on_and_reads_nothing_twice(redis_url: str, tmp_path: Path, stage: str) -> None:
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=400) as place:
        departments = len(place.simulator.tenants[CORP].departments.rows)
        place.simulator.faults.latency_ms = 100
        command = [sys.executable, "-m", "ops", "sync", "--json"]
        process = subprocess.Popen(command, env=place.environment(), cwd=place.folder)
        if stage == "listing":
            wait_until(lambda: any(row["listed"] for row in place.rows(tables.copy_departments)), 60)
        else:
            wait_until(lambda: place.rows(tables.users), 60)
        process.kill()
        process.wait(10)
        known = {row["userid"] for row in place.rows(tables.users)}
        listed = sum(bool(row["listed"]) for row in place.rows(tables.copy_departments))
        assert len(known) < 400
        assert (listed < departments) == (stage == "listing")
        place.simulator.faults.latency_ms = 0
        before = listings(place)
        last = copy(place)
        assert last.faults == []
        assert (last.found, last.read) == (departments + 401, departments + 401)
        assert differences(place) == []
        assert versions(place) == {1}
        assert listings(place) - before == departments - listed
        assert place.rows(tables.copies) == place.rows(tables.copy_departments) == []


@pytest.mark.parametrize("change", [{"begun_at": 0}, {"begun_life": "of another Redis"}])
def test_one_broken_off_long_ago_or_under_another_redis_begins_anew(
    one_place: Installation, change: dict[str, Any]
) -> None:
    steps = start(one_place)
    while next(steps).read < 40:
        assert versions(one_place) <= {1}
    steps.close()  # type: ignore[attr-defined]
    with one_place.parts.store.writing() as connection:
        connection.execute(sa.update(tables.copies).values(change))
    copy(one_place)
    assert 2 in versions(one_place)


def test_what_events_have_read_since_it_began_is_not_read_again(one_place: Installation) -> None:
    parts = one_place.parts
    with parts.store.writing() as connection:
        copies.begin(connection, CORP, parts.clock.now())
    userid = one_place.simulator.truth("acme")["users"][0]["userid"]
    assert all(Acceptor(parts.connection).accept([an_event(users=[userid])]))
    one_place.work_off()
    (before,) = versions(one_place)
    copy(one_place)
    assert versions(one_place) == {1, before}
    copy(one_place)
    assert versions(one_place) == {2, before + 1}


@dataclass
class Failing(Partly):
    """A client that refuses to list that department so many times, and the scope once."""

    error: ApiError
    times: int
    scope_refused: bool = False

    def scopes(self, *, live: bool = True, fresh: bool = False) -> Scope:
        self.scope_refused, refused = True, self.scope_refused
        if not refused:
            raise self.error
        return self.whole.scopes(live=live)

    def sub_departments(self, dept_id: int, *, live: bool = True) -> list[int]:
        if dept_id == self.broken and self.times:
            self.times -= 1
            raise self.error
        return self.whole.sub_departments(dept_id, live=live)


@pytest.mark.parametrize(
    ("error", "times"), [(Throttled("90018", wait=0.1), MAX_ATTEMPTS + 2), (Transient("-1"), MAX_ATTEMPTS - 1)]
)
def test_what_passes_is_waited_out_and_no_fault(one_place: Installation, error: ApiError, times: int) -> None:
    client = Failing(the_client(one_place), a_branch(one_place), error, times)
    assert copy(one_place, client).faults == []
    assert client.times == 0
    assert differences(one_place) == []


def test_a_spent_quota_stops_it_and_it_goes_on_later(one_place: Installation) -> None:
    client = Failing(the_client(one_place), a_branch(one_place), QuotaSpent("90020", wait=600.0), 1)
    for _ in range(2):
        with pytest.raises(QuotaSpent):
            copy(one_place, client)
    assert copy(one_place, client).faults == []
    assert differences(one_place) == []


def test_one_that_cannot_begin_says_so(one_place: Installation) -> None:
    one_place.simulator.change("acme", "org_remove", deliver=False)
    with pytest.raises(Gone):
        copy(one_place)
