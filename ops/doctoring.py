"""`dingbridge doctor`: looks at the set-up from Redis to DingTalk, and names each fault with its mend.

What only DingTalk knows, such as the token in the developer console, shows in how its callbacks fared: the receiver
notes that, and here it is told.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import redis
from sqlalchemy.exc import DBAPIError

from bridge import embedded, events, queues, safety
from bridge.config import AppConfig, Config
from bridge.errors import BridgeError
from bridge.queues import Patience
from bridge.verdicts import Noted, Verdict, Verdicts
from ops import envelopes
from ops.compose import Clients, migrated
from ops.console import backlog
from ops.errors import NoAnswer
from ops.registering import same_keys
from ops.userjobs import owing_queues
from workers import jobs
from workers.clock import LEADER_KEY
from workers.dingtalk import DingTalk
from workers.errors import ApiError, DatastoreOutdated, Gone, Hidden, JobsModuleMissing, SealBroken, TicketStale
from workers.moment import SECOND
from workers.sealing import Seal
from workers.shapes import Scope
from workers.store import suites
from workers.store.engine import Store

State = Literal["ok", "fault", "warning", "skipped"]

#: Seconds for the datastore to take a connection.
CONNECT_SECONDS = 2
_SQLITE = "sqlite:///"
#: Kinds of file systems that end with their host or container.
_THROW_AWAY = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
#: What is wrong where callbacks are refused, and the mend.
_REFUSALS: dict[Verdict, tuple[str, str]] = {
    "token": ("the token is not that of the developer console", "copy the token from there into keys"),
    "aes_key": ("the aes_key is not that of the developer console", "copy the EncodingAESKey from there into keys"),
    "owner_key": (
        "the owner key of the messages is missing in owner_keys",
        "add the app key for a subscription in the console, the corp id for one registered by API, or the suite key",
    ),
}
_NO_CALLBACK = "set the address https://your.host/callback/NAME in the developer console, and tick the events"


class Finding(NamedTuple):
    """What a check found. `subject` is an app's name, or a part of the installation; the mend is for a fault alone."""

    subject: str
    check: str
    state: State
    text: str
    mend: str = ""


def examine(config: Config, receiver: str) -> Iterator[Finding]:
    """Every check in its order, from this host outwards; `receiver` is the base address that callbacks come to."""
    yield _spool(config.var)
    yield from _modules(config)
    connection: redis.Redis | None = None
    if config.redis.url == "embedded" and not embedded.answers(embedded.socket_path(config.var)):
        # To ask it by our own way would be to start it.
        yield Finding("redis", "address", "skipped", "the embedded one does not run; what needs it starts it")
    else:
        connection = queues.connect(config, Patience.CONSOLE)
        for finding in _redis(connection, config):
            if finding.check == "address":
                connection = None
            yield finding
    with ExitStack() as stack:
        store, sound = _datastore(config, stack)
        yield sound
        if connection is not None:
            yield from _processes(connection, store)
        for app in config.apps:
            yield _owner_keys(app)
            yield _address(app, receiver)
            if connection is None:
                yield Finding(app.name, "callbacks", "skipped", "Redis knows how they fared, and it does not answer")
                continue
            yield from _callbacks(app, Verdicts(connection).read(app.name))
            if store is not None:
                yield from _api(config, app, Clients(config, connection, store), store)


def _spool(var: Path) -> Finding:
    folder = var.resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("spool", "folder", "fault", f"{folder} cannot be written", "give this user the folder `var`")
    kind = _file_system(existing)
    if kind in _THROW_AWAY:
        return Finding(
            "spool", "disk", "warning", f"var lies on {kind}, which may end with this host: such a spool keeps nothing",
            "put var on a disk that outlives the process",
        )  # fmt: skip
    return Finding("spool", "disk", "ok", f"var lies on {kind}")


def _file_system(path: Path) -> str:
    """The kind of the file system that holds a path; "a disk" where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "a disk"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    holding = [(point, kind) for point, kind in found if path.is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]), default=("/", "a disk"))[1]


def _redis(connection: redis.Redis, config: Config) -> Iterator[Finding]:
    try:
        found = safety.examine(connection)
    except redis.RedisError as error:
        line = str(error).partition("\n")[0].partition(" : ")[0]
        yield Finding("redis", "address", "fault", f"it does not answer: {line}", "start it, or set redis.url")
        return
    for finding in found:
        state: State = "fault" if finding.fatal and not config.redis.accept_unsafe else "warning"
        text, _, mend = finding.text.partition(": ")
        yield Finding("redis", "setting", state, text, mend)
    if not found:
        yield Finding("redis", "setting", "ok", "it keeps what it has accepted")


def _modules(config: Config) -> Iterator[Finding]:
    """Whether the modules of `jobs:` can be imported, each by itself."""
    for name in config.jobs:
        try:
            jobs.load_registry(config.model_copy(update={"jobs": [name]}))
        except JobsModuleMissing as error:
            text = error.faults[0].partition(": ")[2]
            yield Finding("jobs", "module", "fault", text, "mend it, or take it out of `jobs:`")
        else:
            yield Finding("jobs", "module", "ok", f"{name} can be imported")


def _datastore(config: Config, stack: ExitStack) -> tuple[Store | None, Finding]:
    """The datastore, where it can be asked; open as long as `stack` is. A file that is not there is not made."""
    url = config.datastore.url
    try:
        if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE).partition("?")[0]).exists():
            raise DatastoreOutdated
        store = stack.enter_context(migrated(config, CONNECT_SECONDS))
    except DatastoreOutdated as error:
        text, mend = str(error).partition(":")[0], "run `dingbridge migrate`"
        return None, Finding("datastore", "tables", "fault", text, mend)
    except DBAPIError as error:
        line, mend = str(error.orig).partition("\n")[0], "start it, or set datastore.url"
        return None, Finding("datastore", "address", "fault", f"it does not answer: {line}", mend)
    except BridgeError as error:
        text, _, mend = str(error).partition(": ")
        return None, Finding("datastore", "address", "fault", text, mend)
    return store, Finding("datastore", "tables", "ok", "they are those of this version")


def _processes(connection: redis.Redis, store: Store | None) -> Iterator[Finding]:
    served = {name for worker in backlog.observe(connection).workers if worker.alive for name in worker.queues}
    if missing := [name for name in events.queue_names() if name not in served]:
        what = "no worker is alive" if len(missing) == len(events.queue_names()) else f"nobody serves {missing[0]}"
        yield Finding("work", "process", "warning", what, "start `dingbridge work`")
    else:
        yield Finding("work", "process", "ok", "every event queue is served")
    for queue, count in _owing(store).items():
        if count and queue not in served:
            text = f"{count} jobs are owed on the queue {queue}, which nobody serves"
            yield Finding("jobs", "process", "warning", text, f"start `dingbridge jobs {queue}`")
    if connection.exists(LEADER_KEY):
        yield Finding("clock", "process", "ok", "a clock leads")
    else:
        yield Finding("clock", "process", "warning", "no clock leads", "start `dingbridge clock`")


def _owing(store: Store | None) -> Mapping[str, int]:
    if store is None:
        return {}
    with store.reading() as sql:
        return owing_queues(sql)


def _owner_keys(app: AppConfig) -> Finding:
    wanted = [key for key in (app.suite_key, app.app_key, app.corp_id if app.kind == "internal" else None) if key]
    if wanted and not set(wanted) & set(app.owner_keys):
        names = "suite_key" if app.kind == "suite" else "app_key nor corp_id"
        return Finding(app.name, "owner key", "fault", f"owner_keys names not its {names}", "add it to owner_keys")
    return Finding(app.name, "owner key", "ok", f"{len(app.owner_keys)} may stand behind a message")


def _address(app: AppConfig, receiver: str) -> Finding:
    """A signed message to the receiver: whether it is there, and has this configuration."""
    url = f"{receiver.rstrip('/')}/callback/{app.name}"
    try:
        reply = envelopes.post(url, app, {"EventType": "check_url"})
    except NoAnswer as error:
        reason = str(error).partition(";")[0]
        return Finding(app.name, "address", "fault", reason, "start `dingbridge serve`, or name its address with --url")
    if reply.status == 200 and reply.text == "success":
        return Finding(app.name, "address", "ok", f"{receiver} answers within {reply.seconds * 1000:.0f} ms")
    if 300 <= reply.status < 400:
        return Finding(
            app.name, "address", "fault", f"{receiver} redirects, which DingTalk does not follow",
            "give the final address, with https",
        )  # fmt: skip
    said = "is no receiver of ours" if reply.status == 200 else f"answers {reply.status}: {reply.body.strip()[:120]}"
    return Finding(
        app.name, "address", "fault", f"{receiver} {said}",
        "name the receiver with --url; one that runs with an older configuration has to be restarted",
    )  # fmt: skip


def _callbacks(app: AppConfig, noted: dict[Verdict, Noted]) -> Iterator[Finding]:
    """How DingTalk's callbacks fared: a key is wrong where one was refused and no event has come since."""
    good = noted.get("good")
    wrong = {verdict: found for verdict, found in noted.items() if good is None or found.at > good.at}
    for verdict, (text, mend) in _REFUSALS.items():
        if verdict in wrong:
            check, at = verdict.replace("_", " "), _time(wrong[verdict].at)
            yield Finding(
                app.name, check, "fault", f"{text}: a callback was refused at {at}, and none came since", mend
            )
    if not wrong.keys() & _REFUSALS.keys():
        last = f"the last event came at {_time(good.at)}" if good else "none has come yet"
        yield Finding(app.name, "callbacks", "ok" if good else "warning", last, "" if good else _NO_CALLBACK)


def _api(config: Config, app: AppConfig, clients: Clients, store: Store) -> Iterator[Finding]:
    """What DingTalk says of the credentials, and of each call that a copy makes."""
    if app.kind == "suite":
        yield from _suite(config, app, clients, store)
        return
    if not app.reads:
        yield Finding(app.name, "credentials", "skipped", "it has none: what it receives is recorded, nothing is read")
        return
    client = clients.internal(app)
    signed_in = _attempt(app.name, "credentials", client.sign_in)
    yield signed_in
    if signed_in.state == "ok":
        yield from _permissions(app.name, client)
        yield _registered(app, client)


def _suite(config: Config, app: AppConfig, clients: Clients, store: Store) -> Iterator[Finding]:
    if not app.suite_key:
        yield Finding(
            app.name, "credentials", "skipped", "it has none yet: its address can be checked, nothing is read"
        )
        return
    with store.reading() as sql:
        times, corps = suites.ticket_times(sql), suites.active_corps(sql, [app.suite_key])
        codes = [row for row in suites.authorized(sql, corps) if row.suite_key == app.suite_key]
    ticket = _ticket(app, suites.ticket_age(times.get(app.suite_key)), app.suite_key in times)
    yield ticket
    yield from _codes(config, app, codes)
    if ticket.state == "fault" and app.suite_key not in times:
        return
    client = clients.suite(app)
    signed_in = _attempt(app.name, "credentials", client.sign_in)
    yield signed_in
    if signed_in.state != "ok":
        return
    if not corps:
        yield Finding(app.name, "permission", "skipped", "no corp has authorised it yet")
        return
    yield from _permissions(app.name, client.corp(corps[0]))


def _ticket(app: AppConfig, age: float | None, there: bool) -> Finding:
    mend = "push it again in the developer console, and see that its callbacks arrive"
    if not there:
        return Finding(app.name, "ticket", "fault", "no suite_ticket has come yet", mend)
    if age is not None and age > suites.OLD_TICKET:
        return Finding(app.name, "ticket", "fault", f"the suite_ticket is {age / 3600:.0f} hours old", mend)
    return Finding(app.name, "ticket", "ok", "the suite_ticket is fresh")


def _codes(config: Config, app: AppConfig, rows: list[suites.Authorized]) -> Iterator[Finding]:
    """Whether the permanent codes can be opened, and what waits for an activation that has lost its code."""
    key = config.encryption_key
    seal = Seal(key.get_secret_value() if key else "")
    for row in rows:
        if row.permanent_code:
            try:
                seal.open(row.permanent_code, row.suite_key, row.corp_id)
            except SealBroken as error:
                text, _, reason = str(error).partition(": ")
                yield Finding(app.name, "encryption key", "fault", f"{text}: {reason}", "set the former encryption_key")
                return
    waiting = [row for row in rows if any(agent.get("close") == 2 for agent in row.agents or ())]
    if waiting:
        text = f"{len(waiting)} corps wait for an activation whose permanent code was lost"
        yield Finding(app.name, "activation", "warning", text, "let the corp authorise the suite again")


def _permissions(name: str, client: DingTalk) -> Iterator[Finding]:
    """Every kind of call that a copy makes, once."""
    scope = Scope((), (), ())

    def scopes() -> None:
        nonlocal scope
        scope = client.scopes(fresh=True)

    found = _attempt(name, "permission", scopes, "what it may see can be asked")
    yield found
    if found.state != "ok":
        return
    calls: list[tuple[str, Callable[[], object]]] = [
        ("the role list can be read", lambda: client.role_groups()),
        ("the administrators can be listed", lambda: client.admins()),
    ]
    userids = list(scope.users[:1])
    if scope.departments:
        head = scope.departments[0]
        calls += [
            ("departments can be read", lambda: client.department(head)),
            ("departments can be listed", lambda: client.sub_departments(head)),
            ("members can be listed", lambda: userids.extend(client.user_ids(head)[:1])),
        ]
    for text, call in calls:
        yield _attempt(name, "permission", call, text)
    if userids:
        yield _attempt(name, "permission", lambda: client.user(userids[0]), "people can be read")


def _registered(app: AppConfig, client: DingTalk) -> Finding:
    """The callback that is registered by API, if one is: its keys and its address are DingTalk's own word."""
    try:
        found = client.callback()
    except ApiError as error:
        return Finding(app.name, "registration", "skipped", str(error))
    if found is None:
        return Finding(app.name, "registration", "ok", "none by API; a subscription in the console needs none")
    pairs = [pair.key() for pair in app.keys]
    if not any(same_keys(found, pair) for pair in pairs):
        wrong = "aes key" if any(found.token == pair.token for pair in pairs) else "token"
        return Finding(
            app.name, wrong, "fault", f"the {wrong} is not the one of the callback that is registered by API",
            "run `dingbridge register` with the address, or put DingTalk's into keys",
        )  # fmt: skip
    if not found.url.partition("?")[0].rstrip("/").endswith(f"/callback/{app.name}"):
        text = "the callback that is registered by API goes elsewhere"
        return Finding(app.name, "address", "fault", text, f"register https://your.host/callback/{app.name}")
    return Finding(app.name, "registration", "ok", f"{len(found.tags)} events are registered by API")


def _attempt(name: str, check: str, call: Callable[[], object], text: str = "key and secret are right") -> Finding:
    """One call; what stands against it says how it is mended."""
    try:
        call()
    except (Gone, Hidden):
        return Finding(name, check, "ok", text)  # it answered, of whom there is nothing to see
    except TicketStale as error:
        return Finding(name, "ticket", "fault", error.code, error.__doc__ or "")
    except ApiError as error:
        told, _, mend = error.message.rpartition("; ")
        if not error.permanent:
            mend = "wait, or see that dingtalk.api can be reached from this host"
            return Finding(name, "api", "fault", str(error), mend)
        return Finding(name, check, "fault", f"{error.call}: {error.code} {told}".rstrip(), mend)
    return Finding(name, check, "ok", text)


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at / SECOND, UTC):%Y-%m-%d %H:%M:%SZ}"
