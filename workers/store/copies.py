"""Tables `copies` and `copy_departments`: how far each full copy has come, so that one that was killed goes on."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.moment import SECOND, Moment
from workers.store import reads
from workers.store.reads import Priority
from workers.store.statements import insert_ignoring
from workers.store.tables import copies, copy_departments

#: Microseconds after which a copy that was broken off is begun anew: what it read first is too old by then.
RESUME_MICROSECONDS = 24 * 3600 * SECOND


class Begun(NamedTuple):
    """A copy under way: since when, and how many entities it had found before."""

    moment: Moment
    found: int


class Unlisted(NamedTuple):
    """A department that is still to be listed."""

    dept_id: int
    depth: int


def begin(connection: Connection, corp_id: str, now: Moment) -> Begun:
    """The corp's copy that was broken off, else a new one; one of another Redis' life tells no times."""
    row = connection.execute(sa.select(copies).where(copies.c.corp_id == corp_id)).mappings().first()
    if row and row["begun_life"] == now.life and now.micros - row["begun_at"] < RESUME_MICROSECONDS:
        reads.revive(connection, corp_id, now.micros, taken=True)
        failed = sa.update(copy_departments).where(copy_departments.c.corp_id == corp_id)
        connection.execute(failed.where(copy_departments.c.listed.is_(False)).values(listed=None))
        return Begun(Moment(row["begun_at"], row["begun_life"]), row["found"])
    finish(connection, corp_id)
    reads.revive(connection, corp_id, now.micros, taken=False)
    new = {"corp_id": corp_id, "begun_at": now.micros, "begun_life": now.life}
    insert_ignoring(connection, copies, [new])
    return Begun(now, 0)


def come_upon(connection: Connection, corp_id: str, depths: Mapping[int, int]) -> None:
    """Note departments that are to be listed, each with its depth; one that was come upon before stays."""
    rows = [{"corp_id": corp_id, "dept_id": dept_id, "depth": depth} for dept_id, depth in depths.items()]
    insert_ignoring(connection, copy_departments, rows)


def unlisted(connection: Connection, corp_id: str, limit: int) -> list[Unlisted]:
    """The departments that are to be listed next, breadth-first."""
    table = copy_departments
    query = sa.select(table.c.dept_id, table.c.depth).where(table.c.corp_id == corp_id, table.c.listed.is_(None))
    return [Unlisted(*row) for row in connection.execute(query.order_by(table.c.depth, table.c.dept_id).limit(limit))]


def set_listed(connection: Connection, corp_id: str, listed: Mapping[int, bool]) -> None:
    """These departments are done with; whether each could be listed."""
    table = copy_departments
    for outcome in (True, False):
        dept_ids = [dept_id for dept_id, could in listed.items() if could is outcome]
        done = sa.update(table).where(table.c.corp_id == corp_id, table.c.dept_id.in_(dept_ids))
        connection.execute(done.values(listed=outcome))


def note(connection: Connection, corp_id: str, begun: Moment, entities: Collection[Entity], priority: Priority) -> int:
    """Note reads of these for the copy that began then; how many are new."""
    new = reads.add_copy(connection, entities, begun.micros, priority)
    connection.execute(sa.update(copies).where(copies.c.corp_id == corp_id).values(found=copies.c.found + new))
    return new


def finish(connection: Connection, corp_id: str) -> None:
    """The copy is complete."""
    for table in (copy_departments, copies):
        connection.execute(sa.delete(table).where(table.c.corp_id == corp_id))
