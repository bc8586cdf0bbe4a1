"""The RQ worker that takes many events at a time and loses none."""

import random
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import redis
import structlog

from bridge import queues
from workers.claimer import IDLE_SECONDS, Claimer, away, first_line
from workers.claims import MAX_LONE_DEATHS, UNSHARED, Claim
from workers.errors import ApiError, Throttled
from workers.fold import Folder, Waiting
from workers.jobs import Dispatcher
from workers.moment import SECOND, Moment, RedisClock
from workers.store import reads
from workers.store.engine import Store
from workers.store.reads import Priority, Taken

#: Jobs taken at once: enough to share a commit, few enough to lose little when one is poison.
BATCH = 64
#: Of these at most for one corp, where there are many: whoever comes next waits for the batch at hand to end.
CORP_SHARE = 6
#: Reads of a full copy that an idle worker takes at once: few, as events wait until they are made.
BULK = 8
#: Events go first: so many reads that are due are taken beside them at once, and after a look that found fewer, none
#: for so many seconds.
BESIDE, BESIDE_SECONDS = 16, 1.0
#: Seconds until a failed attempt is made again: the first, doubled up to the second, each with up to 25 % more.
RETRY_SECONDS = (2.0, 900.0)
#: Attempts after which an event is given up: about eight hours of trying.
MAX_ATTEMPTS = 40

log = structlog.get_logger()


def apply(event: Mapping[str, object]) -> NoReturn:
    """What an event's job names. It is applied with many others, and only by a worker that knows how."""
    raise RuntimeError("an event's job is for `dingbridge work`; a stock RQ worker cannot run it")


class BatchWorker(Claimer):
    """Takes events in batches, and the reads that are due."""

    def __init__(
        self,
        names: Sequence[str],
        connection: redis.Redis,
        store: Store,
        folder: Folder,
        dispatcher: Dispatcher,
        batch: int = BATCH,
        share: int = UNSHARED,
    ) -> None:
        """`share`: how many events of one corp a batch takes at most."""
        super().__init__(names, connection, share)
        self._store = store
        self._folder = folder
        self._dispatcher = dispatcher
        self._batch = batch
        self._clock = RedisClock(connection)
        #: Redis' microseconds at which the next noted read comes due; None where none is known.
        self._next_due: int | None = 0
        #: When (time.monotonic) it last saw all the reads that were due.
        self._looked = 0.0

    def turn(self) -> bool:
        """One batch: claim, apply, tell Redis."""
        self.upkeep()
        claims, self.put_off_due = self.claims.claim(self._batch)
        taken = self._take_due(len(claims))
        if claims or taken:
            self._apply(claims, taken)
        return bool(claims or taken)

    def _take_due(self, claimed: int) -> list[Taken]:
        """The reads that are due; the datastore is asked only when one can be, and beside events not each time."""
        begun = time.monotonic()
        if claimed and begun - self._looked < BESIDE_SECONDS:
            return []
        if not claimed and self._next_due is None:
            return []
        now = self._clock.now().micros
        if not claimed and now < (self._next_due or 0):
            return []
        limit = BESIDE if claimed else self._batch
        with self._store.writing() as connection:
            taken = reads.take(connection, now, limit, Priority.EVENT)
            if not taken and not claimed:
                taken = reads.take(connection, now, BULK, Priority.COPY)
            self._next_due = reads.next_due(connection)
        if len(taken) < limit:
            self._looked = begun
        return taken

    def wait(self) -> None:
        """Until an event is accepted, or something noted or put off comes due."""
        with self._store.reading() as connection:
            self._next_due = reads.next_due(connection)
        self._looked = time.monotonic()
        limits = [IDLE_SECONDS]
        if self.put_off_due is not None:
            limits.append(self.put_off_due)
        if self._next_due is not None:
            limits.append((self._next_due - self._clock.now().micros) / SECOND)
        if min(limits) > 0:
            self.claims.wait(min(limits))

    def _apply(self, claims: Sequence[Claim], taken: Sequence[Taken]) -> None:
        batch: dict[str, tuple[Claim, Waiting]] = {}
        for claim in claims:
            try:
                event = queues.decode(claim.plain())
            except ValueError as error:
                self.fail(claim, str(error))
                continue
            waiting = Waiting(event, Moment(claim.stamp, claim.life))
            if claim.lone_deaths >= MAX_LONE_DEATHS:
                self._give_up(claim, waiting, f"it ended {claim.lone_deaths} workers that had taken up nothing else")
            else:
                batch[event.id] = (claim, waiting)
        self._apply_together(batch, taken)

    def _apply_together(self, batch: Mapping[str, tuple[Claim, Waiting]], taken: Sequence[Taken]) -> None:
        """Apply all in one go; where that fails for what one of them holds, each by itself."""
        try:
            outcome = self._folder.apply([waiting for _, waiting in batch.values()], taken)
        except Exception as error:
            if away(error):
                raise
            # One bad event fails alone, whatever its fault is.
            if len(batch) + len(taken) > 1:
                for event_id, item in batch.items():
                    self._apply_together({event_id: item}, [])
                for read in taken:
                    self._apply_together({}, [read])
                return
            log.exception("could not apply", events=[waiting.event.id for _, waiting in batch.values()])
            for claim, waiting in batch.values():
                self._try_again(claim, waiting, f"{type(error).__name__}: {first_line(error)}")
            self._put_read_off(taken, f"{type(error).__name__}: {first_line(error)}")
            return
        self.claims.finish([claim for event_id, (claim, _) in batch.items() if event_id in outcome.final])
        for event_id, obstacle in outcome.errors.items():
            self._stand_against(*batch[event_id], obstacle)
        if outcome.next_due is not None:
            self._next_due = min(self._next_due or outcome.next_due, outcome.next_due)
        self._dispatcher.dispatch(outcome.lanes)

    def _stand_against(self, claim: Claim, waiting: Waiting, error: ApiError) -> None:
        """A throttle is waited out, what may pass is tried again, what is permanent is given up."""
        if isinstance(error, Throttled):
            self.claims.put_off(claim, error.wait * random.uniform(1.0, 1.5), claim.attempts)  # noqa: S311
        elif error.permanent:
            self._give_up(claim, waiting, str(error))
        else:
            self._try_again(claim, waiting, str(error))

    def _try_again(self, claim: Claim, waiting: Waiting, reason: str) -> None:
        attempts = claim.attempts + 1
        if attempts >= MAX_ATTEMPTS:
            self._give_up(claim, waiting, f"given up after {attempts} attempts: {reason}")
            return
        first, most = RETRY_SECONDS
        seconds = min(most, first * 2 ** (attempts - 1)) * random.uniform(1.0, 1.25)  # noqa: S311
        log.warning(
            "will try again", event_id=waiting.event.id, attempt=attempts, seconds=round(seconds, 1), reason=reason
        )
        self.claims.put_off(claim, seconds, attempts)

    def _give_up(self, claim: Claim, waiting: Waiting, reason: str) -> None:
        """The datastore first: whether an event is done is what its row says."""
        try:
            self._folder.fail(waiting, reason)
        except Exception as error:
            if away(error):
                raise
            # The row itself is what the datastore refuses; RQ's failed registry has the event then.
            log.exception("no row for an event that is given up", event_id=waiting.event.id)
        self.fail(claim, reason)

    def _put_read_off(self, taken: Sequence[Taken], reason: str) -> None:
        now = self._clock.now().micros
        first, most = RETRY_SECONDS
        due = {read: now + round(min(most, first * 2 ** min(read.attempts, 20)) * SECOND) for read in taken}
        with self._store.writing() as connection:
            reads.postpone(connection, dict.fromkeys(taken, reason), due, charged=True)
