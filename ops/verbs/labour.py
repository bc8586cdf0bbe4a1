"""Verbs that work behind the queues: sync workers, workers of users' jobs, the clock."""

import os
from collections.abc import Sequence

import click
import structlog

from bridge import config as configuration
from bridge import events
from ops import compose
from ops.logs import SUPERVISED_VARIABLE
from ops.supervisor import Process, Supervisor, until_told
from ops.userjobs import owing_queues
from ops.verbs.base import example, guarded
from workers import jobs
from workers.clock import Clock
from workers.jobworker import JobWorker
from workers.tickets import TicketWatch

#: Seconds that job workers get to end what they have in hand: within the half minute that systemd grants them, and
#: under `dingbridge run`, which gives all of it four.
JOBS_GRACE_SECONDS, NESTED_GRACE_SECONDS = 25.0, 3.0

log = structlog.get_logger()


@click.command(epilog=example("dingbridge work user_add_org user_leave_org"))
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@guarded
def work(names: Sequence[str]) -> None:
    """A sync worker; without names, on all event queues."""
    known = events.queue_names()
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no event queue {', '.join(unknown)}; there are {', '.join(known)}")
    parts = compose.open_parts(configuration.load())
    worker = compose.sync_worker(parts, names or known)
    log.info("working", queues=len(names or known), name=worker.name)
    watch = TicketWatch(parts.connection, parts.suites)
    if parts.suites:
        watch.start()
    worker.run()
    watch.stop()
    parts.close()


@click.command("jobs", epilog=example("dingbridge jobs jobs"))
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@guarded
def jobs_command(names: Sequence[str]) -> None:
    """RQ workers for the jobs that users wrote; without names, one process for each of their queues."""
    config = configuration.load()
    registry = jobs.load_registry(config)
    with compose.migrated(config) as store, store.reading() as sql:
        known = list(dict.fromkeys([*registry.queues(), *owing_queues(sql)]))
    # Of a former queue nothing may be left by now, which is no fault of whoever is started for it again and again.
    unknown = [name for name in names if name not in known]
    if unknown and SUPERVISED_VARIABLE not in os.environ:
        raise click.UsageError(f"no function of yours waits on {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = list(names or known)
    if len(wanted) > 1:
        # A slow job of one queue holds up no other queue.
        processes = [Process(name, ["jobs", name]) for name in wanted]
        # Under another supervisor sooner than that one, or these would outlive us.
        grace = NESTED_GRACE_SECONDS if SUPERVISED_VARIABLE in os.environ else JOBS_GRACE_SECONDS
        Supervisor(processes, os.environ, _print_line, grace).run(until_told())
        return
    with compose.migrated(config) as store:
        worker = JobWorker(wanted, compose.trusted_redis(config), store, registry)
        log.info("working", queue=wanted[0], functions=len(registry.names()))
        worker.run()


@click.command(epilog=example("dingbridge clock"))
@guarded
def clock() -> None:
    """Scheduled upkeep; safe to run several, one leads."""
    config = configuration.load()
    connection = compose.trusted_redis(config)
    with compose.migrated(config) as store:
        dispatcher = jobs.Dispatcher(store, connection)
        recovery = compose.recovery(config, connection, store)
        readers = compose.readers_of(config, connection, store)
        nightly = compose.nightly(config, connection, store, readers)
        Clock(connection, store, dispatcher, config.retention, recovery.tick, nightly.tend).run(until_told())
        nightly.close()
        readers.close()


def _print_line(process: str, line: str) -> None:
    click.echo(f"{process}: {line}", err=True)
