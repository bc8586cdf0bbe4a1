"""When each corp is compared: every night, a missed one as soon as may be, and when another Redis calls for it."""

import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import redis
import structlog
from sqlalchemy.exc import DBAPIError

from bridge.config import ClockConfig, HealConfig
from workers.claimer import away
from workers.comparison import Comparison, Report
from workers.errors import ApiError
from workers.lives import Lives
from workers.moment import SECOND, RedisClock
from workers.readers import Readers
from workers.store import comparisons
from workers.store.comparisons import State, at
from workers.store.engine import Store

#: Seconds over which the corps of one night are spread, so that they do not all call DingTalk at once.
SPREAD_SECONDS = 3600
#: Seconds that a comparison is left to its clock without a sign of life, and between two such signs.
LEASE_SECONDS, RENEW_SECONDS = 600, 60
#: Seconds until a comparison that could not begin is tried again; of a corp that was never compared, where it may pass.
RETRY_SECONDS, FIRST_RETRY_SECONDS = 3600, 60

log = structlog.get_logger()


def last_night(now: datetime, config: ClockConfig) -> datetime:
    """The latest moment, not after `now`, at which a night's comparisons begin."""
    zone = ZoneInfo(config.timezone)
    hour, minute = map(int, config.nightly.split(":"))
    here = now.astimezone(zone)
    days = [here.date() - timedelta(days=days) for days in range(3)]
    begins = [datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC) for day in days]
    return max(begin for begin in begins if begin <= now)


def due(known: Collection[State], now: int, config: ClockConfig) -> list[str]:
    """The corps that are to be compared now, in their order; `now` in Redis' microseconds."""
    present = at(now)
    night = last_night(present, config)
    step = SPREAD_SECONDS / max(1, len(known))
    found: list[str] = []
    for number, state in enumerate(sorted(known, key=lambda state: state.corp_id)):
        tonight = night + timedelta(seconds=number * step) <= present
        missed = (state.begun_at or state.known_at) < night
        if state.taken_until <= now and ((tonight and missed) or (state.due_at is not None and state.due_at <= now)):
            found.append(state.corp_id)
    return found


class Nightly:
    """Compares what is due, in a thread of its own: a large corp takes longer than a clock's round."""

    def __init__(
        self,
        store: Store,
        clock: RedisClock,
        readers: Readers,
        renew: Callable[[str], None],
        halted: Callable[[], Collection[str]],
        corp_ids: Collection[str],
        when: ClockConfig,
        limits: HealConfig,
        settle_seconds: float,
    ) -> None:
        """`renew` reads anew what a corp has authorised, also where it is `halted`: where no suite is let in any more.

        `corp_ids` are those that the configuration names.
        """
        self._store = store
        self._clock = clock
        self._readers = readers
        self._renew_authorization = renew
        self._halted = halted
        self._corp_ids = set(corp_ids)
        self._when = when
        self._limits = limits
        self._lives = Lives(store, settle_seconds)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tend(self) -> None:
        """For the leader's every round: see the life of Redis, and set about what is due."""
        self._lives.see(self._clock.now())
        if (self._thread is None or not self._thread.is_alive()) and self.look():
            self._thread = threading.Thread(target=self._work, name="nightly", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Leave what is under way; it begins anew at the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(RENEW_SECONDS)

    def look(self) -> list[str]:
        """The corps that are due."""
        now = self._clock.now().micros
        with self._store.reading() as connection:
            known_corps = self._corp_ids | comparisons.living_corps(connection)
        # Those that nobody may read are only asked whether they have let us in again.
        corp_ids = self._readers.clients(known_corps).keys() | self._halted()
        with self._store.writing() as connection:
            comparisons.know(connection, corp_ids, now)
            known = [state for state in comparisons.states(connection) if state.corp_id in corp_ids]
        return due(known, now, self._when)

    def run_due(self) -> list[Report]:
        """Compare what is due, one corp after the other; what became of each."""
        reports: list[Report] = []
        while not self._stopping.is_set() and (waiting := self.look()):
            report = self._compare(waiting[0])
            if report is not None:
                reports.append(report)
        return reports

    def _work(self) -> None:
        try:
            self.run_due()
        except (redis.RedisError, DBAPIError) as error:
            log.warning("the comparison waits", reason=type(error).__name__)
        except Exception:
            log.exception("the comparison failed; it is tried again", seconds=LEASE_SECONDS)

    def _compare(self, corp_id: str) -> Report | None:
        """One corp under a lease; None where another clock was faster."""
        begun = self._clock.now().micros
        with self._store.writing() as connection:
            if not comparisons.claim(connection, corp_id, begun, begun + LEASE_SECONDS * SECOND):
                return None
            state = comparisons.state(connection, corp_id, begun)
        report = Report(corp_id)
        try:
            self._renew_authorization(corp_id)
            client = self._readers.client(corp_id)
            if client is None:
                with self._store.writing() as connection:
                    comparisons.passed_over(connection, corp_id, begun)
                return None
            comparison = Comparison(
                self._store,
                self._clock,
                client,
                corp_id,
                self._limits,
                whole=state.whole,
                allow_scope=state.allow_scope,
            )
            report = comparison.report
            log.info("comparing with DingTalk", corp=corp_id, whole=state.whole)
            renewed = begun
            for _ in comparison.run():
                if self._stopping.is_set():
                    break
                if (now := self._clock.now().micros) > renewed + RENEW_SECONDS * SECOND:
                    self._renew(corp_id, now + LEASE_SECONDS * SECOND)
                    renewed = now
        except ApiError as error:
            log.warning("cannot compare with DingTalk", corp=corp_id, reason=str(error))
            soon = state.copied_at is None and not error.permanent
            return self._fail(report, begun, str(error), FIRST_RETRY_SECONDS if soon else RETRY_SECONDS)
        except Exception as error:
            if away(error):
                raise
            # One corp never stops the others.
            log.exception("the comparison failed", corp=corp_id)
            return self._fail(report, begun, type(error).__name__, RETRY_SECONDS)
        self._renew(corp_id, 0)
        if self._stopping.is_set():
            return None
        _tell(report)
        return report

    def _fail(self, report: Report, begun: int, reason: str, seconds: int) -> Report:
        report.faults = [reason]
        retry = self._clock.now().micros + seconds * SECOND
        with self._store.writing() as connection:
            comparisons.fail(connection, report.corp_id, begun, retry, report.as_dict())
        return report

    def _renew(self, corp_id: str, until: int) -> None:
        with self._store.writing() as connection:
            comparisons.renew(connection, corp_id, until)


def _tell(report: Report) -> None:
    """What an operator may have to act on; nobody is named."""
    counts = {"differing": report.differing, "marked": report.marked}
    for reason in report.stopped:
        log.error("a comparison removes nothing and asks", corp=report.corp_id, reason=reason)
    for fault in report.faults:
        log.warning("could not compare all", corp=report.corp_id, reason=fault)
    log.info("compared with DingTalk", corp=report.corp_id, outcome=report.outcome, **counts)
