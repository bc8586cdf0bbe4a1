"""Verbs that answer over HTTP, and the one that runs everything at once."""

import click
import structlog
from flask import Flask

from bridge import config as configuration
from bridge import queues
from bridge.queues import Patience
from ops import run as whole
from ops import serve, simulation, supervisor
from ops.console.app import create_console
from ops.parameters import Address
from ops.verbs.base import example, guarded
from ops.web import WebServer, bind_address
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


@click.command(epilog=example("PORT=8001 dingbridge console"))
@guarded
def console() -> None:
    """The operator's web page with rq-dashboard under /rq, on $PORT (8001)."""
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
@click.option("--callbacks", type=Address(), help="Where changes are called back; this machine's receiver by default.")
@guarded
def simulate(users: int, seed: int, callbacks: str | None) -> None:
    """A DingTalk that runs offline, on $PORT (8002). Alone it changes nothing and sends nothing."""
    config = configuration.load()
    port = configuration.port("simulate")
    supervisor.check_ports(config.listen, {"simulate": port})
    target = callbacks or f"http://{bind_address(config.listen, configuration.DEFAULT_PORTS['serve'])}"
    log.info("simulating", api=f"http://{bind_address(config.listen, port)}", users=users, callbacks=target)
    simulation.serve(config, users, seed, target, port)
