"""Verbs that try an installation out: a change at a simulated DingTalk, and a callback of your own."""

import sys
from collections.abc import Sequence

import click

from bridge import config as configuration
from ops import envelopes, simulation
from ops.parameters import Address
from ops.printing import json_object, show
from ops.registering import is_address
from ops.verbs.base import FAILED, example, guarded, json_option
from ops.web import bind_address

#: Part of every address of DingTalk itself.
DINGTALK = ".dingtalk.com"


@click.command(epilog=example("dingbridge --demo change user_leave_org --count 3"))
@click.argument("event", required=False)
@click.option("--app", "app_name", help="The app whose organisation changes; the first by default.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1), help="How many changes.")
@click.option("--generation", type=click.Choice(["A", "B", "mixed"]), default="mixed", help="Of the callbacks.")
@click.option("--url", type=Address(), help="The simulator; the one that dingtalk.api names by default.")
@guarded
def change(event: str | None, app_name: str | None, count: int, generation: str, url: str | None) -> None:
    """Make a simulated DingTalk change, at random or so that EVENT happens, and call back."""
    config = configuration.load()
    simulator = url or config.dingtalk.api
    if DINGTALK in simulator or not is_address(simulator):
        raise click.UsageError("no simulator is named: give its --url, or say `dingbridge --demo change`")
    asked = {"app": app_name or config.apps[0].name, "event": event, "count": count, "generation": generation}
    for made in simulation.change(simulator, asked):
        click.echo(f"{made['event']} called back at {made['app']}")


@click.command(epilog=example("dingbridge send user_add_org --user zhangsan"))
@click.argument("event")
@click.option("--app", "app_name", help="The app whose key signs; the first of the configuration by default.")
@click.option("--corp", help="The CorpId; the app's by default.")
@click.option("--user", "users", multiple=True, help="A userid; may be repeated.")
@click.option("--dept", "departments", multiple=True, type=int, help="A department's id; may be repeated.")
@click.option("--role", "roles", multiple=True, type=int, help="A role's id; may be repeated.")
@click.option("--data", metavar="JSON", help="Fields that are added to the message, or replace what it has.")
@click.option("--url", type=Address(), help="The receiver; this machine's by default.")
@json_option
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
