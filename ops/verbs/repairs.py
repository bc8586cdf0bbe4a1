"""Verbs that make the datastore equal to DingTalk: copy, failed list, comparison."""

import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bridge import config as configuration
from bridge.config import Config
from bridge.errors import BridgeError
from ops import comparing, compose, copying
from ops.comparing import Healed, Looked
from ops.printing import show
from ops.verbs.base import FAILED, complain, example, guarded, json_option
from workers.store.suites import active_corps


@click.command(epilog=example("dingbridge sync --corp dingcorpid"))
@click.option("--app", "app_name", help="Copy the corp of this app.")
@click.option("--corp", help="Copy this corp.")
@click.option("--jobs", "with_jobs", is_flag=True, help="Run users' functions for a first copy, too.")
@json_option
@guarded
def sync(app_name: str | None, corp: str | None, with_jobs: bool, as_json: bool) -> None:
    """Full copy of an organisation; returns when it is complete. Live events go first.

    One that was killed goes on where it stood, for a day. Users' functions run for what a later copy changes, and stay
    quiet about a corp's first.
    """
    config = configuration.load()
    result = copying.copy_all(config, _corps(config, app_name, corp), with_jobs)
    show(result._asdict(), as_json, copying.told(result))
    complain(result.faults)


@click.command(epilog=example("dingbridge recover --app acme"))
@click.option("--app", "app_name", help="Read the list of this app alone.")
@json_option
@guarded
def recover(app_name: str | None, as_json: bool) -> None:
    """Read DingTalk's list of failed callbacks now and feed it in; the clock does so by itself."""
    config = configuration.load()
    connection = compose.trusted_redis(config)
    with compose.migrated(config) as store:
        recovery = compose.recovery(config, connection, store)
        names = [config.app(app_name).name] if app_name else recovery.apps
        if not names or not set(names) <= set(recovery.apps):
            raise BridgeError(
                f"{app_name or 'no app'} has the credentials: set app_key and app_secret, or those of its suite"
            )
        outcome = recovery.recover(names)
    said = f"{outcome.new} events were new, {outcome.repeats} known; {outcome.unreadable} items could not be read"
    show(asdict(outcome), as_json, f"{outcome.replies} replies of the failed list: {said}")
    complain(outcome.faults)


@click.command(epilog=example("dingbridge drift --corp dingcorpid"))
@click.option("--app", "app_name", help="Compare the corp of this app.")
@click.option("--corp", help="Compare this corp.")
@click.option("--whole", is_flag=True, help="Read every user and department singly: nine hours for 500 000 people.")
@json_option
@guarded
def drift(app_name: str | None, corp: str | None, whole: bool, as_json: bool) -> None:
    """Compare the datastore with DingTalk, and write nothing.

    Exits 0 where there is no difference, 1 where there is one, or where not everything could be compared.

    It compares by lists and reads singly what differs, and up to a seventh of the rest, but at least a thousand. What
    it prints is people's data.
    """
    config = configuration.load()
    corps = _corps(config, app_name, corp)
    parts = compose.open_parts(config)
    found = Looked([], [], [])
    with _progress() as bar:
        for corp_id in corps:
            try:
                looked = comparing.look(parts, corp_id, whole, _told(bar, corp_id))
            except BridgeError as error:
                found.faults.append(f"not compared: {corp_id}: {error}")
                continue
            found.findings.extend(looked.findings)
            found.objections.extend(looked.objections)
            found.faults.extend(looked.faults)
    parts.close()
    if as_json:
        show(found.as_dict(), True, "")
    else:
        comparing.print_findings(found)
    for line in found.objections:
        click.echo(f"heal would remove nothing: {line}", err=True)
    for fault in found.faults:
        click.echo(fault, err=True)
    if found.findings or found.faults:
        sys.exit(FAILED)


@click.command(epilog=example("dingbridge heal --corp dingcorpid --allow-removals"))
@click.option("--app", "app_name", help="Mend the corp of this app.")
@click.option("--corp", help="Mend this corp.")
@click.option("--whole", is_flag=True, help="Read every user and department singly: nine hours for 500 000 people.")
@click.option("--allow-removals", is_flag=True, help="This once, remove more than heal.max_removals and max_share.")
@click.option("--allow-scope", is_flag=True, help="This once, hide what the app's scope has lost.")
@json_option
@guarded
def heal(
    app_name: str | None, corp: str | None, whole: bool, allow_removals: bool, allow_scope: bool, as_json: bool
) -> None:
    """Compare the datastore with DingTalk, and mend what differs.

    Exits 0 when all is mended, 1 where something could not be read or where it stopped: a run that would remove
    suspiciously much, or finds that the app may see less than before, removes nothing and says what it would have done.
    """
    config = configuration.load()
    corps = _corps(config, app_name, corp)
    parts = compose.open_parts(config)
    healed: list[Healed] = []
    faults: list[str] = []
    with _progress() as bar:
        for corp_id in corps:
            try:
                comparison = comparing.comparison(parts, corp_id, whole, allow_removals, allow_scope)
                healed.append(comparing.heal(parts, comparison, _told(bar, corp_id)))
            except BridgeError as error:
                faults.append(f"not mended: {corp_id}: {error}")
    parts.close()
    told = {"corps": [one.as_dict() for one in healed], "faults": faults}
    show(told, as_json, "\n".join(map(comparing.healed_line, healed)))
    complaints = faults + [line for one in healed for line in (*one.report.stopped, *one.faults)]
    complain(complaints)


def _corps(config: Config, app_name: str | None, corp: str | None) -> list[str]:
    """The corps that are meant: the one named, the app's, or all that can be read."""
    if corp:
        return [corp]
    apps = [config.app(app_name)] if app_name else [app for app in config.apps if app.reads or app in config.suites]
    found = [app.corp_id for app in apps if app.kind == "internal" and app.corp_id]
    if suites := [app.suite_key for app in apps if app.suite_key]:
        with compose.migrated(config) as store, store.reading() as connection:
            found += active_corps(connection, suites)
    if not found:
        raise BridgeError(
            "no app with a corp_id and credentials, nor a corp that authorised a suite: set corp_id, app_key and"
            " app_secret, or use --corp"
        )
    return list(dict.fromkeys(found))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _told(bar: Progress, corp_id: str) -> comparing.Tell:
    """A line of the progress bar for this corp."""
    task = bar.add_task(corp_id, total=None)
    return lambda done, found: bar.update(task, completed=done, total=found)
