"""An RQ worker of our own kind: it takes jobs by claims under a lease, and ends only when it is told to."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import redis
import structlog
from rq import SimpleWorker, worker_registration
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from bridge import heap
from workers.claims import RENEW_SECONDS, UNSHARED, Claim, Claims

#: Seconds that an idle worker sleeps at most; what does not wake it (a requeue by hand) is seen then.
IDLE_SECONDS = 1.0
#: Seconds between two looks for the claims of dead workers.
SWEEP_SECONDS = 2.0
#: Seconds between two signs of life in RQ's own registry, and until RQ believes this worker dead.
HEARTBEAT_SECONDS = 10.0
WORKER_TTL = 60
#: Seconds to wait for a Redis or a datastore that is away, doubled up to the second.
AWAY_SECONDS = (0.25, 10.0)
#: Seconds after which a turn hangs: above a job's timeout and the longest ban of DingTalk. And the exit code then.
TURN_SECONDS, HANGS = 900.0, 70
#: PostgreSQL's classes of errors that pass: connection, resources, operator's intervention, lost races, locks.
_PASSING_CLASSES = ("08", "53", "57", "40", "55")
#: One that is a standby for now, or that takes no writes as its disk is full.
_READ_ONLY = "25006"

log = structlog.get_logger()


class Claimer(SimpleWorker, ABC):
    """Shows itself as an RQ worker; what it does with its claims is its child's affair."""

    def __init__(self, names: Sequence[str], connection: redis.Redis, share: int = UNSHARED) -> None:
        """`names` are the queues; the first of them goes first in every round. `share` as in Claims."""
        super().__init__(
            list(names),
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            log_job_description=False,
        )
        self.claims = Claims(connection, self.name, names, share)
        self.stopping = threading.Event()
        #: Seconds until the first job that was put off comes due.
        self.put_off_due: float | None = None
        self._began = time.monotonic()
        self._swept = self._beaten = 0.0

    @abstractmethod
    def turn(self) -> bool:
        """Take what waits and do it; whether there was anything."""

    def tick(self) -> None:
        """Every RENEW_SECONDS beside the turns, in a thread of its own."""
        self.claims.renew()

    def wait(self) -> None:
        """Sleep until there may be something to do."""
        limits = [IDLE_SECONDS] if self.put_off_due is None else [IDLE_SECONDS, self.put_off_due]
        self.claims.wait(min(limits))

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then what is held is finished or given back."""
        self._install_signal_handlers()  # type: ignore[no-untyped-call] # before anybody can see this worker
        self.bootstrap(logging_level="WARNING")
        renewing = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        renewing.start()
        heap.settle()
        failures = 0
        try:
            while not self.stopping.is_set():
                try:
                    self._began = time.monotonic()
                    if not self.turn():
                        self.wait()
                    failures = 0
                except (redis.RedisError, DBAPIError) as error:
                    if not away(error):
                        raise
                    failures += 1
                    self._wait_for(error, failures)
        finally:
            self.stopping.set()
            renewing.join()
            self._leave()

    def upkeep(self) -> None:
        """Before each turn: claims that nobody knows of, those of the dead, a sign of life."""
        # Between two turns this process knows of no claim: what lies there came with an answer that was lost, or with
        # a Redis that was set back.
        self.claims.give_back()
        now = time.monotonic()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            if returned := self.claims.sweep():
                log.warning("took back what a dead worker held", jobs=returned)
        if self.birth_date is not None and now - self._beaten > HEARTBEAT_SECONDS:
            self._beaten = now
            self._show()

    def _show(self) -> None:
        """A sign of life; where Redis has been emptied, RQ learns of this worker anew."""
        if not self.connection.hexists(self.key, "birth"):  # other scripts of RQ make the rest of it anew
            self.connection.hset(self.key, mapping=self.serialize())
        worker_registration.register(self)
        self.heartbeat()

    def fail(self, claim: Claim, reason: str, told: str | None = None) -> None:
        """Into RQ's failed registry, with the reason, where it can be requeued; `told` is what the log has of that."""
        log.error("given up", job=claim.job_id, queue=claim.queue, reason=told or reason.partition("\n")[0])
        with self.connection.pipeline() as pipeline:
            self.claims.drop(claim, pipeline)
            try:
                job = Job.fetch(claim.job_id, connection=self.connection, serializer=JSONSerializer)
            except NoSuchJobError:
                log.warning("somebody deleted the job meanwhile", job=claim.job_id)
            else:
                record_job_failure(job, reason, pipeline)
                # Whoever requeues it by hand lets it begin anew.
                pipeline.hdel(job.key, "number_of_retries", "suspect", "lone_deaths")
                self.increment_failed_job_count(pipeline)
            pipeline.execute()

    def _shutdown(self) -> None:
        """RQ calls this from its signal handler: stop after this turn, and wake from a sleep within IDLE_SECONDS."""
        self.stopping.set()

    def _wait_for(self, error: Exception, failures: int) -> None:
        first, most = AWAY_SECONDS
        what = "Redis" if isinstance(error, redis.RedisError) else "the datastore"
        seconds = min(most, first * 2 ** min(failures - 1, 10))
        log.warning("waiting", away=what, seconds=seconds, reason=first_line(error))
        self.stopping.wait(seconds)

    def _keep_lease(self) -> None:
        while not self.stopping.wait(RENEW_SECONDS):
            if time.monotonic() - self._began > TURN_SECONDS:
                log.critical("hangs, and ends itself; what it holds is taken back", seconds=TURN_SECONDS)
                os._exit(HANGS)
            try:
                self.tick()
            except (redis.RedisError, DBAPIError) as error:
                log.warning("the lease was not renewed", reason=type(error).__name__)

    def _leave(self) -> None:
        try:
            self.claims.give_back()
            self.claims.release()
            self.teardown()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("left without a word to Redis; its claims are swept", reason=type(error).__name__)


def away(error: BaseException) -> bool:
    """Whether Redis or the datastore is away: nobody's fault among the jobs at hand, and it passes."""
    if isinstance(error, redis.RedisError):
        return True
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if state is None:
        return isinstance(error, OperationalError | InterfaceError)
    return state == _READ_ONLY or str(state)[:2] in _PASSING_CLASSES


def first_line(error: BaseException) -> str:
    """What a log may hold of an error."""
    return str(error).partition("\n")[0]
