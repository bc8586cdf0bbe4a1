"""Rule 4's guards: each test here fails without the guard that it is about."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from bridge.events import Entity
from tests.installation import CORP
from tests.servers import running_redis
from tests.workers.helpers import Desk, a_department, a_role_list, a_user, chain_breaks, department, roles, user
from workers.moment import Moment, RedisClock
from workers.readers import Answer
from workers.refresh import Refresher
from workers.store import tables
from workers.store.draft import Absence, Cause, Draft

U1 = user("u1")
#: An entity of each kind: itself, an older and a newer answer, and the value by which they differ.
KINDS: dict[str, tuple[Entity, Answer, Answer, Callable[[Desk], str]]] = {
    "user": (U1, a_user(name="old"), a_user(name="new"), lambda desk: desk.user()["name"]),
    "department": (
        department(2),
        a_department(2, name="old"),
        a_department(2, name="new"),
        lambda desk: desk.row(tables.departments)["name"],
    ),
    "roles": (
        roles(),
        a_role_list({1: {11: "old"}}),
        a_role_list({1: {11: "new"}}),
        lambda desk: desk.row(tables.roles)["name"],
    ),
}
GUARDS = {"user": tables.users, "department": tables.departments, "roles": tables.role_lists}


def raise_fence(desk: Desk, corp: str = CORP) -> None:
    """As a comparison does."""
    with desk.store.writing() as connection:
        connection.execute(
            sa.update(tables.fences).where(tables.fences.c.corp_id == corp).values(n=tables.fences.c.n + 1)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_noted_before_a_newer_committed_read_is_refused(desk: Desk, kind: str) -> None:
    entity, old, new, value = KINDS[kind]
    desk.write({entity: old})
    stale = desk.refresher.note([entity])
    desk.write({entity: new})
    assert desk.write({entity: old}, stale).moved == {entity}
    assert value(desk) == "new"


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_answer_for_an_entity_is_guarded_too(desk: Desk, kind: str) -> None:
    entity, old, new, value = KINDS[kind]
    stale = desk.refresher.note([entity])
    assert stale.versions == {entity: 0}
    desk.write({entity: new})
    assert desk.write({entity: old}, stale).moved == {entity}
    assert value(desk) == "new"


@pytest.mark.parametrize("absence", [Absence.GONE, Absence.HIDDEN, Absence.UNREAD])
@pytest.mark.parametrize("kind", ["user", "department"])
def test_an_id_never_seen_is_guarded_though_it_is_not_there(desk: Desk, kind: str, absence: Absence) -> None:
    entity, old, _, _ = KINDS[kind]
    stale = desk.refresher.note([entity])
    desk.write({entity: absence})
    left = desk.row(GUARDS[kind])
    assert desk.write({entity: old}, stale).moved == {entity}
    assert desk.row(GUARDS[kind]) == left


@pytest.mark.parametrize("kind", KINDS)
def test_a_fence_raised_after_the_note_refuses(desk: Desk, kind: str) -> None:
    entity, old, new, value = KINDS[kind]
    desk.write({entity: old})
    noted = desk.refresher.note([entity])
    raise_fence(desk)
    written, _ = desk.refresher.write(noted, {entity: new}, {entity: Cause(None, False)}, lambda draft, _: draft)
    assert written == set()
    assert value(desk) == "old"
    desk.write({entity: new})
    assert value(desk) == "new"


def test_the_fence_of_another_corp_refuses_nothing(desk: Desk) -> None:
    other = user("u1", "dingother")
    desk.write({U1: a_user(), other: a_user()})
    noted = desk.refresher.note([U1, other])
    raise_fence(desk, "dingother")
    desk.write({U1: a_user(name="new"), other: a_user(name="new")}, noted)
    assert desk.row(tables.users, corp_id=CORP)["name"] == "new"
    assert desk.row(tables.users, corp_id="dingother")["name"] != "new"


def test_an_id_never_seen_is_fenced_off_by_a_burial(desk: Desk) -> None:
    desk.write({department(1): a_department(1, None)})
    noted = desk.refresher.note([U1])
    desk.write({department(1): Absence.DISSOLVED})
    desk.write({U1: a_user()}, noted)
    assert desk.rows(tables.users) == []


def test_what_was_not_overtaken_is_written_beside_what_was(desk: Desk) -> None:
    other = user("u2")
    noted = desk.refresher.note([U1, other])
    desk.write({U1: a_user(name="new")})
    draft = desk.write({U1: a_user(name="old"), other: a_user("u2")}, noted)
    assert draft.moved == {U1}
    assert [change.entity_id for change in draft.changes] == ["u2"]
    assert desk.user()["name"] == "new"


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_that_finds_nothing_new_leaves_its_mark(desk: Desk, kind: str) -> None:
    entity, answer, _, _ = KINDS[kind]
    for version in (1, 2):
        noted = desk.refresher.note([entity])
        assert noted.versions[entity] == version - 1
        desk.write({entity: answer}, noted)
        row = desk.row(GUARDS[kind])
        assert (row["version"], row["read_begun"], row["read_life"]) == (version, *noted.moment)
    told = len(desk.changes())
    desk.write({entity: answer})
    assert len(desk.changes()) == told


def test_a_note_tells_the_moment_of_the_last_committed_read(desk: Desk) -> None:
    first = desk.refresher.note([U1])
    assert first.committed == {}
    desk.write({U1: a_user()}, first)
    second = desk.refresher.note([U1])
    assert second.committed == {U1: first.moment}
    assert second.moment.micros > first.moment.micros


def test_a_note_takes_the_time_after_what_the_datastore_held(desk: Desk) -> None:
    # The other way round a read committed in between would seem to be older than this one.
    class LateClock(RedisClock):
        def now(self) -> Moment:
            desk.write({U1: a_user(name="in between")})
            return desk.clock.now()

    with redis.Redis() as nowhere:
        noted = Refresher(desk.store, LateClock(nowhere), desk.script).note([U1])  # type: ignore[arg-type]
    assert desk.write({U1: a_user(name="stale")}, noted).moved == {U1}


def test_the_life_of_another_redis_is_kept_with_the_read(desk: Desk) -> None:
    with running_redis() as url, redis.Redis.from_url(url) as connection:
        there = Desk(desk.store, RedisClock(connection))
        there.write({U1: a_user()})
        life = connection.info("server")["run_id"]
    assert desk.user()["read_life"] == life != desk.clock.now().life


def test_a_writer_holds_the_fence_until_it_has_committed(postgresql_desk: Desk) -> None:
    desk = postgresql_desk
    desk.write({U1: a_user()})
    noted = desk.refresher.note([U1])

    def conclude(draft: Draft, written: set[Entity]) -> None:
        with pytest.raises(OperationalError, match="lock timeout"), desk.store.writing() as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            other.execute(sa.update(tables.fences).values(n=tables.fences.c.n + 1))

    desk.refresher.write(noted, {U1: a_user()}, {U1: Cause(None, False)}, conclude)


def test_two_writers_share_the_fence(postgresql_desk: Desk) -> None:
    desk = postgresql_desk
    desk.write({U1: a_user()})
    noted = desk.refresher.note([U1])

    def conclude(draft: Draft, written: set[Entity]) -> Draft:
        return desk.write({user("u2"): a_user("u2")})

    _, other = desk.refresher.write(noted, {U1: a_user()}, {U1: Cause(None, False)}, conclude)
    assert other.moved == set()
    assert len(desk.rows(tables.users)) == 2


def test_a_lost_race_for_locks_is_run_again(postgresql_desk: Desk) -> None:
    """Each of two transactions holds what the other wants next: PostgreSQL ends one, which is no attempt."""
    desk, both_hold, attempts = postgresql_desk, threading.Barrier(2), []
    for corp in (CORP, "dinga", "dingb"):
        desk.write({user("x", corp): a_user("x")})

    def touch(tx: sa.Connection, corp: str) -> None:
        tx.execute(sa.update(tables.corps).where(tables.corps.c.corp_id == corp).values(name="touched"))

    def work(userid: str, corps: tuple[str, str]) -> set[Entity]:
        entity, first = user(userid), True

        def conclude(draft: Draft, written: set[Entity]) -> None:
            nonlocal first
            attempts.append(userid)
            touch(draft.tx, corps[0])
            if first:
                first = False
                both_hold.wait(10)
            touch(draft.tx, corps[1])

        noted = desk.refresher.note([entity])
        return desk.refresher.write(noted, {entity: a_user(userid)}, {entity: Cause(None, False)}, conclude)[0]

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(work, "p1", ("dinga", "dingb"))
        two = pool.submit(work, "p2", ("dingb", "dinga"))
        assert (one.result(), two.result()) == ({user("p1")}, {user("p2")})
    assert len(attempts) == 3
    assert [row["userid"] for row in desk.rows(tables.users, corp_id=CORP)] == ["p1", "p2", "x"]


def test_any_other_fault_of_the_datastore_is_raised(desk: Desk) -> None:
    attempts = 0

    def conclude(draft: Draft, written: set[Entity]) -> None:
        nonlocal attempts
        attempts += 1
        raise OperationalError("SELECT 1", None, Exception("server closed the connection"))

    noted = desk.refresher.note([U1])
    with pytest.raises(OperationalError):
        desk.refresher.write(noted, {U1: a_user()}, {U1: Cause(None, False)}, conclude)
    assert attempts == 1
    assert desk.rows(tables.users) == []


def test_racing_writers_never_go_back_and_end_true(desk: Desk) -> None:
    """Four writers read a truth that moves on; answers wait at random before they are written."""
    truth = {"u1": 0, "u2": 0, "u3": 0}
    stop = time.monotonic() + 1.0

    def work(seed: int) -> int:
        rng, refused = random.Random(seed), 0
        while time.monotonic() < stop:
            entities = [user(userid) for userid in rng.sample(sorted(truth), 2)]
            truth[rng.choice(sorted(truth))] += 1
            noted = desk.refresher.note(entities)
            answers: dict[Entity, Answer] = {e: a_user(e.id, name=f"{truth[e.id]:09}") for e in entities}
            time.sleep(rng.random() / 200)
            refused += len(desk.write(answers, noted).moved)
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(work, range(4)))
    last = {user(userid): a_user(userid, name=f"{value:09}") for userid, value in truth.items()}
    desk.write(last)
    assert {row["userid"]: int(row["name"]) for row in desk.rows(tables.users)} == truth
    assert refused > 0
    story = desk.rows(tables.changes)
    assert list(chain_breaks(story)) == []
    for userid in truth:
        values = [int(change["after"]["name"]) for change in story if change["entity_id"] == userid]
        assert values == sorted(values)
