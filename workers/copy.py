"""A full copy of a corp: walk its departments breadth-first and note every entity as a read that is due."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bridge.events import Entity
from workers.dingtalk import DingTalk
from workers.errors import ApiError
from workers.fold import Folder
from workers.moment import RedisClock
from workers.store import comparisons, reads
from workers.store.engine import Store
from workers.store.reads import Due, Priority
from workers.workoff import WorkOff


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
        self._client = client
        self._corp_id = corp_id
        self._found: set[Entity] = set()
        self._unlisted: dict[Entity, str] = {}
        self._backlog = WorkOff(store, clock, folder, corp_id, Priority.COPY)
        self._read = 0

    def run(self) -> Iterator[Progress]:
        """Copy, telling the progress after each step; it is complete when this ends. Raises ApiError."""
        yield from self._walk()
        more = True
        while more:
            more = self._backlog.step()
            self._read = max(0, len(self._found) - self._backlog.left)
            yield self._progress()
        if not self._progress().faults:
            with self._store.writing() as connection:
                comparisons.copied(connection, self._corp_id, self._clock.now().micros, self._scope)

    def _walk(self) -> Iterator[Progress]:
        """From what the app may see down; one department that fails never stops the rest."""
        self._scope = scope = self._client.scopes(live=False)
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

    def _progress(self) -> Progress:
        return Progress(len(self._found), self._read, [*self._unlisted.values(), *self._backlog.faults])
