"""Where callbacks become durable: Redis, and while it does not answer this host's spool, which is drained after."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import redis
import structlog

from bridge import spool
from bridge.accept import Acceptor
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.misses import Misses
from bridge.spool import Spool
from bridge.verdicts import Verdict, Verdicts

#: Seconds between two questions whether Redis is back, and between two looks for orphaned segments.
PROBE_SECONDS = 0.25
LOOK_SECONDS = 5.0
#: String that is never there: setting it where it exists asks for leave to write, and writes nothing.
PROBE_KEY = "bridge:probe"
#: Events, and bytes of their payloads, that are drained in one call: well within the patience for Redis.
DRAIN_EVENTS, DRAIN_BYTES = 64, 1 << 20
#: Batches under way: most of one is Redis' work, the rest is ours.
DRAIN_LANES = 2
#: How many times as long as it worked the drainer rests while callbacks come in: they go first.
REST = 3.0

log = structlog.get_logger()


class Intake:
    """Takes events of any number of threads; `start` begins to probe and to drain."""

    def __init__(self, connection: redis.Redis, spool_folder: Spool) -> None:
        self._connection = connection
        self._spool = spool_folder
        self._acceptor = Acceptor(connection)
        self._misses = Misses(connection)
        self._notes = Verdicts(connection)
        #: Apps whose misses are not in Redis yet; the drainer brings them there.
        self._missed: set[str] = set()
        #: What became of callbacks lately and is not in Redis yet, by app and verdict, with the reason.
        self._verdicts: dict[tuple[str, Verdict], str] = {}
        self._lock = threading.Lock()
        #: Set while Redis is known to be away: nobody waits for it then.
        self._away = threading.Event()
        #: Set when the drainer has something to do.
        self._spooled = threading.Event()
        self._stopping = threading.Event()
        #: Whether callbacks came since the drainer last looked.
        self._busy = False

    def take(self, batch: Sequence[Event]) -> Sequence[str]:
        """Make these durable; of each whether it was `accepted`, `repeated` or `spooled`. Raises NotDurable."""
        self._busy = True
        with contextlib.suppress(NotDurable):  # the spool takes them, then
            return _outcomes(self._accept(batch))
        try:
            self._spool.add(batch)
        except NotDurable as full:
            try:
                # Nothing else is left: Redis may be back, or was only slow.
                return _outcomes(self._acceptor.accept(batch))
            except NotDurable as error:
                raise NotDurable(f"{full}; {error}") from error
        self._spooled.set()
        return ["spooled"] * len(batch)

    def _accept(self, batch: Sequence[Event]) -> Sequence[bool]:
        """Raises NotDurable, at once where others have found meanwhile that Redis is away."""
        if self._away.is_set():
            raise NotDurable("Redis is away")
        try:
            return self._acceptor.accept(batch)
        except NotDurable as error:
            self._say_away(str(error), error.__cause__)
            raise

    def missed(self, apps: Iterable[str]) -> None:
        """DingTalk may count a callback to these apps as failed; the clock is told once Redis can be."""
        with self._lock:
            self._missed.update(apps)
        self._spooled.set()

    def judged(self, app: str, verdict: Verdict, reason: str = "") -> None:
        """A callback of this app was taken or refused; `doctor` is told within seconds, and nobody waits for it."""
        self._verdicts[app, verdict] = reason

    def components(self) -> dict[str, bool]:
        """Which of the two would take an event now."""
        return {"redis": self._writes(), "spool": self._spool.room()}

    def start(self) -> None:
        """Begin to look for Redis while it is away, and to drain what was spooled, now and by earlier processes."""
        threading.Thread(target=self._run, name="drain", daemon=True).start()

    def stop(self) -> None:
        """End the drainer; what it has not drained is another's."""
        self._stopping.set()
        self._spooled.set()
        self._spool.close()

    def _run(self) -> None:
        """Until told to stop, whatever happens: nobody else finds out that Redis is back."""
        while not self._stopping.is_set():
            try:
                self._look_and_drain()
            except Exception:
                if self._stopping.is_set():
                    return  # what it was at is another's, and the process has no threads left for it
                log.exception("the drainer failed; it goes on")
                self._stopping.wait(LOOK_SECONDS)

    def _look_and_drain(self) -> None:
        while not self._stopping.is_set():
            if self._away.is_set():
                if self._answers():
                    self._away.clear()
                    log.info("Redis is back")
                else:
                    self._stopping.wait(PROBE_SECONDS)
                    continue
            self._spooled.clear()
            try:
                self._note_misses()
                self._note_verdicts()
                drain(self._spool, self._acceptor, self._give_way)
            except NotDurable as error:
                if not self._say_away(str(error), error.__cause__):
                    log.warning("the spool is not drained yet", reason=str(error))
                    self._stopping.wait(LOOK_SECONDS)
                continue
            except OSError as error:
                log.warning("the spool cannot be read", reason=_reason(error))
            self._spooled.wait(LOOK_SECONDS)

    def _give_way(self, seconds: float) -> bool:
        """After so much work; a burst out of the spool must not hold up the callbacks that come meanwhile."""
        busy, self._busy = self._busy, False
        if busy:
            self._stopping.wait(REST * seconds)
        return busy

    def _note_misses(self) -> None:
        """Raises NotDurable; they are noted later then."""
        with self._lock:
            apps, self._missed = self._missed, set()
        if not apps:
            return
        try:
            self._misses.note(apps)
        except redis.RedisError as error:
            with self._lock:
                self._missed |= apps
            raise NotDurable(f"Redis did not take a note: {type(error).__name__}") from error

    def _note_verdicts(self) -> None:
        """Raises NotDurable; the next callbacks are noted then."""
        found, self._verdicts = self._verdicts, {}
        if not found:
            return
        try:
            self._notes.note(found)
        except redis.RedisError as error:
            raise NotDurable(f"Redis did not take a note: {type(error).__name__}") from error

    def _say_away(self, reason: str, cause: BaseException | None) -> bool:
        """Whether Redis is away, after this; one that answers with a refusal is not."""
        if isinstance(cause, redis.ConnectionError | redis.TimeoutError) and not self._away.is_set():
            self._away.set()
            self._spooled.set()
            log.warning("events go to the spool", reason=reason)
        return self._away.is_set()

    def _writes(self) -> bool:
        """Whether Redis would take an event: one that is full or a replica answers a ping as well."""
        if self._away.is_set():
            return False  # to ask would look up its name, for which there is no limit of time
        try:
            self._connection.set(PROBE_KEY, b"", xx=True)
        except redis.RedisError as error:
            self._say_away(f"Redis does not answer: {type(error).__name__}", error)
            return False
        return True

    def _answers(self) -> bool:
        try:
            return bool(self._connection.ping())
        except redis.RedisError:
            return False


def drain(source: Spool, acceptor: Acceptor, give_way: Callable[[float], bool] = lambda _seconds: False) -> int:
    """Feed in all that lies in the spool and that nobody writes any more; how many events were new.

    `give_way` is called after each batch, with the seconds that it took; whether the next goes alone.
    Raises NotDurable when Redis does not take them; then nothing is deleted that is not in Redis. A segment that
    the disk does not give back stands in the way of no other.
    """
    count = 0
    with ThreadPoolExecutor(DRAIN_LANES, thread_name_prefix="drain") as pool:
        for segment in source.drainable():
            feed = _Feed(pool, acceptor, give_way)
            try:
                feed.run(spool.read(segment))
                segment.unlink(missing_ok=True)
            except OSError as error:
                log.warning("a segment of the spool stays", segment=segment.name, reason=_reason(error))
            finally:
                count += feed.new
    if count:
        log.info("drained the spool", events=count)
    return count


class _Feed:
    """Brings events to Redis; while it is at one batch, the next is made ready."""

    def __init__(self, pool: ThreadPoolExecutor, acceptor: Acceptor, give_way: Callable[[float], bool]) -> None:
        self._pool = pool
        self._acceptor = acceptor
        self._give_way = give_way
        self._under_way: deque[Future[tuple[int, float]]] = deque()
        self._lanes = DRAIN_LANES
        #: How many were new.
        self.new = 0

    def run(self, events: Iterable[Event]) -> None:
        """All of them. Raises NotDurable, and OSError where they cannot be read to the end."""
        try:
            for batch in _batches(events):
                while len(self._under_way) >= self._lanes:
                    self._account()
                self._under_way.append(self._pool.submit(self._accept, batch))
        finally:
            while self._under_way:
                self._account()

    def _accept(self, batch: Sequence[Event]) -> tuple[int, float]:
        begun = time.monotonic()
        return sum(self._acceptor.accept(batch)), time.monotonic() - begun

    def _account(self) -> None:
        new, seconds = self._under_way.popleft().result()
        self.new += new
        self._lanes = 1 if self._give_way(seconds) else DRAIN_LANES


def _outcomes(new: Sequence[bool]) -> Sequence[str]:
    return ["accepted" if flag else "repeated" for flag in new]


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()


def _batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    batch: list[Event] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event.payload)
        if len(batch) >= DRAIN_EVENTS or size >= DRAIN_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
