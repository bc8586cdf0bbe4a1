"""Third-party apps: their tickets, and the corps that authorise them. What a suite's own events do.

An event is a hint here, too: it makes us read at DingTalk what a corp has authorised at present. Two are more. A
temporary code must be exchanged, which works once; and a withdrawal is believed at once, unless it is older than what
is known. The corp's fence guards what is written: whoever finds it raised since it asked must ask again.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from bridge import events, messages
from bridge.config import AppConfig, Config
from bridge.events import Event
from workers.errors import CODE_USED, ApiError, BadRequest, Gone, NotAuthorized, SealBroken, Throttled
from workers.moment import SECOND, Moment, RedisClock
from workers.sealing import Seal
from workers.shapes import Agent, Authorization, Scope
from workers.store import comparisons, copies, reads, suites
from workers.store.draft import Change, operation_of
from workers.store.engine import Store
from workers.store.statements import update
from workers.store.suites import Authorized, Ticket
from workers.store.tables import corps
from workers.suiteapi import Suite

T = TypeVar("T")
log = structlog.get_logger()

TICKET = "suite_ticket"
#: Events after which an authorisation is read anew; the last ones carry a code or a word of their own.
CODE, REMOVED, RESTORED = "tmp_auth_code", "org_micro_app_remove", "org_micro_app_restore"
RENEWALS = frozenset({"org_suite_auth", "change_auth", "org_suite_change", CODE, REMOVED, RESTORED}) | {
    "org_micro_app_stop",
    "org_micro_app_scope_update",
}
#: Of these, those that say that the corp lets the suite in.
GRANTS = frozenset({"org_suite_auth", "change_auth", "org_suite_change", CODE, RESTORED})
WITHDRAWALS = frozenset({"suite_relieve", "org_suite_relieve"})
#: Events that change the name of a corp, which a suite is told with the authorisation.
RENAMINGS = frozenset({"org_change", "org_update"})
#: What DingTalk says of an agent: the corp has switched it off; it waits for our activation; it works.
CLOSED, INACTIVE, OPEN = 0, 2, 1
#: Times that an authorisation is asked for anew because others wrote meanwhile.
MAX_ROUNDS = 10

_NEWER = "the corp has authorised the suite anew since"
_WITHDRAWN = "the corp has withdrawn its authorisation"
_STOPPED = "the corp has switched the app off"
_DISSOLVED = "the corp was dissolved"
_NO_CORP = "it names no corp"
_NO_TICKET = "it carries no ticket"
_NO_CODE = "it carries no temporary code"


class Done(NamedTuple):
    """What became of an event: why it changed nothing, or the changes of corps that it made."""

    ignored: str | None = None
    changes: tuple[Change, ...] = ()


class Standing(NamedTuple):
    """Of corps that only suites can read: for which no work is done, and why; and those that no suite knows yet."""

    halted: Mapping[str, str]
    unknown: Collection[str]


class Overtaken(Exception):
    """others wrote this corp's authorisation since it was asked for"""


class _Told(NamedTuple):
    """The event that made us ask, with DingTalk's milliseconds; none where nobody told us."""

    event_id: str | None = None
    type: str = ""
    at: int = 0
    quiet: bool = False


class _Seen(NamedTuple):
    """What DingTalk says of an authorisation; the scope is None where the app is switched off."""

    authorization: Authorization
    agents: list[dict[str, Any]]
    scope: Scope | None


Deed = Callable[[Connection], Done]


class Suites:
    """The suites of the configuration that have their credentials; false where there is none."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: RedisClock,
        connect: Callable[[AppConfig], Suite],
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._keys = {app.name: app.suite_key or "" for app in config.suites}
        self._clients = {app.name: connect(app) for app in config.suites}
        self._seal = Seal(config.encryption_key.get_secret_value() if config.encryption_key else "")
        self._settle = round(config.dingtalk.settle_seconds * SECOND)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def concerns(self, event: Event) -> bool:
        """Whether this event is of a suite's own life, and names nothing else."""
        return event.app in self._keys and event.type in {TICKET, *RENEWALS, *WITHDRAWALS}

    def standing(self, corp_ids: Collection[str]) -> Standing:
        """How these corps stand; what an internal app reads stands well whatever its suites do."""
        alone = {corp_id for corp_id in corp_ids if self._keys and self._config.reader(corp_id) is None}
        if not alone:
            return Standing({}, ())
        halted: dict[str, str] = {}
        good: set[str] = set()
        with self._store.reading() as connection:
            for row in suites.authorized(connection, alone):
                if row.suite_key not in self._keys.values():
                    continue
                if row.status == "active":
                    good.add(row.corp_id)
                else:
                    halted[row.corp_id] = _STOPPED if row.status == "stopped" else _WITHDRAWN
        return Standing(
            {corp_id: reason for corp_id, reason in halted.items() if corp_id not in good},
            alone - good - halted.keys(),
        )

    def to_renew(self, happened: Iterable[Event]) -> dict[tuple[str, str], list[str]]:
        """App and corp of each authorisation to be asked for before these events are applied, and their ids.

        One is where a corp was renamed, as its name comes with it. And where nobody told of a corp that only a suite
        can read: it had authorised the suite before dingbridge came to serve it.
        """
        mine = [event for event in happened if event.app in self._keys and event.corp_id and events.entities(event)]
        unknown = self.standing({event.corp_id for event in mine if event.corp_id}).unknown if mine else ()
        found: dict[tuple[str, str], list[str]] = {}
        for event in mine:
            if event.corp_id and (event.corp_id in unknown or event.type in RENAMINGS):
                found.setdefault((event.app, event.corp_id), []).append(event.id)
        return found

    def perform(self, event: Event, accepted: Moment, conclude: Callable[[Connection, Done], T]) -> T:
        """Do what an event of a suite's own life asks for, and in the same transaction what `conclude` adds.

        Raises ApiError.
        """
        told = _Told(event.id, event.type, _when(event, accepted), event.quiet)
        if event.type == TICKET:
            return self._write(lambda: self._keeping(event, accepted), conclude)
        corp_id = event.corp_id
        if event.type == CODE:
            said = messages.told(event)
            code = said.get("authcode")
            if not isinstance(code, str) or not code:
                return self._write(lambda: lambda _tx: Done(_NO_CODE), conclude)
            # The app's own corp is not the one that gave the code.
            named = said.get("authcorpid") or said.get("corpid")
            corp_id = self._exchange(event.app, code, told) or (corp_id if named else None)
        if corp_id is None:
            return self._write(lambda: lambda _tx: Done(_NO_CORP), conclude)
        deed = self._withdrawing if event.type in WITHDRAWALS else self._renewing
        return self._write(lambda: deed(event.app, corp_id, told), conclude)

    def keep_ticket(self, event: Event, accepted: Moment) -> None:
        """Store the ticket of an event, before anybody has time for the event itself."""
        self._write(lambda: self._keeping(event, accepted), lambda _tx, _done: None)

    def renew(self, app: str, corp_id: str, conclude: Callable[[Connection, Done], T]) -> T:
        """Read anew what a corp has authorised, though no event of its own says so. Raises ApiError."""
        return self._write(lambda: self._renewing(app, corp_id, _Told()), conclude)

    def renew_all(self, corp_id: str, conclude: Callable[[Connection, Done], T]) -> None:
        """The same for every suite that the corp has ever let in: the event that it does so again may have been lost.

        What stands against one hinders no other. Raises the ApiError of the app that reads the corp, or of any where
        none does.
        """
        with self._store.reading() as connection:
            known = {row.suite_key for row in suites.authorized(connection, [corp_id])}
            reader = self._reader(connection, corp_id)
        refused: ApiError | None = None
        for app in [app for app, suite_key in self._keys.items() if suite_key in known]:
            try:
                self.renew(app, corp_id, conclude)
            except ApiError as error:
                log.warning("cannot read an authorisation", app=app, corp=corp_id, reason=str(error))
                if reader is None or reader.name == app:
                    refused = error
        if refused is not None:
            raise refused

    def halted(self) -> set[str]:
        """The corps for which no work is done, as they have switched the app off or withdrawn its authorisation."""
        with self._store.reading() as connection:
            corp_ids = suites.turned_away(connection)
        return set(self.standing(corp_ids).halted)

    def _write(self, prepare: Callable[[], Deed], conclude: Callable[[Connection, Done], T]) -> T:
        for _ in range(MAX_ROUNDS):
            deed = prepare()
            with contextlib.suppress(Overtaken), self._store.writing() as tx:
                return conclude(tx, deed(tx))
        raise Throttled("overtaken", "others write it all the time")

    def _keeping(self, event: Event, accepted: Moment) -> Deed:
        """The newest ticket wins, however it came."""
        ticket = messages.told(event).get("suiteticket")
        at = datetime.fromtimestamp(_when(event, accepted) / 1000, UTC)

        def keep(tx: Connection) -> Done:
            if not isinstance(ticket, str) or not ticket:
                return Done(_NO_TICKET)
            suites.keep_ticket(tx, self._keys[event.app], Ticket(ticket, at))
            return Done()

        return keep

    def _exchange(self, app: str, code: str, told: _Told) -> str | None:
        """Exchange a temporary code, and keep what it gives before anything else is done; the corp it belongs to.

        A code works once. One that was used before was so by us, unless its event is older than what is known: what it
        gave lies in the datastore, or was lost with the process that asked; then the corp works all the same, as its
        token needs no permanent code, but DingTalk may wait for its activation.
        """
        suite_key = self._keys[app]
        try:
            given = self._clients[app].permanent_code(code)
        except BadRequest as error:
            if error.code != CODE_USED:
                raise
            return None
        with self._store.writing() as tx:
            comparisons.raise_fence(tx, given.corp_id)
            known = self._known(tx, app, given.corp_id)
            newer = known is not None and known.told_at > told.at
            # Only a withdrawal undoes a code: one that is switched off may be switched on again, and then need it.
            if known is None or known.status != "revoked" or not newer:
                suites.write(
                    tx,
                    suite_key,
                    given.corp_id,
                    self._now(),
                    permanent_code=self._seal.close(given.code, suite_key, given.corp_id),
                    status="stopped" if known and known.status == "stopped" and newer else "active",
                    scope=known.scope if known and known.status == "active" else None,
                    agents=known.agents if known and known.status != "revoked" else None,
                    told_at=max(told.at, known.told_at if known else 0),
                )
                # The event may name no corp: if what follows fails, a comparison asks for the authorisation.
                now = self._clock.now().micros
                comparisons.make_due(tx, given.corp_id, now, now + self._settle, whole=False, allow_scope=False)
        return given.corp_id

    def _renewing(self, app: str, corp_id: str, told: _Told) -> Deed:
        """Ask what the corp has authorised at present, then write it."""
        with self._store.reading() as connection:
            fence = comparisons.fence_of(connection, corp_id)
            known = self._known(connection, app, corp_id)
        if known is not None and known.status == "revoked" and told.type and told.at < known.told_at:
            return lambda _tx: Done(_WITHDRAWN)
        begun = self._clock.now().micros
        seen: _Seen | None
        try:
            # An event that tells of the scope is not settled by an old one.
            seen = self._look(app, corp_id, known, fresh=bool(told.type))
        except NotAuthorized:
            granted = known.told_at if known is not None and known.status != "revoked" else 0
            if told.type in GRANTS:
                granted = max(granted, told.at)
            if begun - granted * 1000 < self._settle:
                raise  # the answer may be older than that, and a permanent code that is dropped never comes again
            seen = None
        except Gone:
            return lambda _tx: Done(_DISSOLVED)

        def write(tx: Connection) -> Done:
            comparisons.raise_fence(tx, corp_id)
            if comparisons.fence_of(tx, corp_id) != fence + 1:
                raise Overtaken
            if seen is None:
                return self._revoke(tx, app, corp_id, known, told)
            return self._grant(tx, app, corp_id, known, seen, told, begun)

        return write

    def _look(self, app: str, corp_id: str, known: Authorized | None, *, fresh: bool) -> _Seen:
        """Raises NotAuthorized, Gone for a corp that is dissolved, and what else stands against it."""
        suite = self._clients[app]
        told = suite.authorization(corp_id)
        agents = [_agent(agent, suite.agent_state(corp_id, agent.agentid)) for agent in told.agents]
        waits = any(agent["close"] == INACTIVE for agent in agents)
        if waits and known and known.permanent_code and self._activate(app, corp_id, known.permanent_code):
            agents = [agent | {"close": OPEN} if agent["close"] == INACTIVE else agent for agent in agents]
        closed = bool(agents) and all(agent["close"] == CLOSED for agent in agents)
        return _Seen(told, agents, None if closed else suite.corp(corp_id).scopes(fresh=fresh))

    def _activate(self, app: str, corp_id: str, sealed: str) -> bool:
        """Whether the suite is activated; what stands against it for good hinders no read."""
        try:
            self._clients[app].activate(corp_id, self._seal.open(sealed, self._keys[app], corp_id))
        except (SealBroken, ApiError) as error:
            if isinstance(error, ApiError) and not error.permanent:
                raise
            log.warning("cannot activate a suite", app=app, corp=corp_id, reason=str(error))
            return False
        return True

    def _grant(
        self,
        tx: Connection,
        app: str,
        corp_id: str,
        known: Authorized | None,
        seen: _Seen,
        told: _Told,
        begun: int,
    ) -> Done:
        status = _status(seen, known, told)
        values: dict[str, Any] = {"status": status, "agents": seen.agents}
        if seen.scope is not None:
            values["scope"] = comparisons.as_json(seen.scope)
        # A corp that is back is so since its withdrawal: fed in again, that takes nothing away.
        known_at = 0 if known is None else known.told_at + (known.status == "revoked")
        suites.write(tx, self._keys[app], corp_id, self._now(), told_at=max(told.at, known_at), **values)
        changes = _write_corp(tx, corp_id, told, comparisons.at(begun), seen.authorization.corp_name)
        if status == "stopped":
            self._halt(tx, corp_id)
            if told.type in GRANTS:  # the answer may be older than that
                comparisons.make_due(tx, corp_id, begun, begun + self._settle, whole=False, allow_scope=False)
            return Done(changes=changes)
        begins = known is None or known.status != "active" or known.scope is None
        if begins or told.type:
            # What may be seen of the corp has to settle first. It asks for the authorisation once more, too. What the
            # suite may see no more is no news where another app reads the corp.
            reader = self._reader(tx, corp_id)
            mine = reader is not None and reader.name == app
            comparisons.make_due(tx, corp_id, begun, begun + self._settle, whole=begins, allow_scope=mine)
        return Done(changes=changes)

    def _withdrawing(self, app: str, corp_id: str, told: _Told) -> Deed:
        """Believed at once, as nobody can read the corp any more."""

        def write(tx: Connection) -> Done:
            comparisons.raise_fence(tx, corp_id)
            known = self._known(tx, app, corp_id)
            if known is not None and known.status != "revoked" and known.told_at > told.at:
                return Done(_NEWER)
            return self._revoke(tx, app, corp_id, known, told)

        return write

    def _revoke(self, tx: Connection, app: str, corp_id: str, known: Authorized | None, told: _Told) -> Done:
        """Its secrets go and its work stops; its rows stay as last seen."""
        told_at = known.told_at if known else 0
        if told.type in WITHDRAWALS:  # else an answer says so, and not since when
            told_at = max(told.at, told_at)
        suites.write(tx, self._keys[app], corp_id, self._now(), status="revoked", permanent_code=None, told_at=told_at)
        self._clients[app].corp(corp_id).forget()
        if not self._halt(tx, corp_id):
            return Done()
        return Done(changes=_write_corp(tx, corp_id, told, None, None))

    def _halt(self, tx: Connection, corp_id: str) -> bool:
        """No more work for a corp that nobody can read now; whether it is one."""
        if self._reader(tx, corp_id) is not None:
            return False
        reads.drop(tx, corp_id)
        copies.finish(tx, corp_id)
        comparisons.drop(tx, corp_id)
        return True

    def _reader(self, connection: Connection, corp_id: str) -> AppConfig | None:
        """The app that reads this corp, as things stand."""
        return self._config.reader(corp_id, suites.letting_in(connection, [corp_id]).get(corp_id, ()))

    def _known(self, connection: Connection, app: str, corp_id: str) -> Authorized | None:
        rows = suites.authorized(connection, [corp_id])
        return next((row for row in rows if row.suite_key == self._keys[app]), None)

    def _now(self) -> datetime:
        return comparisons.at(self._clock.now().micros)


def _when(event: Event, accepted: Moment) -> int:
    """DingTalk's milliseconds of an event; those of its acceptance where it tells none."""
    return event.occurred_at if event.occurred_at is not None else accepted.micros // 1000


def _agent(agent: Agent, state: int) -> dict[str, Any]:
    """As `authorizations.agents` shows it: nobody who administers it."""
    return {"agentid": agent.agentid, "name": agent.name, "appid": agent.appid, "close": state}


def _status(seen: _Seen, known: Authorized | None, told: _Told) -> suites.Status:
    """Switched off are an app whose micro-apps all are, and one whose last micro-app was removed."""
    if seen.agents:
        return "stopped" if seen.scope is None else "active"
    # A withdrawal leaves the agents of a former life.
    had_some = known is not None and (known.status == "stopped" or (known.status == "active" and bool(known.agents)))
    return "stopped" if told.type == REMOVED or (had_some and told.type != RESTORED) else "active"


def _write_corp(
    tx: Connection, corp_id: str, told: _Told, read_at: datetime | None, name: str | None
) -> tuple[Change, ...]:
    """The corp's row: read then and under this name, or (None) revoked. One that was dissolved stays so."""
    row = dict(tx.execute(sa.select(corps).where(corps.c.corp_id == corp_id).with_for_update()).mappings().one())
    if row["status"] == "dissolved":
        return ()
    first = row["fetched_at"] is None and row["name"] is None
    if read_at is None:
        after = {**row, "status": "revoked"}
    else:
        after = {**row, "status": "active", "name": name or row["name"], "fetched_at": read_at}
    update(tx, corps, [after])
    operation = operation_of(None if first else row, after)
    if operation is None:
        return ()
    return (
        Change(corp_id, "corp", corp_id, operation, None if first else row, after, told.event_id, told.quiet or first),
    )
