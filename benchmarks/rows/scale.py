"""Whether an event costs more in a large installation: by people in the datastore, and by corps."""

import itertools
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import msgspec
import redis
import sqlalchemy as sa

from benchmarks import api
from benchmarks.place import DEPARTMENT, ROLE, Place, place
from benchmarks.row import Goal, Measure, Row, in_turn, ratio
from bridge.accept import Acceptor
from bridge.events import Entity, Event, queue_names
from tests.installation import CORP
from tests.workers.helpers import nobodys_suites
from workers import answers
from workers.batch import BatchWorker
from workers.errors import ApiError
from workers.fold import Folder
from workers.jobs import Dispatcher
from workers.moment import RedisClock
from workers.refresh import Refresher
from workers.registry import Registry
from workers.shapes import User
from workers.store import tables
from workers.store.engine import Store

#: People in the datastore, and corps, that are compared; people of all corps together.
PEOPLE, CORPS, IN_ALL_CORPS = (1_000, 10_000, 100_000), (15, 1_000), 30_000
#: Events of a measurement, each on another person, or they would fold; and those before that are not counted.
EVENTS, WARM_UP = 768, 192
#: Seconds of settling: no echo falls into a measurement.
SETTLE = 3600


class _Everybody:
    """Answers at once, as the API would: what is measured is ours."""

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, User], dict[Entity, ApiError]]:
        return {entity: answers.read_user(msgspec.json.decode(api.user(entity.id))) for entity in wanted}, {}

    def clients(self, corp_ids: Collection[str]) -> dict[str, object]:
        return dict.fromkeys(corp_ids, self)


@contextmanager
def by_people() -> Iterator[Measure]:
    with ExitStack() as stack:
        places = {f"{count} people": (stack.enter_context(_filled([CORP], count)), [CORP], count) for count in PEOPLE}
        yield lambda number: {
            f"{name}, CPU of an event, µs": _cost(*places[name]) for name in in_turn(number, list(places))
        }


@contextmanager
def by_corps() -> Iterator[Measure]:
    with ExitStack() as stack:
        places = {}
        for count in CORPS:
            corps = [f"ding{number:032x}" for number in range(count)]
            people = IN_ALL_CORPS // count
            places[f"{count} corps"] = (stack.enter_context(_filled(corps, people)), corps, people)
        yield lambda number: {
            f"{name}, CPU of an event, µs": _cost(*places[name]) for name in in_turn(number, list(places))
        }


@contextmanager
def _filled(corps: Sequence[str], people: int) -> Iterator[Place]:
    """A datastore that has read so many people in each corp before."""
    with place() as here, here.store() as store, store.writing() as sql:
        for corp in corps:
            sql.execute(sa.insert(tables.corps).prefix_with("OR IGNORE"), {"corp_id": corp})
            sql.execute(
                sa.insert(tables.departments).prefix_with("OR IGNORE"),
                {"corp_id": corp, "dept_id": DEPARTMENT, "version": 1},
            )
            sql.execute(sa.insert(tables.roles).prefix_with("OR IGNORE"), {"corp_id": corp, "role_id": ROLE})
            sql.execute(sa.insert(tables.users), [_person(corp, f"user{number}") for number in range(people)])
        sql.commit()
        yield here


def _person(corp: str, userid: str) -> dict[str, object]:
    raw = msgspec.json.decode(api.user(userid))["result"]
    return {"corp_id": corp, "userid": userid, "name": raw["name"], "version": 1, "raw": raw}


def _cost(here: Place, corps: Sequence[str], people: int) -> float:
    """Microseconds of this process's CPU for an event, from the claim to the word to Redis."""
    chosen = random.Random(next(_seeds))
    numbers = chosen.sample(range(len(corps) * people), WARM_UP + EVENTS)
    made = [_event(corps[number // people], f"user{number % people}") for number in numbers]
    with here.store() as store, here.redis as connection:
        worker = _worker(here, store, connection)
        for some, counts in ((made[:WARM_UP], False), (made[WARM_UP:], True)):
            Acceptor(connection).accept(some)
            begun = time.process_time()
            while worker.turn():
                pass
            if counts:
                return 1e6 * (time.process_time() - begun) / EVENTS
    raise AssertionError


def _worker(here: Place, store: Store, connection: redis.Redis) -> BatchWorker:
    refresher = Refresher(store, RedisClock(connection), _Everybody())  # type: ignore[arg-type]
    folder = Folder(refresher, Registry(), nobodys_suites(here.config, store, RedisClock(connection)), SETTLE)
    return BatchWorker(queue_names(), connection, store, folder, Dispatcher(store, connection))


_seeds = itertools.count()


def _event(corp: str, userid: str) -> Event:
    return Event(
        id=f"e{next(_seeds)}-{time.time_ns()}",
        type="user_modify_org",
        app="acme",
        corp_id=corp,
        via="http",
        occurred_at=None,
        user_ids=(userid,),
        payload=msgspec.Raw(b"{}"),
    )


def _goals(names: Sequence[str], unit: str) -> list[Goal]:
    first, *others = (f"{name} {unit}" for name in names)
    cost = "CPU of an event, µs"
    return [
        Goal(f"{other} against {first}", ratio(f"{other}, {cost}", f"{first}, {cost}"), 1.3, 1.05, more=False)
        for other in others
    ]


ROWS = (
    Row(
        "people",
        f"{EVENTS} events on people at random, one worker, SQLite, no API",
        by_people,
        _goals([str(n) for n in PEOPLE], "people"),
    ),
    Row(
        "corps",
        f"{EVENTS} events on people of corps at random, {IN_ALL_CORPS} in all, one worker, SQLite, no API",
        by_corps,
        _goals([str(n) for n in CORPS], "corps"),
    ),
)
