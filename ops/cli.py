"""The command line: each verb is a door to what does the work."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar, get_args

import click
import redis
import structlog
from flask import Flask
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import DBAPIError

from bridge import config as configuration
from bridge import events, intake, queues
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.errors import BridgeError, ConfigError, UnknownApp
from bridge.queues import Patience
from bridge.spool import Spool
from ops import comparing, compose, copying, demo, envelopes, logs, serve, simulation, supervisor
from ops import run as whole
from ops.comparing import Healed, Looked
from ops.console.app import create_console
from ops.parameters import EntityName, Time
from ops.printing import json_object, show
from ops.standing import standing
from ops.story import story
from ops.supervisor import Process, Supervisor
from ops.web import WebServer, bind_address
from workers import jobs
from workers.clock import Clock
from workers.errors import ApiError
from workers.forget import forget
from workers.jobworker import JobWorker
from workers.replay import Named, Selection, recorded
from workers.store import migrate
from workers.store.engine import open_store
from workers.store.ledger import Status

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: Seconds that somebody who looks at a page waits for a datastore which is away.
CONSOLE_CONNECT_SECONDS = 2
#: Exit codes: wrong usage or configuration, and an operation that failed.
USAGE, FAILED = 2, 1

_NOTHING_SAID = "say which events: their ids, or one of --type, --corp, --entity, --status, --since, --until"

log = structlog.get_logger()


def example(text: str) -> str:
    """The help's last paragraph."""
    return f"Example: {text}"


def guarded(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Faults as one clear line each, and the exit code that fits."""

    @wraps(verb)
    def door(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return verb(*args, **kwargs)
        except ConfigError as error:
            for fault in error.faults:
                click.echo(fault, err=True)
            sys.exit(USAGE)
        except UnknownApp as error:
            click.echo(f"{error} in config.yaml", err=True)
            sys.exit(USAGE)
        except BridgeError as error:
            click.echo(str(error), err=True)
        except redis.RedisError as error:
            # Behind the colon of a sentinel's error stands how its connections are made.
            line = str(error).partition("\n")[0].partition(" : ")[0]
            click.echo(f"Redis cannot be used: {line}; see redis.url in config.yaml", err=True)
        except DBAPIError as error:
            line = str(error.orig).partition("\n")[0]
            click.echo(f"the datastore cannot be used: {line}; see datastore.url in config.yaml", err=True)
        sys.exit(FAILED)

    return door


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dingbridge")
@click.option("--demo", "of_demo", is_flag=True, help="Speak to what `dingbridge run --demo` runs in this folder.")
@guarded
def main(of_demo: bool) -> None:
    """Keep a local copy of a company's DingTalk organisation true, and hand every change to your jobs."""
    if of_demo:
        os.environ.update(demo.environment(os.environ))


@main.command(epilog=example("dingbridge run --demo"))
@click.option("--demo", "as_demo", is_flag=True, help="With sample traffic from a simulated DingTalk; made-up secrets.")
@guarded
def run(as_demo: bool) -> None:
    """Run every process on this machine; restart what dies."""
    whole.run(as_demo)


@main.command("serve", epilog=example("PORT=8000 dingbridge serve"))
@guarded
def serve_command() -> None:
    """The receiver, under gunicorn, on $PORT (8000)."""
    config = configuration.load()
    supervisor.check_ports(config.listen, {"serve": configuration.port("serve")}, serve.PORT_SECONDS)
    serve.start(config)


@main.command(epilog=example("dingbridge work user_add_org user_leave_org"))
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@guarded
def work(names: Sequence[str]) -> None:
    """A sync worker; without names, on all event queues."""
    known = events.queue_names()
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no event queue {', '.join(unknown)}; there are {', '.join(known)}")
    logs.configure("work")
    parts = compose.open_parts(configuration.load())
    worker = compose.sync_worker(parts, names or known)
    log.info("working", queues=len(names or known), name=worker.name)
    worker.run()
    parts.close()


@main.command("jobs", epilog=example("dingbridge jobs jobs"))
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@guarded
def jobs_command(names: Sequence[str]) -> None:
    """RQ workers for the jobs that users wrote; without names, one process for each of their queues."""
    logs.configure("jobs")
    config = configuration.load()
    registry = jobs.load_registry(config)
    known = registry.queues()
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no function of yours waits on {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = list(names or known)
    if len(wanted) > 1:
        # A slow job of one queue holds up no other queue.
        Supervisor([Process(name, ["jobs", name]) for name in wanted], os.environ, _print_line).run(_until_told())
        return
    store = open_store(config.datastore.url)
    migrate.check(store)
    worker = JobWorker(wanted, compose.trusted_redis(config), store, registry)
    log.info("working", queue=wanted[0], functions=len(registry.names()))
    worker.run()
    store.close()


@main.command(epilog=example("dingbridge clock"))
@guarded
def clock() -> None:
    """Scheduled upkeep; safe to run several, one leads."""
    logs.configure("clock")
    config = configuration.load()
    connection = compose.trusted_redis(config)
    store = open_store(config.datastore.url)
    migrate.check(store)
    dispatcher = jobs.Dispatcher(store, connection)
    recovery = compose.recovery(config, connection, store)
    readers = compose.readers_of(config, connection, store)
    nightly = compose.nightly(config, connection, store, readers)
    Clock(connection, store, dispatcher, config.retention, recovery.tick, nightly.tend).run(_until_told())
    nightly.close()
    readers.close()


@main.command(epilog=example("PORT=8001 dingbridge console"))
@guarded
def console() -> None:
    """The operator's web page with rq-dashboard under /rq, on $PORT (8001)."""
    logs.configure("console")
    config = configuration.load()
    port = configuration.port("console")
    supervisor.check_ports(config.listen, {"console": port})

    def make() -> Flask:
        store = open_store(config.datastore.url, CONSOLE_CONNECT_SECONDS)
        return create_console(config, queues.connect(config, Patience.CONSOLE), store)

    log.info("console", address=f"http://{bind_address(config.listen, port)}")
    WebServer(make, config.listen, port, 1, 8, {"proc_name": "dingbridge-console"}).run()


@main.command(epilog=example("dingbridge simulate --users 200 --seed 7"))
@click.option("--users", default=200, show_default=True, type=click.IntRange(1), help="People in each organisation.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same organisation.")
@click.option("--callbacks", metavar="URL", help="Where changes are called back; this machine's receiver by default.")
@guarded
def simulate(users: int, seed: int, callbacks: str | None) -> None:
    """A DingTalk that runs offline, on $PORT (8002). Alone it changes nothing and sends nothing."""
    logs.configure("simulate")
    config = configuration.load()
    port = configuration.port("simulate")
    supervisor.check_ports(config.listen, {"simulate": port})
    target = callbacks or f"http://{bind_address(config.listen, configuration.DEFAULT_PORTS['serve'])}"
    log.info("simulating", api=f"http://{bind_address(config.listen, port)}", users=users, callbacks=target)
    simulation.serve(config, users, seed, target, port)


@main.command(epilog=example("dingbridge --demo change user_leave_org --count 3"))
@click.argument("event", required=False)
@click.option("--app", "app_name", help="The app whose organisation changes; the first by default.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1), help="How many changes.")
@click.option("--generation", type=click.Choice(["A", "B", "mixed"]), default="mixed", help="Of the callbacks.")
@click.option("--url", help="The simulator; the one that dingtalk.api names by default.")
@guarded
def change(event: str | None, app_name: str | None, count: int, generation: str, url: str | None) -> None:
    """Make a simulated DingTalk change, at random or so that EVENT happens, and call back."""
    config = configuration.load()
    asked = {"app": app_name or config.apps[0].name, "event": event, "count": count, "generation": generation}
    for made in simulation.change(url or config.dingtalk.api, asked):
        click.echo(f"{made['event']} called back at {made['app']}")


@main.command(epilog=example("dingbridge drain /mnt/receiver-2/var/spool"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def drain(folder: Path, as_json: bool) -> None:
    """Feed in the spool of a host that does not come back."""
    logs.configure("drain")
    count = intake.drain(Spool(folder), Acceptor(queues.connect(configuration.load(), Patience.WORKER)))
    show({"events": count}, as_json, f"{count} events were new; what is drained is deleted")


@main.command("migrate", epilog=example("dingbridge migrate"))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def migrate_command(as_json: bool) -> None:
    """Create or upgrade the datastore's tables."""
    store = open_store(configuration.load().datastore.url)
    revision = migrate.migrate(store)
    store.close()
    show({"revision": revision}, as_json, f"the datastore's tables are those of revision {revision}")


@main.command(epilog=example("dingbridge send user_add_org --user zhangsan"))
@click.argument("event")
@click.option("--app", "app_name", help="The app whose key signs; the first of the configuration by default.")
@click.option("--corp", help="The CorpId; the app's by default.")
@click.option("--user", "users", multiple=True, help="A userid; may be repeated.")
@click.option("--dept", "departments", multiple=True, type=int, help="A department's id; may be repeated.")
@click.option("--role", "roles", multiple=True, type=int, help="A role's id; may be repeated.")
@click.option("--data", metavar="JSON", help="Fields that are added to the message, or replace what it has.")
@click.option("--url", help="The receiver; this machine's by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def send(
    event: str,
    app_name: str | None,
    corp: str | None,
    users: Sequence[str],
    departments: Sequence[int],
    roles: Sequence[int],
    data: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Sign, encrypt and post one callback to a receiver; show its decrypted reply."""
    config = configuration.load()
    app = config.app(app_name) if app_name else config.apps[0]
    message = envelopes.payload(event, corp or app.corp_id, users, departments, roles, json_object(data))
    base = url or f"http://{bind_address(config.listen, configuration.port('serve'))}"
    reply = envelopes.post(f"{base.rstrip('/')}/callback/{app.name}", app, message)
    shown = {"status": reply.status, "reply": reply.text, "event_id": message.get("eventId"), "seconds": reply.seconds}
    said = f"{reply.text} (decrypted)" if reply.text is not None else reply.body.strip()
    show(shown, as_json, f"{reply.status} {said} in {reply.seconds * 1000:.0f} ms; event {message.get('eventId')}")
    if reply.status != 200 or reply.text is None:
        sys.exit(FAILED)


@main.command(epilog=example("dingbridge sync --corp dingcorpid"))
@click.option("--app", "app_name", help="Copy the corp of this app.")
@click.option("--corp", help="Copy this corp.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def sync(app_name: str | None, corp: str | None, as_json: bool) -> None:
    """Full copy of an organisation; returns when it is complete. Live events go first.

    One that was killed goes on where it stood, for a day.
    """
    logs.configure("sync")
    config = configuration.load()
    result = copying.copy_all(config, _corps(config, app_name, corp))
    show(result._asdict(), as_json, copying.told(result))
    for fault in result.faults:
        click.echo(fault, err=True)
    if result.faults:
        sys.exit(FAILED)


@main.command(epilog=example("dingbridge recover --app acme"))
@click.option("--app", "app_name", help="Read the list of this app alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def recover(app_name: str | None, as_json: bool) -> None:
    """Read DingTalk's list of failed callbacks now and feed it in; the clock does so by itself."""
    logs.configure("recover")
    config = configuration.load()
    connection = compose.trusted_redis(config)
    store = open_store(config.datastore.url)
    migrate.check(store)
    recovery = compose.recovery(config, connection, store)
    names = [config.app(app_name).name] if app_name else recovery.apps
    if not names or not set(names) <= set(recovery.apps):
        raise BridgeError(
            f"{app_name or 'no app'} has the credentials: set app_key and app_secret, or those of its suite"
        )
    outcome = recovery.recover(names)
    store.close()
    said = f"{outcome.new} events were new, {outcome.repeats} known; {outcome.unreadable} items could not be read"
    show(asdict(outcome), as_json, f"{outcome.replies} replies of the failed list: {said}")
    for fault in outcome.faults:
        click.echo(fault, err=True)
    if outcome.faults:
        sys.exit(FAILED)


@main.command(epilog=example("dingbridge drift --corp dingcorpid"))
@click.option("--app", "app_name", help="Compare the corp of this app.")
@click.option("--corp", help="Compare this corp.")
@click.option("--whole", is_flag=True, help="Read every user and department singly: nine hours for 500 000 people.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def drift(app_name: str | None, corp: str | None, whole: bool, as_json: bool) -> None:
    """Compare the datastore with DingTalk, and write nothing.

    Exits 0 where there is no difference, 1 where there is one, or where not everything could be compared.

    It compares by lists and reads singly what differs, and up to a seventh of the rest, but at least a thousand. What
    it prints is people's data.
    """
    logs.configure("drift")
    config = configuration.load()
    corps = _corps(config, app_name, corp)
    parts = compose.open_parts(config)
    found = Looked([], [], [])
    with _progress() as bar:
        for corp_id in corps:
            try:
                looked = comparing.look(parts, corp_id, whole, _told(bar, corp_id))
            except ApiError as error:
                found.faults.append(str(error))
                continue
            found.findings.extend(looked.findings)
            found.objections.extend(looked.objections)
            found.faults.extend(looked.faults)
    parts.close()
    if as_json:
        show(found.as_dict(), True, "")
    else:
        comparing.print_findings(found.findings)
    for line in found.objections:
        click.echo(f"heal would remove nothing: {line}", err=True)
    for fault in found.faults:
        click.echo(fault, err=True)
    if found.findings or found.faults:
        sys.exit(FAILED)


@main.command(epilog=example("dingbridge heal --corp dingcorpid --allow-removals"))
@click.option("--app", "app_name", help="Mend the corp of this app.")
@click.option("--corp", help="Mend this corp.")
@click.option("--whole", is_flag=True, help="Read every user and department singly: nine hours for 500 000 people.")
@click.option("--allow-removals", is_flag=True, help="This once, remove more than heal.max_removals and max_share.")
@click.option("--allow-scope", is_flag=True, help="This once, hide what the app's scope has lost.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def heal(
    app_name: str | None, corp: str | None, whole: bool, allow_removals: bool, allow_scope: bool, as_json: bool
) -> None:
    """Compare the datastore with DingTalk, and mend what differs.

    Exits 0 when all is mended, 1 where something could not be read or where it stopped: a run that would remove
    suspiciously much, or finds that the app may see less than before, removes nothing and says what it would have done.
    """
    logs.configure("heal")
    config = configuration.load()
    corps = _corps(config, app_name, corp)
    parts = compose.open_parts(config)
    healed: list[Healed] = []
    faults: list[str] = []
    with _progress() as bar:
        for corp_id in corps:
            comparison = comparing.comparison(parts, corp_id, whole, allow_removals, allow_scope)
            try:
                healed.append(comparing.heal(parts, comparison, _told(bar, corp_id)))
            except ApiError as error:
                faults.append(str(error))
    parts.close()
    told = {"corps": [one.as_dict() for one in healed], "faults": faults}
    show(told, as_json, "\n".join(map(comparing.healed_line, healed)))
    complaints = faults + [line for one in healed for line in (*one.report.stopped, *one.faults)]
    for line in complaints:
        click.echo(line, err=True)
    if complaints:
        sys.exit(FAILED)


@main.command(epilog=example("dingbridge status zhangsan"))
@click.argument("identifier", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def status(identifier: str, as_json: bool) -> None:
    """The whole story of an event or an entity: received, queued, folded, read, what it changed, and whose jobs ran."""
    config = configuration.load()
    connection = queues.connect(config, Patience.WORKER)
    store = open_store(config.datastore.url)
    migrate.check(store)
    found = standing(identifier, connection, store)
    store.close()
    if found is None:
        raise BridgeError(f"{identifier} is neither an event nor an entity that is known here")
    show(found, as_json, story(found))


@main.command(
    "replay", epilog=example("dingbridge replay --type user_leave_org --since 2026-01-31T08:00+08:00 --dry-run")
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--type", "types", multiple=True, metavar="EVENT", help="Events of this type; may be repeated.")
@click.option("--corp", help="Events of this corp.")
@click.option(
    "--entity",
    "entities",
    multiple=True,
    type=EntityName(),
    metavar="KIND:ID",
    help="Events that name user:ID, department:ID or role:ID; may be repeated.",
)
@click.option("--status", "state", type=click.Choice(get_args(Status)), help="Events that ended so.")
@click.option("--since", type=Time(), metavar="TIME", help="Received then or later; UTC unless it names an offset.")
@click.option("--until", type=Time(), metavar="TIME", help="Received before then.")
@click.option("--dry-run", is_flag=True, help="Count them and feed in none.")
@click.option("--jobs", "with_jobs", is_flag=True, help="Run users' functions again, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def replay_command(
    ids: Sequence[str],
    types: Sequence[str],
    corp: str | None,
    entities: Sequence[Named],
    state: Status | None,
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
    with_jobs: bool,
    as_json: bool,
) -> None:
    """Feed recorded events in again: those of these IDs, or all that every option given lets through."""
    selection = Selection(ids, types, corp, entities, state, since, until)
    filtered = selection != Selection(ids)
    if bool(ids) is filtered:
        raise click.UsageError("name events by their ids or choose them by options, not both" if ids else _NOTHING_SAID)
    if since and until and since >= until:
        raise click.UsageError("--since must be before --until")
    config = configuration.load()
    store = open_store(config.datastore.url)
    migrate.check(store)
    acceptor = None if dry_run else Acceptor(queues.connect(config, Patience.WORKER))
    found = waiting = lost = 0
    for page in recorded(store, selection, with_jobs):
        found += len(page.events)
        waiting += acceptor.accept(page.events, again=True).count(False) if acceptor else 0
        for event_id, reason in page.lost.items():
            lost += 1
            click.echo(f"{event_id} cannot be fed in again: {reason}", err=True)
    store.close()
    result = {"events": found, "fed_in": 0 if dry_run else found - waiting, "still_waiting": waiting, "lost": lost}
    said = f"{found} events would be fed in again" if dry_run else f"{found - waiting} events were fed in again"
    show(result, as_json, f"{said}; {waiting} waited anyway" if waiting else said)
    if lost:
        sys.exit(FAILED)


@main.command("forget", epilog=example("dingbridge forget dingcorpid zhangsan"))
@click.argument("corp")
@click.argument("userid")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@guarded
def forget_command(corp: str, userid: str, as_json: bool) -> None:
    """Erase a person who left: the personal columns, and what changes and payloads say of them.

    Only who left can be forgotten: whoever is still at DingTalk would come back with the next read. The row itself
    stays with its keys. It cannot be undone; to do it again is harmless.
    """
    store = open_store(configuration.load().datastore.url)
    migrate.check(store)
    gone = forget(store, corp, userid)
    store.close()
    said = f"{userid} of {corp} is forgotten, with what {gone.changes} changes and {gone.events} events said"
    show(gone._asdict(), as_json, said)


def _corps(config: Config, app_name: str | None, corp: str | None) -> list[str]:
    """The corps that are meant: the one named, the app's, or all that can be read."""
    if corp:
        return [corp]
    apps = [config.app(app_name)] if app_name else [app for app in config.apps if app.reads]
    found = list(dict.fromkeys(app.corp_id for app in apps if app.corp_id))
    if not found:
        raise BridgeError("no app with a corp_id and credentials: set corp_id, app_key and app_secret, or use --corp")
    return found


def _until_told() -> threading.Event:
    """Set by SIGINT or SIGTERM."""
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda _signum, _frame: stopping.set())
    return stopping


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _told(bar: Progress, corp_id: str) -> comparing.Tell:
    """A line of the progress bar for this corp."""
    task = bar.add_task(corp_id, total=None)
    return lambda done, found: bar.update(task, completed=done, total=found)


def _print_line(process: str, line: str) -> None:
    click.echo(f"{process}: {line}", err=True)
