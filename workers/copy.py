"""A full copy of a corp: walk its departments breadth-first and note every entity as a read that is due."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import NamedTuple

from bridge.events import Entity
from workers.dingtalk import DingTalk
from workers.errors import ApiError, Gone, QuotaSpent, Throttled
from workers.fold import Folder, Outcome
from workers.moment import Moment, RedisClock
from workers.readers import ORG_DISSOLVED
from workers.shapes import Scope
from workers.store import comparisons, copies, reads
from workers.store.copies import Unlisted
from workers.store.engine import Store
from workers.store.reads import Priority, Taken

#: Departments that are listed at the same time, whose lists are noted together; and how many are asked for ahead.
LISTS, AHEAD = 32, 128
#: Entities that are looked up with one question.
CHUNK = 1000
#: Reads that are made and committed together, if the budget grants so many, and how many such batches are under way.
BATCH, LANES = 256, 2
#: Attempts after which a copy ends without an entity; the workers go on trying.
MAX_ATTEMPTS = 3
#: Seconds until what failed is tried again, and between two looks while others work on what is left.
RETRY_SECONDS, LOOK_SECONDS = 1.0, 0.2
#: Seconds between two counts of what is left.
COUNT_SECONDS = 1.0


class Progress(NamedTuple):
    """How far a copy is: departments listed, entities found so far, and those of them that were read."""

    listed: int
    found: int
    read: int
    #: Whether all departments were listed: nothing more will be found.
    walked: bool
    #: At the end: what could not be listed or read, each with the reason.
    faults: Sequence[str] = ()


class _Listing(NamedTuple):
    children: Sequence[int]
    members: Sequence[str]


class Copy:
    """One run of a full copy, which goes on where one that was killed stood; entities are read as for events.

    What it found is in the datastore alone, so its memory does not grow with the corp.
    """

    def __init__(
        self,
        store: Store,
        clock: RedisClock,
        folder: Folder,
        client: DingTalk,
        corp_id: str,
        *,
        with_jobs: bool = False,
    ) -> None:
        """Users' functions stay quiet about a corp's first copy, unless `with_jobs`."""
        self._store = store
        self._clock = clock
        self._folder = folder
        self._client = client
        self._corp_id = corp_id
        self._with_jobs = with_jobs
        self._batch = min(folder.at_once or BATCH, BATCH)
        #: Of what it notes; what earlier ones have left unread it reads as well.
        self._priority = Priority.COPY
        #: Lanes of the outbox in which jobs now wait.
        self.lanes: set[str] = set()
        #: Attempts at listing, by department; 0 is the scope.
        self._lists: Counter[int] = Counter()
        self._reads: Counter[Entity] = Counter()
        #: Why departments could not be listed and entities not be read.
        self._unlisted: dict[int, str] = {}
        self._unread: dict[Entity, str] = {}
        self._listed = 0
        self._found = 0
        self._left = 0

    def run(self) -> Iterator[Progress]:
        """Copy, telling the progress after each step; it is complete when this ends.

        Raises ApiError where it cannot begin, and QuotaSpent; another run goes on from there.
        """
        now = self._clock.now()
        with self._store.writing() as connection:
            begun, self._found = copies.begin(connection, self._corp_id, now)
            first = comparisons.state(connection, self._corp_id, now.micros).copied_at is None
        self._priority = Priority.COPY if first and not self._with_jobs else Priority.HEAL
        self._count()
        scope = self._note_scope(begun)
        with ThreadPoolExecutor(LISTS, thread_name_prefix="list") as pool:
            try:
                while self._walk(begun, pool):
                    yield self._progress(walked=False)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # nobody would note what was asked for ahead
        yield from self._read()
        with self._store.writing() as connection:
            copies.finish(connection, self._corp_id)
            if not self._faults():
                comparisons.copied(connection, self._corp_id, self._clock.now().micros, scope)
        yield self._progress(walked=True)._replace(faults=self._faults())

    def _note_scope(self, begun: Moment) -> Scope:
        """The role list, and what the app may see: there the walk begins."""
        while True:
            try:
                scope = self._client.scopes(live=False)
            except ApiError as error:
                if self._gives_up(0, error):
                    raise
                time.sleep(_wait(error))
            else:
                break
        entities = [Entity(self._corp_id, "roles", ""), *self._users(scope.users)]
        self._note(begun, entities, dict.fromkeys(scope.departments, 0), {})
        return scope

    def _walk(self, begun: Moment, pool: ThreadPoolExecutor) -> bool:
        """List the next departments and note whom they name; False when there are none."""
        with self._store.reading() as connection:
            level = copies.unlisted(connection, self._corp_id, AHEAD)
        waits: list[float] = []
        # While some are noted, the next are asked for.
        answers = zip(level, pool.map(self._list, level), strict=True)
        while some := list(islice(answers, LISTS)):
            waits += self._note_lists(begun, some)
        time.sleep(max(waits, default=0.0))
        return bool(level)

    def _note_lists(self, begun: Moment, answers: Iterable[tuple[Unlisted, _Listing | ApiError]]) -> list[float]:
        """Note whom they name; seconds until those are asked for again that failed."""
        listed: dict[int, bool] = {}
        depths: dict[int, int] = {}
        entities: list[Entity] = []
        waits: list[float] = []
        for (dept_id, depth), answer in answers:
            if isinstance(answer, _Listing):
                depths |= dict.fromkeys(answer.children, depth + 1)
                entities += self._users(answer.members)
            elif not self._gives_up(dept_id, answer):
                waits.append(_wait(answer))
                continue
            else:
                # One department that fails never stops the rest.
                self._unlisted[dept_id] = str(answer)
            listed[dept_id] = isinstance(answer, _Listing)
            entities.append(Entity(self._corp_id, "department", str(dept_id)))
        self._note(begun, entities, depths, listed)
        return waits

    def _note(
        self, begun: Moment, entities: Iterable[Entity], depths: Mapping[int, int], listed: Mapping[int, bool]
    ) -> None:
        """In one transaction: what is to be read, unless anybody has since the copy began, and how far the walk is."""
        wanted = list(dict.fromkeys(entities))
        chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
        unread = [self._folder.unread_since(begun, chunk) for chunk in chunks]
        with self._store.writing() as connection:
            copies.come_upon(connection, self._corp_id, depths)
            copies.set_listed(connection, self._corp_id, listed)
            new = sum(copies.note(connection, self._corp_id, begun, chunk, self._priority) for chunk in unread)
        self._found, self._left = self._found + new, self._left + new
        self._listed += len(listed)

    def _list(self, dept: Unlisted) -> _Listing | ApiError:
        try:
            children = self._client.sub_departments(dept.dept_id, live=False)
            return _Listing(children, self._client.user_ids(dept.dept_id, live=False))
        except Gone as error:
            # Since somebody told of it; its own read will say so.
            return error if error.code == ORG_DISSOLVED else _Listing((), ())
        except ApiError as error:
            return error

    def _gives_up(self, dept_id: int, error: ApiError) -> bool:
        """Whether not to ask for this list again. Raises QuotaSpent, as any other would cost as much."""
        if isinstance(error, QuotaSpent):
            raise error
        self._lists[dept_id] += not isinstance(error, Throttled)
        return error.permanent or self._lists[dept_id] >= MAX_ATTEMPTS

    def _read(self) -> Iterator[Progress]:
        """Read what was noted until nothing is left but what cannot be read, beside the workers."""
        self._count()
        counted = time.monotonic()
        # While one lane writes, others read.
        with ThreadPoolExecutor(LANES, thread_name_prefix="copy") as pool:
            lanes = {pool.submit(self._work) for _ in range(LANES)}
            while self._left > len(self._unread):
                done, lanes = wait(lanes, return_when=FIRST_COMPLETED)
                worked = [self._account(*lane.result()) for lane in done]
                if not all(worked) or self._left <= len(self._unread) or time.monotonic() > counted + COUNT_SECONDS:
                    self._count()
                    counted = time.monotonic()
                yield self._progress(walked=True)
                if not all(worked):
                    with self._store.reading() as connection:
                        self._unread |= reads.given_up(connection, self._corp_id, MAX_ATTEMPTS)
                    time.sleep(LOOK_SECONDS)
                lanes |= {pool.submit(self._work) for _ in done}
            for lane in lanes:  # with nothing of ours; what others have noted meanwhile may owe jobs
                self._account(*lane.result())
        self._count()

    def _count(self) -> None:
        with self._store.reading() as connection:
            self._left = reads.waiting(connection, self._corp_id)

    def _work(self) -> tuple[Sequence[Taken], Outcome | None]:
        """Read the next ones that are due; what came of it, if there were any."""
        now = self._clock.now().micros
        with self._store.writing() as connection:
            taken = reads.take(connection, now, self._batch, Priority.COPY, self._corp_id)
        return taken, self._folder.apply([], taken) if taken else None

    def _account(self, taken: Sequence[Taken], outcome: Outcome | None) -> bool:
        """What became of them; False when none was due. Raises QuotaSpent."""
        if outcome is None:
            return False
        self.lanes |= outcome.lanes
        late = outcome.late
        for read in taken:
            if read.entity not in late:
                self._unread.pop(read.entity, None)
                self._left -= read.event_id is None
        # What an event led to is the workers' to wait for.
        alone = {read.entity: read.event_id is None for read in taken}
        for entity, error in late.items():
            if isinstance(error, QuotaSpent):
                raise error
            self._reads[entity] += not isinstance(error, Throttled)
            if alone[entity] and (error.permanent or self._reads[entity] >= MAX_ATTEMPTS):
                self._unread[entity] = str(error)
        return True

    def _users(self, userids: Iterable[str]) -> Iterator[Entity]:
        return (Entity(self._corp_id, "user", userid) for userid in userids)

    def _progress(self, walked: bool) -> Progress:
        return Progress(self._listed, self._found, max(0, self._found - self._left), walked)

    def _faults(self) -> list[str]:
        """Departments by their id, people by their number."""
        faults = [f"department {dept_id} cannot be listed: {reason}" for dept_id, reason in self._unlisted.items()]
        people: Counter[str] = Counter()
        for (_, kind, entity_id), reason in self._unread.items():
            if kind == "user":
                people[reason] += 1
            else:
                faults.append(f"{kind} {entity_id}".rstrip() + f" cannot be read: {reason}")
        return faults + [f"{count} users cannot be read: {reason}" for reason, count in people.items()]


def _wait(error: ApiError) -> float:
    return error.wait if isinstance(error, Throttled) else RETRY_SECONDS
