"""Reading at DingTalk: many at a time, and admins with their level."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.accept import Acceptor
from ops.compose import READ_THREADS
from tests.installation import CORP, Installation, installed
from tests.servers import wait_until
from tests.workers.helpers import an_event, user
from workers.errors import ApiError, Gone, Hidden, Misconfigured, Transient
from workers.shapes import User
from workers.store import tables

LISTADMIN = "/topapi/user/listadmin"


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=240) as installation:
        yield installation


def people(place: Installation, **where: Any) -> list[str]:
    rows = place.simulator.truth("acme")["users"]
    return [row["userid"] for row in rows if all(row[name] == value for name, value in where.items())]


def calls(place: Installation, call: str = LISTADMIN) -> int:
    return int(place.simulator.calls.as_dict()["calls"].get(call, 0))


def test_admins_have_their_level_by_one_call(place: Installation) -> None:
    everybody = people(place)
    found, errors = place.parts.readers.read({user(userid): True for userid in everybody})
    assert errors == {}
    levels = {row["userid"]: row["admin_level"] for row in place.simulator.truth("acme")["users"]}
    assert {answer.userid: answer.admin_level for answer in found.values() if isinstance(answer, User)} == levels
    assert {1, 2, None} == set(levels.values())
    assert calls(place) == 1


def test_where_nobody_is_an_admin_nobody_asks_for_levels(place: Installation) -> None:
    place.parts.readers.read({user(userid): True for userid in people(place, admin=False)[:20]})
    assert calls(place) == 0


@pytest.mark.parametrize(
    ("refusal", "stands"),
    [
        (Misconfigured("60011", "", LISTADMIN), Misconfigured),
        # What it says of the list says nothing of an admin.
        (Gone("60121", "", LISTADMIN), Transient),
        (Hidden("50002", "", LISTADMIN), Transient),
    ],
)
def test_without_the_list_no_admin_is_read(
    place: Installation, monkeypatch: pytest.MonkeyPatch, refusal: ApiError, stands: type[ApiError]
) -> None:
    client = place.parts.readers.client(CORP)

    def refuse(**_options: Any) -> None:
        raise refusal

    monkeypatch.setattr(client, "admins", refuse)
    (admin, *_), (other, *_) = people(place, admin=True), people(place, admin=False)
    found, errors = place.parts.readers.read({user(admin): True, user(other): True})
    assert list(found) == [user(other)]
    assert {entity: type(error) for entity, error in errors.items()} == {user(admin): stands}


def test_a_level_that_changes_is_a_change(place: Installation) -> None:
    admin = people(place, admin_level=2)[0]
    tenant = place.simulator.tenants[CORP]

    def read(level: int) -> None:
        tenant.put_user(replace(tenant.users.rows[admin], admin_level=level))
        assert all(Acceptor(place.parts.connection).accept([an_event("org_admin_add", users=[admin])]))
        place.worker.turn()

    for level in (2, 1, 0):
        read(level)
    changed = [row for row in place.rows(tables.changes) if row["entity_id"] == admin]
    seen = [(row["after"]["admin"], row["after"]["admin_level"]) for row in changed]
    assert seen == [(True, 2), (True, 1), (False, None)]
    assert [row["before"] and row["before"]["admin_level"] for row in changed] == [None, 2, 1]


def test_an_event_that_names_many_is_read_concurrently(place: Installation) -> None:
    named = people(place)[:200]
    place.parts.readers.read({user(named[0]): True})  # the token
    place.simulator.faults.latency_ms = latency = 500
    assert all(Acceptor(place.parts.connection).accept([an_event(users=named)]))
    begun = time.monotonic()
    wait_until(lambda: not place.worker.turn() or place.rows(tables.events), 120, "the event")
    seconds = time.monotonic() - begun
    assert place.rows(tables.events)[0]["status"] == "applied"
    assert calls(place, "/topapi/v2/user/get") == 1 + len(named)
    # One after another would take a hundred seconds.
    rounds = math.ceil(len(named) / READ_THREADS) + 1  # and the list of admins
    assert seconds < 4 * rounds * latency / 1000
