"""Verbs about what has been recorded: the tables, the spool, events and people."""

import fcntl
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

import click
from sqlalchemy.engine import URL

from bridge import config as configuration
from bridge import intake, queues
from bridge.accept import Acceptor
from bridge.errors import BridgeError
from bridge.queues import Patience
from bridge.spool import SUFFIX, Spool
from ops import compose
from ops.parameters import EntityName, Time
from ops.printing import show
from ops.standing import standing
from ops.story import story
from ops.verbs.base import FAILED, complain, example, guarded, json_option
from workers.forget import forget
from workers.replay import Named, Selection, recorded
from workers.store import migrate
from workers.store.engine import open_store
from workers.store.ledger import Status

#: What the receiver calls the folder of its spool.
_SPOOL = "spool"
_NOTHING_SAID = "say which events: their ids, or one of --type, --corp, --entity, --status, --since, --until"


@click.command("migrate", epilog=example("dingbridge migrate"))
@json_option
@guarded
def migrate_command(as_json: bool) -> None:
    """Create or upgrade the datastore's tables."""
    store = open_store(configuration.load().datastore.url)
    revision = migrate.migrate(store)
    store.close()
    where = _where(store.engine.url)
    said = f"the datastore's tables are those of revision {revision}: {where}"
    show({"revision": revision, "datastore": where}, as_json, said)


def _where(url: URL) -> str:
    """Which datastore that is, for people; without user and password."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite in {url.database}"
    hosts = url.query.get("host", url.host or "this host")
    at = hosts if isinstance(hosts, str) else ", ".join(hosts)
    port = f" port {url.port}" if url.port else ""
    return f"PostgreSQL, database {url.database or url.username} at {at}{port}"


@click.command(epilog=example("dingbridge drain /mnt/receiver-2/var/spool"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
@guarded
def drain(folder: Path, as_json: bool) -> None:
    """Feed in the spool of a host that does not come back; FOLDER is the spool, or the `var` that it lies in.

    It fails where a segment cannot be read, and stays.
    """
    lies = _spool_at(folder)
    count = intake.drain(Spool(lies), Acceptor(compose.trusted_redis(configuration.load())))
    show({"events": count}, as_json, f"{count} events were new; what is drained is deleted")
    if left := [path for path in lies.glob(f"*{SUFFIX}") if not _is_held(path)]:
        fault = f"{len(left)} segments in {lies} could not be read and stay; their events are nowhere else"
        complain([f"{fault}: look at the warnings, the files' owner and the disk, then drain again"])


def _spool_at(folder: Path) -> Path:
    """The spool that is meant; an empty one is known by its name. Raises BridgeError, OSError."""
    places = [place for place in (folder, folder / _SPOOL) if place.is_dir()]
    for place in places:  # by the system's own list: `glob` keeps quiet of what may not be read
        if any(path.suffix == SUFFIX for path in place.iterdir()):
            return place
    for place in places:
        if place.resolve().name == _SPOOL:
            return place
    raise BridgeError(f"no spool segment lies in {folder}: name the spool, or the folder `var` that it lies in")


def _is_held(segment: Path) -> bool:
    """Whether its writer lives, or another that drains it; also of one that is gone by now."""
    try:
        with segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    except OSError:
        return False
    return not segment.exists()


@click.command(epilog=example("dingbridge status zhangsan"))
@click.argument("identifier", metavar="ID")
@json_option
@guarded
def status(identifier: str, as_json: bool) -> None:
    """The whole story of an event or an entity: received, queued, folded, read, what it changed, and whose jobs ran."""
    config = configuration.load()
    with compose.migrated(config) as store:
        found = standing(identifier, queues.connect(config, Patience.WORKER), store)
    if found is None:
        raise BridgeError(f"{identifier} is neither an event nor an entity that is known here")
    show(found, as_json, story(found))


@click.command(
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
@json_option
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
    acceptor = None if dry_run else Acceptor(compose.trusted_redis(config))
    found = waiting = lost = 0
    with compose.migrated(config) as store:
        for page in recorded(store, selection, with_jobs):
            found += len(page.events)
            waiting += acceptor.accept(page.events, again=True).count(False) if acceptor else 0
            for event_id, reason in page.lost.items():
                lost += 1
                click.echo(f"{event_id} cannot be fed in again: {reason}", err=True)
    result = {"events": found, "fed_in": 0 if dry_run else found - waiting, "still_waiting": waiting, "lost": lost}
    said = f"{found} events would be fed in again" if dry_run else f"{found - waiting} events were fed in again"
    show(result, as_json, f"{said}; {waiting} waited anyway" if waiting else said)
    if lost:
        sys.exit(FAILED)


@click.command("forget", epilog=example("dingbridge forget dingcorpid zhangsan"))
@click.argument("corp")
@click.argument("userid")
@json_option
@guarded
def forget_command(corp: str, userid: str, as_json: bool) -> None:
    """Erase a person who left: the personal columns, and what changes and payloads say of them.

    Only who left can be forgotten: whoever is still at DingTalk would come back with the next read. The row itself
    stays with its keys. It cannot be undone; to do it again is harmless.
    """
    with compose.migrated(configuration.load()) as store:
        gone = forget(store, corp, userid)
    said = f"{userid} of {corp} is forgotten, with what {gone.changes} changes and {gone.events} events said"
    show(gone._asdict(), as_json, said)
