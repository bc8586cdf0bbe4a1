"""DingTalk's list of failed callbacks: stored as it came, then fed in like any other events.

Reading the list empties it. So a call is noted in the datastore before it is made, its reply is committed before it is
looked at, and all of its events are accepted before the next call; whoever finds a stored reply goes on from there.
One gap is left: a reply that is lost between DingTalk and that commit is lost with DingTalk too. Its call stays behind
without a reply and says so; the nightly comparison mends what it told of.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import redis
import structlog
from sqlalchemy.exc import DBAPIError

from bridge import events, messages
from bridge.accept import Acceptor
from bridge.config import AppConfig
from bridge.errors import MalformedCallback, NotDurable
from bridge.events import Event
from bridge.misses import Miss, Misses
from workers import answers, lenient
from workers.dingtalk import DingTalk, Keep
from workers.errors import ApiError
from workers.moment import SECOND, RedisClock
from workers.shapes import FailedList
from workers.store import failed_lists
from workers.store.engine import Store

#: Microseconds between two calls where nothing happened: each may count against a small monthly quota (api.md §8).
EVERY = 1800 * SECOND
#: The same from the last miss of a spell: DingTalk's retries have ended by then, and their failures can be read.
SETTLED = 300 * SECOND
#: The same, at most, while a spell of misses does not end.
WHILE_MISSING = 600 * SECOND
#: How long a call can take; one that has no reply then has lost it.
LOST_AFTER = timedelta(minutes=10)
#: Pages that are read in one go: 20 000 callbacks.
MAX_PAGES = 100
#: Events that are accepted in one call to Redis.
ACCEPT_EVENTS = 100
#: Seconds between two attempts to store what nobody else has.
KEEP_SECONDS = 1.0
#: Unreadable items of one reply that are named.
NAMED_FAULTS = 10
#: The types that a suite asks for.
TAGS = (*sorted(events.CATALOGUE), *sorted(messages.PUSH_EVENTS))

_LOST = "no reply was stored: its process ended meanwhile; what DingTalk may have told is left to the comparison"

log = structlog.get_logger()


@dataclass
class Outcome:
    """What came of reading: replies, their events by whether they are new, and what could not be read or asked."""

    replies: int = 0
    new: int = 0
    repeats: int = 0
    unreadable: int = 0
    faults: list[str] = field(default_factory=list)


class Source(NamedTuple):
    """An app whose failed list can be asked for."""

    app: AppConfig
    client: DingTalk


def due_at(last: int | None, miss: Miss | None) -> int:
    """When to read an app's list, in Redis' microseconds, after it was read `last` and callbacks were missed."""
    if last is None:
        return 0 if miss is None else min(miss.last + SETTLED, miss.first + WHILE_MISSING)
    if miss is None or last >= miss.last + SETTLED:
        return last + EVERY
    return min(last + EVERY, miss.last + SETTLED, max(miss.first, last) + WHILE_MISSING)


class Recovery:
    """Reads the failed lists of these apps."""

    def __init__(self, sources: Sequence[Source], store: Store, clock: RedisClock, connection: redis.Redis) -> None:
        self._sources = {source.app.name: source for source in sources}
        self._store = store
        self._clock = clock
        self._acceptor = Acceptor(connection)
        self._misses = Misses(connection)
        self._started = False

    @property
    def apps(self) -> Sequence[str]:
        """The names of the apps that can be asked."""
        return list(self._sources)

    def tick(self) -> None:
        """Do what is due; the clock that leads calls this in each round.

        Raises RedisError and the datastore's errors.
        """
        if self._sources and not self._started:
            self._misses.note(self._sources.keys())
            self._started = True
        misses = self._misses.read()
        now = self._clock.now().micros
        with self._store.reading() as connection:
            last = failed_lists.last_asked(connection)
        due = [name for name in self._sources if _is_due(now, last.get(name), misses.get(name))]
        try:
            outcome = self.recover(due)
        except NotDurable as error:
            log.warning("what failed at DingTalk is stored and waits", reason=str(error))
            return
        if outcome != Outcome():
            log.info(
                "recovered",
                replies=outcome.replies,
                events=outcome.new,
                repeats=outcome.repeats,
                unreadable=outcome.unreadable,
            )

    def recover(self, names: Sequence[str]) -> Outcome:
        """Finish what is stored, then read the lists of these apps.

        Raises NotDurable where Redis does not take the events, RedisError, and the datastore's errors; what is stored
        stays for the next run.
        """
        outcome = self._finish()
        for name in names:
            source = self._sources[name]
            read = self._read_suite if source.app.kind == "suite" else self._read_internal
            try:
                read(source, outcome)
            except ApiError as error:
                outcome.faults.append(f"{name}: {error}")
                log.warning("the failed list cannot be read", app=name, reason=str(error))
        return outcome

    def _finish(self) -> Outcome:
        """Take the replies that were stored and not taken, and own up to those that never were."""
        outcome = Outcome()
        with self._store.reading() as connection:
            calls = failed_lists.unfinished(connection)
        before = self._now() - LOST_AFTER
        for call in calls:
            if call.answered:
                self._take(call.id, outcome)
            elif call.asked_at < before:
                with self._store.writing() as connection:
                    failed_lists.finish(connection, call.id, datetime.now(UTC), _LOST)
                outcome.faults.append(f"{call.app}: {_LOST}")
                log.warning("a failed list may be lost", app=call.app, reason=_LOST)
        return outcome

    def _read_internal(self, source: Source, outcome: Outcome) -> None:
        for _ in range(MAX_PAGES):
            listed = self._ask(source.app.name, source.client.failed_callbacks, outcome)
            if not (listed.items and listed.more):
                return
        log.warning("the failed list goes on; the rest is read next time", app=source.app.name)

    def _read_suite(self, source: Source, outcome: Outcome) -> None:
        """Each page a second time to confirm it: DingTalk keeps it until then."""
        name, client = source.app.name, source.client
        cursor = 0

        def page(confirm: bool) -> Callable[[Keep], FailedList]:
            return lambda keep: client.failed_records(TAGS, cursor, confirm, keep)

        for _ in range(MAX_PAGES):
            listed = self._ask(name, page(False), outcome)
            if not listed.items:
                return
            confirmed = Outcome()
            self._ask(name, page(True), confirmed)
            # What is confirmed was taken before, but for what came in between.
            outcome.replies += confirmed.replies
            outcome.new += confirmed.new
            cursor = max([cursor, *_ids(listed)])
            if not listed.more:
                return
        log.warning("the failed list goes on; the rest is read next time", app=name)

    def _ask(self, name: str, call: Callable[[Keep], FailedList], outcome: Outcome) -> FailedList:
        """One call: noted, made, its reply stored and taken. Raises ApiError."""
        now = self._now()
        with self._store.writing() as connection:
            number = failed_lists.begin(connection, name, now)
            calls = failed_lists.calls_since(connection, name, now - timedelta(days=1))
        log.info("asking for failed callbacks", app=name, calls_in_24_h=calls)
        refused: ApiError | redis.RedisError | None = None
        try:
            call(lambda body: self._keep(number, body))
        except (ApiError, redis.RedisError) as error:
            refused = error
        # Whatever else the reply says: what it lists is listed nowhere any more.
        listed = self._take(number, outcome, refused)
        if refused is not None:
            raise refused
        return listed

    def _keep(self, number: int, body: bytes) -> None:
        """Store a reply; a datastore that is away is waited for, as there is no other copy."""
        at = datetime.now(UTC)
        while True:
            try:
                with self._store.writing() as connection:
                    failed_lists.keep(connection, number, messages.without_codes(body), at)
            except DBAPIError as error:
                log.warning("a failed list waits for the datastore", reason=type(error).__name__)
                time.sleep(KEEP_SECONDS)
            else:
                return

    def _take(self, number: int, outcome: Outcome, refused: Exception | None = None) -> FailedList:
        """Feed in what a call's stored reply lists, then mark it taken. Raises NotDurable."""
        with self._store.reading() as connection:
            reply = failed_lists.reply(connection, number)
        faults: list[str] = []
        listed = FailedList([], False)
        if reply.body is not None:
            outcome.replies += 1
            try:
                listed = answers.read_failed_list(lenient.decode(reply.body))
            except ValueError as error:
                if refused is None:
                    faults.append(f"the reply cannot be read: {error}")
        found = self._events(reply.app, listed, faults)
        for at in range(0, len(found), ACCEPT_EVENTS):
            fresh = self._acceptor.accept(found[at : at + ACCEPT_EVENTS])
            outcome.new += sum(fresh)
            outcome.repeats += len(fresh) - sum(fresh)
        told = _told(refused, faults)
        with self._store.writing() as connection:
            failed_lists.finish(connection, number, datetime.now(UTC), told)
        if faults:
            outcome.unreadable += len(faults)
            outcome.faults.append(f"{reply.app}: reply {number}: {told}")
            log.warning("what failed at DingTalk cannot be read", app=reply.app, reply=number, reason=told)
        return listed

    def _events(self, app: str, listed: FailedList, faults: list[str]) -> list[Event]:
        """The events of a reply; what cannot be read stops no other and is added to the faults."""
        corp_id = self._sources[app].app.corp_id if app in self._sources else None
        found: list[Event] = []
        for place, item in enumerate(listed.items, 1):
            try:
                found += messages.parse_failed_item(item, app, corp_id)
            except MalformedCallback as error:
                faults.append(f"item {place} of {len(listed.items)}: {error}")
        return found

    def _now(self) -> datetime:
        """Redis' time, which decides when the next call is due."""
        return datetime.fromtimestamp(self._clock.now().micros / SECOND, UTC)


def _is_due(now: int, last: datetime | None, miss: Miss | None) -> bool:
    micros = None if last is None else round(last.timestamp() * SECOND)
    # A call in the future was made before the clock was set back.
    return (micros is not None and micros > now) or due_at(micros, miss) <= now


def _ids(listed: FailedList) -> Iterator[int]:
    """The numbers that a suite's list gives its items."""
    for item in listed.items:
        if isinstance(item, dict) and str(item.get("id")).isdecimal():
            yield int(item["id"])


def _told(refused: Exception | None, faults: Sequence[str]) -> str | None:
    """What a row tells: DingTalk's refusal, and what could not be read, without what it says of people."""
    lines = [*faults[:NAMED_FAULTS], *([f"{len(faults) - NAMED_FAULTS} more"] if len(faults) > NAMED_FAULTS else [])]
    if isinstance(refused, ApiError):
        lines.insert(0, str(refused))
    elif refused is not None:
        lines.insert(0, f"DingTalk was not asked: {type(refused).__name__} from Redis")
    return "; ".join(lines) or None
