"""Stores a suite's ticket within a second of its arrival, also while the worker is busy with a batch.

It looks at the jobs that wait on the tickets' queue and takes none of them: a worker gives each its final row later.
"""

import threading
from typing import cast

import redis
import structlog
from sqlalchemy.exc import DBAPIError

from bridge import events, queues
from workers.moment import Moment
from workers.suites import Suites

#: Seconds between two looks.
LOOK_SECONDS = 0.25
#: Jobs that are looked at in one go; a suite gets a ticket every few hours.
LOOK_JOBS = 100

log = structlog.get_logger()


class TicketWatch:
    """Looks again and again, in a thread of its own."""

    def __init__(self, connection: redis.Redis, suites: Suites) -> None:
        self._connection = connection
        self._suites = suites
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tickets", daemon=True)
        #: Jobs that wait and whose ticket is stored already.
        self._kept: set[bytes] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Also where it never began."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> int:
        """Store what waits; how many tickets that were. Raises RedisError and DBAPIError."""
        key = f"rq:queue:{events.URGENT}"
        waiting = cast(list[bytes], self._connection.lrange(key, -LOOK_JOBS, -1))
        new = [job_id for job_id in waiting if job_id not in self._kept]
        for job_id in new:
            found = self._connection.hmget(f"rq:job:{job_id.decode()}", "data", "stamp", "life")
            data, stamp, life = cast(list[bytes | None], found)
            try:
                event = queues.decode(data or b"")
            except ValueError:
                continue  # no event's job: a worker says so
            if self._suites.concerns(event):
                self._suites.keep_ticket(event, Moment(int(stamp or 0), (life or b"").decode()))
        self._kept = set(waiting)
        return len(new)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except (redis.RedisError, DBAPIError) as error:
                log.warning("tickets wait", reason=type(error).__name__)
            self._stopping.wait(LOOK_SECONDS)
