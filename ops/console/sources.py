"""Redis and the datastore as the pages ask them: where one is away, the page says so and shows the rest."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import redis
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from ops.console import backlog
from ops.console.backlog import Backlog
from workers import budget
from workers.budget import Paused
from workers.errors import DatastoreOutdated
from workers.store import migrate
from workers.store.engine import Store
from workers.store.suites import ticket_age, ticket_times

T = TypeVar("T")

REDIS_AWAY = "Redis does not answer. Events go to the receivers' spool meanwhile; nothing is applied."
STORE_AWAY = "The datastore does not answer. Events wait in Redis meanwhile; nothing is applied."
#: Seconds for which one that did not answer is not asked again: a page asks it several times, a browser many pages.
AWAY_SECONDS = 2.0
#: What the datastore raises when it is away, or its tables are missing.
STORE_ERRORS = (exc.DBAPIError, exc.TimeoutError)


class Fault(NamedTuple):
    """Why there is no answer, in a line for the operator."""

    reason: str


class Sources:
    """Thread-safe; raises nothing for a source that is away."""

    def __init__(self, connection: redis.Redis, store: Store, suites: Mapping[str, str]) -> None:
        """`suites`: the key of each third-party app, by its name."""
        self.connection = connection
        self._suites = suites
        self._store = store
        self._redis_away_until = self._store_away_until = 0.0

    def backlog(self) -> Backlog | Fault:
        """What lies in Redis."""
        return self._of_redis(backlog.observe)

    def paused(self) -> Paused | Fault:
        """Which of DingTalk's calls are not made at present."""
        return self._of_redis(budget.paused)

    def tickets(self) -> Mapping[str, float | None] | Fault:
        """How many seconds old the newest ticket of each third-party app is; None where none has come."""
        times = self.ask(ticket_times)
        if isinstance(times, Fault):
            return times
        return {app: ticket_age(times.get(suite_key)) for app, suite_key in self._suites.items()}

    def _of_redis(self, question: Callable[[redis.Redis], T]) -> T | Fault:
        if time.monotonic() >= self._redis_away_until:
            try:
                return question(self.connection)
            except redis.RedisError:
                self._redis_away_until = time.monotonic() + AWAY_SECONDS
        return Fault(REDIS_AWAY)

    def ask(self, question: Callable[[Connection], T]) -> T | Fault:
        """The datastore's answer."""
        if time.monotonic() < self._store_away_until:
            return Fault(STORE_AWAY)
        try:
            with self._store.reading() as connection:
                return question(connection)
        except STORE_ERRORS as error:
            return self._fault(error)

    def _fault(self, error: exc.SQLAlchemyError) -> Fault:
        try:
            migrate.check(self._store)
        except DatastoreOutdated as outdated:
            return Fault(f"{str(outdated)[:1].upper()}{str(outdated)[1:]}.")
        except STORE_ERRORS:
            self._store_away_until = time.monotonic() + AWAY_SECONDS
            return Fault(STORE_AWAY)
        return Fault(f"The datastore refused the question: {type(error).__name__}.")
