"""Table `comparisons`: what each corp's last comparison found, who is at the next one, and when it is due."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.moment import SECOND
from workers.shapes import Scope
from workers.store.draft import ensure_corps
from workers.store.statements import given, insert_ignoring, inserting
from workers.store.tables import comparisons, corps, fences

#: How a comparison ended: everything was compared; some lists could not be read; it stopped short of removals and
#: asks; it could not begin.
Outcome = Literal["done", "partial", "stopped", "failed"]


class State(NamedTuple):
    """What is remembered of a corp's comparisons; times out of turn in Redis' microseconds."""

    corp_id: str
    known_at: datetime
    copied_at: datetime | None
    due_at: int | None
    whole: bool
    allow_scope: bool
    taken_until: int
    begun_at: datetime | None
    scope: Scope | None


def at(micros: int) -> datetime:
    """Redis' microseconds as a time."""
    return datetime.fromtimestamp(micros / SECOND, UTC)


def know(connection: Connection, corp_ids: Iterable[str], now: int) -> None:
    """Remember that there are these corps, those that are new as from now."""
    rows = [{"corp_id": corp_id, "known_at": at(now)} for corp_id in sorted(corp_ids)]
    insert_ignoring(connection, comparisons, rows)


def states(connection: Connection) -> list[State]:
    """All that are known, by corp."""
    columns = [comparisons.c[name] for name in State._fields]
    rows = connection.execute(sa.select(*columns).order_by(comparisons.c.corp_id)).mappings()
    return [State(**{**row, "scope": _scope(row["scope"])}) for row in rows]


def state(connection: Connection, corp_id: str, now: int) -> State:
    """One corp's; it is known from now on."""
    know(connection, [corp_id], now)
    return next(found for found in states(connection) if found.corp_id == corp_id)


def living_corps(connection: Connection) -> set[str]:
    """Corps that are neither dissolved nor revoked."""
    return set(connection.scalars(sa.select(corps.c.corp_id).where(corps.c.status == "active")))


def claim(connection: Connection, corp_id: str, now: int, until: int) -> bool:
    """Whether the comparison of this corp is now ours until then; not while another is at it."""
    free = (comparisons.c.corp_id == corp_id, comparisons.c.taken_until <= now)
    return bool(connection.execute(sa.update(comparisons).where(*free).values(taken_until=until)).rowcount)


def renew(connection: Connection, corp_id: str, until: int) -> None:
    """Stay at it until then; 0 leaves it."""
    connection.execute(sa.update(comparisons).where(comparisons.c.corp_id == corp_id).values(taken_until=until))


def remember(
    connection: Connection,
    corp_id: str,
    begun: int,
    ended: int,
    outcome: Outcome,
    scope: Scope | None,
    report: Mapping[str, Any],
    *,
    whole: bool,
    allow_scope: bool,
) -> None:
    """How a comparison ended that compared; `scope` None keeps the one remembered before.

    What was owed and goes beyond it stays owed: a `whole` one, one that may `allow_scope`.
    """
    mine = comparisons.c
    owed = sa.or_(
        mine.due_at > begun,
        sa.and_(mine.whole, sa.literal(not whole)),
        sa.and_(mine.allow_scope, sa.literal(not allow_scope)),
    )
    values: dict[str, Any] = {
        "begun_at": at(begun),
        "ended_at": at(ended),
        "copied_at": sa.func.coalesce(mine.copied_at, sa.literal(at(ended), mine.copied_at.type)),
        "due_at": sa.case((owed, mine.due_at), else_=sa.null()),
        "whole": sa.case((owed, mine.whole), else_=sa.false()),
        "allow_scope": sa.case((owed, mine.allow_scope), else_=sa.false()),
        "outcome": outcome,
        "report": report,
    }
    if scope is not None:
        values["scope"] = as_json(scope)
    connection.execute(sa.update(comparisons).where(mine.corp_id == corp_id).values(values))


def fail(connection: Connection, corp_id: str, begun: int, due_at: int, report: Mapping[str, Any]) -> None:
    """One could not begin; it is due again then, or sooner where that came due since it began."""
    mine = comparisons.c
    values = {
        "begun_at": at(begun),
        "ended_at": at(begun),
        "due_at": sa.case((mine.due_at.between(begun + 1, due_at), mine.due_at), else_=due_at),
        "taken_until": 0,
        "outcome": "failed",
        "report": report,
    }
    connection.execute(sa.update(comparisons).where(mine.corp_id == corp_id).values(values))


def passed_over(connection: Connection, corp_id: str, begun: int) -> None:
    """There was nothing to compare, as nobody may read the corp; what came due since then is still owed."""
    mine = comparisons.c
    owed = sa.case((mine.due_at > begun, mine.due_at), else_=sa.null())
    values = {"begun_at": at(begun), "due_at": owed, "taken_until": 0}
    connection.execute(sa.update(comparisons).where(mine.corp_id == corp_id).values(values))


def copied(connection: Connection, corp_id: str, now: int, scope: Scope) -> None:
    """A full copy is complete; the scope it saw is what the first comparison is measured by."""
    know(connection, [corp_id], now)
    mine = comparisons.c
    first = sa.update(comparisons).where(mine.corp_id == corp_id, mine.copied_at.is_(None))
    connection.execute(first.values(copied_at=at(now), scope=as_json(scope)))


def all_due(connection: Connection, now: int, due_at: int) -> int:
    """A whole comparison of every living corp is due then; how many they are."""
    corp_ids = living_corps(connection)
    rows = [{"corp_id": corp_id, "known_at": at(now), "due_at": due_at, "whole": True} for corp_id in sorted(corp_ids)]
    if rows:
        insert = inserting(connection.dialect.name, comparisons, list(rows[0]))
        again = {"due_at": insert.excluded.due_at, "whole": sa.true()}
        insert = insert.on_conflict_do_update(index_elements=[comparisons.c.corp_id], set_=again)
        connection.execute(insert, given((comparisons.c[name] for name in rows[0]), rows))
    return len(rows)


def make_due(connection: Connection, corp_id: str, now: int, due_at: int, *, whole: bool, allow_scope: bool) -> None:
    """A corp's authorisation changed: it is compared then; whether all, and what the scope lost is hidden unasked."""
    know(connection, [corp_id], now)
    asked = {"whole": whole, "allow_scope": allow_scope}
    values = {"due_at": due_at} | {name: True for name, given in asked.items() if given}
    connection.execute(sa.update(comparisons).where(comparisons.c.corp_id == corp_id).values(values))


def drop(connection: Connection, corp_id: str) -> None:
    """No comparison of this corp is due any more."""
    connection.execute(sa.update(comparisons).where(comparisons.c.corp_id == corp_id).values(due_at=None))


def fence_of(connection: Connection, corp_id: str) -> int:
    """The corp's fence as it is at present; 0 where it has none."""
    n: int | None = connection.scalar(sa.select(fences.c.n).where(fences.c.corp_id == corp_id))
    return n or 0


def raise_fence(connection: Connection, corp_id: str) -> None:
    """Whoever read before must read again (rule 4); held until the end of the transaction."""
    ensure_corps(connection, [corp_id])
    connection.execute(sa.update(fences).where(fences.c.corp_id == corp_id).values(n=fences.c.n + 1))


def as_json(scope: Scope) -> dict[str, list[Any]]:
    """A scope as the datastore keeps it."""
    return {"users": list(scope.users), "departments": list(scope.departments), "user_fields": list(scope.user_fields)}


def _scope(kept: Mapping[str, Any] | None) -> Scope | None:
    if kept is None:
        return None
    return Scope(tuple(kept["users"]), tuple(kept["departments"]), tuple(kept["user_fields"]))
