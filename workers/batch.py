"""The RQ worker that takes many events at a time and loses none."""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import redis
import structlog
from rq import SimpleWorker
from rq.job import Job
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from bridge import queues
from workers.claims import MAX_LONE_DEATHS, RENEW_SECONDS, Claim, Claims
from workers.errors import ApiError, Throttled
from workers.fold import Folder, Waiting
from workers.jobs import Dispatcher
from workers.moment import SECOND, Moment, RedisClock
from workers.store import reads
from workers.store.engine import Store
from workers.store.reads import Priority, Taken

#: Jobs taken at once: enough to share a commit, few enough to lose little when one is poison.
BATCH = 64
#: Reads of a full copy that an idle worker takes at once: few, as events wait until they are made.
BULK = 8
#: Seconds that an idle worker sleeps at most; what does not wake it (a requeue by hand) is seen then.
IDLE_SECONDS = 1.0
#: Seconds between two looks for the claims of dead workers.
SWEEP_SECONDS = 2.0
#: Seconds between two signs of life in RQ's own registry, and until RQ believes this worker dead.
HEARTBEAT_SECONDS = 10.0
WORKER_TTL = 60
#: Seconds to wait for a Redis or a datastore that is away, doubled up to the second.
AWAY_SECONDS = (0.25, 10.0)
#: Seconds until a failed attempt is made again: the first, doubled up to the second, each with up to 25 % more.
RETRY_SECONDS = (2.0, 900.0)
#: Attempts after which an event is given up: about eight hours of trying.
MAX_ATTEMPTS = 40

log = structlog.get_logger()


def apply(event: Mapping[str, object]) -> NoReturn:
    """What an event's job names. It is applied with many others, and only by a worker that knows how."""
    raise RuntimeError("an event's job is for `dingbridge work`; a stock RQ worker cannot run it")


class BatchWorker(SimpleWorker):
    """Shows itself as an RQ worker, and takes events in batches; ends only when it is told to."""

    def __init__(
        self,
        names: Sequence[str],
        connection: redis.Redis,
        store: Store,
        folder: Folder,
        dispatcher: Dispatcher,
        batch: int = BATCH,
    ) -> None:
        super().__init__(
            list(names),
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            log_job_description=False,
        )
        self._store = store
        self._folder = folder
        self._dispatcher = dispatcher
        self._batch = batch
        self._claims = Claims(connection, self.name, names)
        self._clock = RedisClock(connection)
        self._stopping = threading.Event()
        #: Redis' microseconds at which the next noted read comes due; None where none is known.
        self._next_due: int | None = 0
        #: Seconds until the first job that was put off comes due.
        self._put_off_due: float | None = None
        self._swept = self._beaten = 0.0
        #: Whether claims may lie in Redis that this process knows nothing of.
        self._unsure = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then what is held is finished or given back."""
        self.bootstrap(logging_level="WARNING")
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        renewing = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        renewing.start()
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    if not self.turn():
                        self.wait()
                    failures = 0
                except (redis.RedisError, OperationalError, InterfaceError) as error:
                    failures += 1
                    self._unsure = True
                    self._wait_for(error, failures)
        finally:
            self._stopping.set()
            renewing.join()
            self._leave()

    def _shutdown(self) -> None:
        """RQ calls this from its signal handler: stop after this turn, and wake from a sleep within IDLE_SECONDS."""
        self._stopping.set()

    def turn(self) -> bool:
        """One batch: claim, apply, tell Redis; whether there was anything to do."""
        self._upkeep()
        claims, self._put_off_due = self._claims.claim(self._batch)
        taken = self._take_due(len(claims)) if len(claims) < self._batch else []
        if claims or taken:
            self._apply(claims, taken)
        return bool(claims or taken)

    def _upkeep(self) -> None:
        if self._unsure:
            self._claims.give_back()
            self._unsure = False
        now = time.monotonic()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            if returned := self._claims.sweep():
                log.warning("took back what a dead worker held", jobs=returned)
        if now - self._beaten > HEARTBEAT_SECONDS:
            self._beaten = now
            self.heartbeat()

    def _take_due(self, claimed: int) -> list[Taken]:
        """The reads that are due; the datastore is asked only when one can be."""
        if self._next_due is None:
            return []
        now = self._clock.now().micros
        if now < self._next_due:
            return []
        with self._store.writing() as connection:
            taken = reads.take(connection, now, self._batch - claimed, Priority.EVENT)
            if not taken and not claimed:
                taken = reads.take(connection, now, BULK, Priority.COPY)
            self._next_due = reads.next_due(connection)
        return taken

    def wait(self) -> None:
        """Until an event is accepted, or something noted or put off comes due."""
        with self._store.reading() as connection:
            self._next_due = reads.next_due(connection)
        limits = [IDLE_SECONDS]
        if self._put_off_due is not None:
            limits.append(self._put_off_due)
        if self._next_due is not None:
            limits.append((self._next_due - self._clock.now().micros) / SECOND)
        if min(limits) > 0:
            self._claims.wait(min(limits))

    def _apply(self, claims: Sequence[Claim], taken: Sequence[Taken]) -> None:
        batch: dict[str, tuple[Claim, Waiting]] = {}
        for claim in claims:
            try:
                event = queues.decode(claim.data)
            except ValueError as error:
                self._fail(claim, str(error))
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
        except (redis.RedisError, OperationalError, InterfaceError):
            raise  # nobody's fault in this batch
        except Exception as error:
            # One bad event fails alone, whatever its fault is.
            if len(batch) + len(taken) > 1:
                for event_id, item in batch.items():
                    self._apply_together({event_id: item}, [])
                for read in taken:
                    self._apply_together({}, [read])
                return
            log.exception("could not apply", events=[waiting.event.id for _, waiting in batch.values()])
            for claim, waiting in batch.values():
                self._try_again(claim, waiting, f"{type(error).__name__}: {_first_line(error)}")
            self._put_read_off(taken, f"{type(error).__name__}: {_first_line(error)}")
            return
        self._claims.finish([claim for event_id, (claim, _) in batch.items() if event_id in outcome.final])
        for event_id, obstacle in outcome.errors.items():
            self._stand_against(*batch[event_id], obstacle)
        if outcome.next_due is not None:
            self._next_due = min(self._next_due or outcome.next_due, outcome.next_due)
        self._dispatcher.dispatch(outcome.lanes)

    def _stand_against(self, claim: Claim, waiting: Waiting, error: ApiError) -> None:
        """A throttle is waited out, what may pass is tried again, what is permanent is given up."""
        if isinstance(error, Throttled):
            self._claims.put_off(claim, error.wait * random.uniform(1.0, 1.5), claim.attempts)  # noqa: S311
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
            "will try again", event=waiting.event.id, attempt=attempts, seconds=round(seconds, 1), reason=reason
        )
        self._claims.put_off(claim, seconds, attempts)

    def _give_up(self, claim: Claim, waiting: Waiting, reason: str) -> None:
        """The datastore first: whether an event is done is what its row says."""
        self._folder.fail(waiting, reason)
        self._fail(claim, reason)

    def _fail(self, claim: Claim, reason: str) -> None:
        """Into RQ's failed registry, with the reason, where it can be requeued."""
        log.error("given up", job=claim.job_id, queue=claim.queue, reason=reason)
        job = Job.fetch(claim.job_id, connection=self.connection, serializer=JSONSerializer)
        with self.connection.pipeline() as pipeline:
            self._claims.drop(claim, pipeline)
            record_job_failure(job, reason, pipeline)
            # Whoever requeues it by hand lets it begin anew.
            pipeline.hdel(job.key, "number_of_retries", "suspect", "lone_deaths")
            self.increment_failed_job_count(pipeline)
            pipeline.execute()

    def _put_read_off(self, taken: Sequence[Taken], reason: str) -> None:
        now = self._clock.now().micros
        first, most = RETRY_SECONDS
        due = {read: now + round(min(most, first * 2 ** min(read.attempts, 20)) * SECOND) for read in taken}
        with self._store.writing() as connection:
            reads.postpone(connection, dict.fromkeys(taken, reason), due, charged=True)

    def _wait_for(self, error: redis.RedisError | DBAPIError, failures: int) -> None:
        first, most = AWAY_SECONDS
        away = "Redis" if isinstance(error, redis.RedisError) else "the datastore"
        seconds = min(most, first * 2 ** min(failures - 1, 10))
        log.warning("waiting", away=away, seconds=seconds, reason=_first_line(error))
        self._stopping.wait(seconds)

    def _keep_lease(self) -> None:
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self._claims.renew()
            except redis.RedisError as error:
                log.warning("the lease was not renewed", reason=type(error).__name__)

    def _leave(self) -> None:
        try:
            self._claims.give_back()
            self._claims.release()
            self.teardown()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("left without a word to Redis; its claims are swept", reason=type(error).__name__)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
