"""A full copy of a corp: walk its departments breadth-first and note every entity as a read that is due."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bridge.events import Entity
from workers.dingtalk import DingTalk
from workers.errors import ApiError, Throttled
from workers.fold import Folder
from workers.moment import RedisClock
from workers.store import reads
from workers.store.engine import Store
from workers.store.reads import Due, Priority

#: Reads that are made and committed together.
BATCH = 64
#: Attempts after which a copy ends without an entity; the workers go on trying.
MAX_ATTEMPTS = 3
#: Seconds between two looks while others work on what is left.
WAIT_SECONDS = 0.2


class Progress(NamedTuple):
    """How far a copy is: entities found so far, and those of them that were read."""

    found: int
    read: int
    #: What could not be listed or read, each with the reason.
    faults: Sequence[str]


class Copy:
    """One run of a full copy; entities are read through `refresh`, as for events."""

    def __init__(self, store: Store, clock: RedisClock, folder: Folder, client: DingTalk, corp_id: str) -> None:
        self._store = store
        self._clock = clock
        self._folder = folder
        self._client = client
        self._corp_id = corp_id
        self._found: set[Entity] = set()
        self._unlisted: dict[Entity, str] = {}
        self._unread: dict[Entity, str] = {}
        self._attempts: Counter[Entity] = Counter()
        self._read = 0

    def run(self) -> Iterator[Progress]:
        """Copy, telling the progress after each step; it is complete when this ends. Raises ApiError."""
        yield from self._walk()
        more = True
        while more:
            more = self._work()
            yield self._progress()

    def _walk(self) -> Iterator[Progress]:
        """From what the app may see down; one department that fails never stops the rest."""
        scope = self._client.scopes(live=False)
        self._note([Entity(self._corp_id, "roles", "")])
        self._note([Entity(self._corp_id, "user", userid) for userid in scope.users])
        level = list(scope.departments)
        while level:
            below: dict[int, None] = {}
            for dept_id in level:
                entity = Entity(self._corp_id, "department", str(dept_id))
                if entity in self._found:
                    continue
                try:
                    children = self._client.sub_departments(dept_id, live=False)
                    members = self._client.user_ids(dept_id, live=False)
                except ApiError as error:
                    self._unlisted[entity] = f"department {dept_id} cannot be listed: {error}"
                    children, members = [], []
                self._note([entity, *(Entity(self._corp_id, "user", userid) for userid in members)])
                below |= dict.fromkeys(children)
                yield self._progress()
            level = list(below)

    def _note(self, entities: Sequence[Entity]) -> None:
        new = [entity for entity in dict.fromkeys(entities) if entity not in self._found]
        self._found.update(new)
        now = self._clock.now().micros
        with self._store.writing() as connection:
            reads.schedule(connection, [Due(entity, now, "copy", None, Priority.COPY) for entity in new])

    def _work(self) -> bool:
        """Read the next ones, beside the workers; False when nothing of the copy is left."""
        now = self._clock.now().micros
        with self._store.writing() as connection:
            taken = reads.take(connection, now, BATCH, Priority.COPY, self._corp_id)
        if taken:
            outcome = self._folder.apply([], taken)
            for read in taken:
                self._unread.pop(read.entity, None)
            for entity, error in outcome.late.items():
                self._attempts[entity] += not isinstance(error, Throttled)
                if error.permanent or self._attempts[entity] >= MAX_ATTEMPTS:
                    name = entity.kind if entity.kind == "user" else f"{entity.kind} {entity.id}".rstrip()
                    self._unread[entity] = f"{name} cannot be read: {error}"
        else:
            time.sleep(WAIT_SECONDS)
        with self._store.reading() as connection:
            left = reads.waiting(connection, self._corp_id, Priority.COPY)
        self._read = max(0, len(self._found) - left)
        return left > len(self._unread)

    def _progress(self) -> Progress:
        return Progress(len(self._found), self._read, [*self._unlisted.values(), *self._unread.values()])
