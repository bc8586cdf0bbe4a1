"""Verbs that help to set an installation up: whether all is right, and the callback that is registered by API."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from bridge import config as configuration
from bridge import queues
from bridge.queues import Patience
from ops import doctoring
from ops.compose import Clients
from ops.doctoring import Finding
from ops.parameters import Address
from ops.printing import show
from ops.registering import Registration
from ops.verbs.base import FAILED, example, guarded, json_option
from ops.web import bind_address
from workers.store.engine import open_store

_MARKS = {"ok": "ok     ", "fault": "FAULT  ", "warning": "warning", "skipped": "–      "}


@click.command(epilog=example("dingbridge doctor --url https://your.host"))
@click.option("--url", type=Address(), help="Where DingTalk's callbacks come to; this machine's receiver by default.")
@json_option
@guarded
def doctor(url: str | None, as_json: bool) -> None:
    """Check the set-up end to end and name each fault with its mend.

    Redis, datastore, spool, modules with jobs and processes; of each app the keys, the address, the ticket, the
    credentials and the permissions. Exits 0 without a fault, 1 with one. It changes nothing.
    """
    config = configuration.load()
    receiver = url or f"http://{bind_address(config.listen, configuration.port('serve'))}"
    found = []
    for finding in doctoring.examine(config, receiver):
        found.append(finding)
        if not as_json:
            click.echo(_line(finding))
    faults = [finding for finding in found if finding.state == "fault"]
    if as_json:
        show({"ok": not faults, "findings": [finding._asdict() for finding in found]}, True, "")
    else:
        click.echo(f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}")
    if faults:
        sys.exit(FAILED)


@click.command(epilog=example("dingbridge register https://your.host --app acme"))
@click.argument("address", required=False)
@click.option("--app", "app_name", help="The internal app; the first of the configuration by default.")
@click.option("--remove", is_flag=True, help="Remove the callback that is registered.")
@json_option
@guarded
def register(address: str | None, app_name: str | None, remove: bool, as_json: bool) -> None:
    """Register the callback of an internal app at DingTalk by API, or change it; without ADDRESS, show it.

    DingTalk checks the address at once: the receiver has to run there. A subscription in the developer console needs
    no registration.
    """
    if address and remove:
        raise click.UsageError("name the address that is registered, or --remove, not both")
    config = configuration.load()
    app = config.app(app_name) if app_name else next((app for app in config.apps if app.reads), config.apps[0])
    store = open_store(config.datastore.url)
    registration = Registration(app, Clients(config, queues.connect(config, Patience.WORKER), store))
    if remove:
        gone = registration.remove()
        show({"removed": gone}, as_json, "the callback is removed" if gone else "no callback was registered")
    elif address:
        made = registration.put(address)
        verb = "changed" if made["updated"] else "registered"
        show(dict(made), as_json, f"{verb}: {len(made['events'])} events go to {made['url']}")
    else:
        found = registration.show()
        show({"callback": found}, as_json, _told(found))
    store.close()


def _line(finding: Finding) -> str:
    mend = f" → {finding.mend}" if finding.mend else ""
    return f"{_MARKS[finding.state]} {finding.subject}: {finding.check}: {finding.text}{mend}"


def _told(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "no callback is registered by API"
    keys = "the keys of this configuration" if found["keys_match"] else "other keys than this configuration's"
    return f"{len(found['events'])} events go to {found['url']}, under {keys}"
