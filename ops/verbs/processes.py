"""Verbs that run processes: each of them alone, or all of them at once."""

import os
import signal
import threading
from collections.abc import Sequence

import click
import structlog
from flask import Flask

from bridge import config as configuration
from bridge import events, queues
from bridge.queues import Patience
from ops import compose, logs, serve, simulation, supervisor
from ops import run as whole
from ops.console.app import create_console
from ops.supervisor import Process, Supervisor
from ops.verbs.base import example, guarded
from ops.web import WebServer, bind_address
from workers import jobs
from workers.clock import Clock
from workers.jobworker import JobWorker
from workers.store.engine import open_store

#: Seconds that somebody who looks at a page waits for a datastore which is away.
CONSOLE_CONNECT_SECONDS = 2

log = structlog.get_logger()


@click.command(epilog=example("dingbridge run --demo"))
@click.option("--demo", "as_demo", is_flag=True, help="With sample traffic from a simulated DingTalk; made-up secrets.")
@guarded
def run(as_demo: bool) -> None:
    """Run every process on this machine; restart what dies."""
    whole.run(as_demo)


@click.command("serve", epilog=example("PORT=8000 dingbridge serve"))
@guarded
def serve_command() -> None:
    """The receiver, under gunicorn, on $PORT (8000)."""
    config = configuration.load()
    supervisor.check_ports(config.listen, {"serve": configuration.port("serve")}, serve.PORT_SECONDS)
    serve.start(config)


@click.command(epilog=example("dingbridge work user_add_org user_leave_org"))
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


@click.command("jobs", epilog=example("dingbridge jobs jobs"))
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
    with compose.migrated(config) as store:
        worker = JobWorker(wanted, compose.trusted_redis(config), store, registry)
        log.info("working", queue=wanted[0], functions=len(registry.names()))
        worker.run()


@click.command(epilog=example("dingbridge clock"))
@guarded
def clock() -> None:
    """Scheduled upkeep; safe to run several, one leads."""
    logs.configure("clock")
    config = configuration.load()
    connection = compose.trusted_redis(config)
    with compose.migrated(config) as store:
        dispatcher = jobs.Dispatcher(store, connection)
        recovery = compose.recovery(config, connection, store)
        readers = compose.readers_of(config, connection, store)
        nightly = compose.nightly(config, connection, store, readers)
        Clock(connection, store, dispatcher, config.retention, recovery.tick, nightly.tend).run(_until_told())
        nightly.close()
        readers.close()


@click.command(epilog=example("PORT=8001 dingbridge console"))
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


@click.command(epilog=example("dingbridge simulate --users 200 --seed 7"))
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


def _until_told() -> threading.Event:
    """Set by SIGINT or SIGTERM."""
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda _signum, _frame: stopping.set())
    return stopping


def _print_line(process: str, line: str) -> None:
    click.echo(f"{process}: {line}", err=True)
