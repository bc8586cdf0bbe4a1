"""Work the reads of one corp off beside the workers: those of a copy or a comparison that somebody waits for."""

import time
from collections import Counter

from bridge.events import Entity
from workers.errors import QuotaSpent, Throttled
from workers.fold import Folder
from workers.moment import RedisClock
from workers.store import reads
from workers.store.engine import Store
from workers.store.reads import Priority

#: Reads that are made and committed together.
BATCH = 64
#: Attempts after which nobody waits for an entity any more; the workers go on trying.
MAX_ATTEMPTS = 3
#: Seconds between two looks while others work on what is left.
WAIT_SECONDS = 0.2


class WorkOff:
    """Reads that no event led to."""

    def __init__(self, store: Store, clock: RedisClock, folder: Folder, corp_id: str) -> None:
        self._store = store
        self._clock = clock
        self._folder = folder
        self._corp_id = corp_id
        self._unread: dict[Entity, str] = {}
        self._attempts: Counter[Entity] = Counter()
        #: Lanes of the outbox in which jobs now wait.
        self.lanes: set[str] = set()
        #: How many are left, after the last step.
        self.left = 0

    @property
    def faults(self) -> list[str]:
        """What cannot be read, each with the reason; nobody is named."""
        return list(self._unread.values())

    def begin(self) -> None:
        """What was tried in vain before is due at once."""
        now = self._clock.now().micros
        with self._store.writing() as connection:
            reads.revive(connection, self._corp_id, now, taken=False)

    def step(self) -> bool:
        """Read the next ones; False when nothing is left but what cannot be read. Raises QuotaSpent."""
        now = self._clock.now().micros
        with self._store.writing() as connection:
            taken = reads.take(connection, now, BATCH, Priority.COPY, self._corp_id)
        if taken:
            outcome = self._folder.apply([], taken)
            self.lanes |= outcome.lanes
            for read in taken:
                self._unread.pop(read.entity, None)
            # What an event led to is the workers' to wait for.
            alone = {read.entity: read.event_id is None for read in taken}
            for entity, error in outcome.late.items():
                if isinstance(error, QuotaSpent):
                    raise error
                self._attempts[entity] += not isinstance(error, Throttled)
                if alone[entity] and (error.permanent or self._attempts[entity] >= MAX_ATTEMPTS):
                    self._unread[entity] = _fault(entity, str(error))
        else:
            time.sleep(WAIT_SECONDS)
            with self._store.reading() as connection:
                others = reads.given_up(connection, self._corp_id, MAX_ATTEMPTS)
            self._unread |= {entity: _fault(entity, reason) for entity, reason in others.items()}
        with self._store.reading() as connection:
            self.left = reads.waiting(connection, self._corp_id)
        return self.left > len(self._unread)


def _fault(entity: Entity, reason: str) -> str:
    name = entity.kind if entity.kind == "user" else f"{entity.kind} {entity.id}".rstrip()
    return f"{name} cannot be read: {reason}"
