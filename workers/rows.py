"""What pushed rows themselves say of the entities that they name, for where the API is out of reach. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from bridge import events, messages
from bridge.events import Entity, Event
from workers import answers, lenient
from workers.errors import HIDDEN_CODES
from workers.readers import GONE_CODES, Answer
from workers.shapes import CorpName, RoleRow, SomeRoles
from workers.store.draft import Absence

_REMOVALS = frozenset({"user_leave_org", "org_dept_remove"})


class Content(NamedTuple):
    """What the newest row says of an entity, and that row's place; "" for what no row tells."""

    answer: Answer
    order: str


def orders(happened: Iterable[Event]) -> dict[Entity, str]:
    """The place of the newest row of each entity that these events name."""
    found: dict[Entity, str] = {}
    for event in happened:
        if (row := messages.pushed_row(event)) is not None:
            for entity in events.entities(event):
                found[entity] = max(found.get(entity, ""), row.order)
    return found


def content(happened: Iterable[Event], entity: Entity) -> Content | None:
    """What to write of this entity that these events name; None where no row of theirs says anything of it."""
    if entity.kind == "roles":
        return _roles(happened)
    found = []
    for event in happened:
        if (row := messages.pushed_row(event)) is not None:
            try:
                found.append(Content(_answer(event, entity, row.data), row.order))
            except msgspec.ValidationError:
                continue  # it still names what to read
    return max(found, key=lambda one: one.order, default=None)


def named_roles(happened: Iterable[Event]) -> SomeRoles:
    """The roles that these events name, by their ids alone."""
    return SomeRoles({}, tuple(dict.fromkeys(role_id for event in happened for role_id in event.role_ids)))


def _roles(happened: Iterable[Event]) -> Content | None:
    """A row tells of one role, the answer of all that were told of."""
    told: dict[int, tuple[str, RoleRow | None]] = {}
    for event in happened:
        if (row := messages.pushed_row(event)) is None:
            continue
        try:
            role = None if event.type == "org_role_remove" else answers.read_pushed_role(row.data)
        except msgspec.ValidationError:
            continue
        for role_id in event.role_ids:
            if role_id not in told or told[role_id][0] <= row.order:
                told[role_id] = (row.order, role)
    return Content(SomeRoles(told), "") if told else None


def _answer(event: Event, entity: Entity, data: Mapping[str, Any]) -> Answer:
    code = lenient.text_of(dict(data), "errcode")
    if code in GONE_CODES[entity.kind]:
        return Absence.GONE
    if code in HIDDEN_CODES:
        return Absence.HIDDEN
    if code not in ("", "0"):
        raise msgspec.ValidationError("errcode says nothing of it")
    if event.type in _REMOVALS:
        return Absence.GONE
    if entity.kind == "user":
        return answers.read_pushed_user(entity.id, dict(data))
    if event.type == "org_remove":
        return Absence.DISSOLVED
    if event.type == "org_update":
        return CorpName(lenient.text_of(dict(data), "corp_name") or None)
    return answers.read_pushed_department(int(entity.id), dict(data))
