"""For job authors' own tests: run registered functions with neither Redis nor network nor a datastore."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from workers import registry
from workers.directory import Change, Directory, Event, Record
from workers.store.draft import ChangeKind, Operation

__all__ = ["MemoryDirectory", "change", "deliver", "event"]


def event(
    type: str,
    users: Sequence[str] = (),
    departments: Sequence[int] = (),
    roles: Sequence[int] = (),
    corp_id: str | None = "dingtest",
    payload: Mapping[str, Any] | None = None,
) -> Event:
    """An event as a function registered with `@on` is given it."""
    return Event(
        id=f"test-{type}",
        type=type,
        corp_id=corp_id,
        app="test",
        occurred_at=datetime.now(UTC),
        user_ids=tuple(users),
        dept_ids=tuple(departments),
        role_ids=tuple(roles),
        payload=payload,
    )


def change(
    entity: ChangeKind,
    entity_id: str,
    operation: Operation,
    before: Record | None = None,
    after: Record | None = None,
    seq: int = 1,
    corp_id: str = "dingtest",
) -> Change:
    """A change as a function registered with `@on_change` is given it."""
    return Change(seq, corp_id, entity, entity_id, operation, before, after, "test-event", datetime.now(UTC))


class MemoryDirectory:
    """A Directory of the rows it is given, each with the columns of its table that the function looks at.

    A user's row may hold `departments`, a list of `{"dept_id": …}`, which `members` goes by.
    """

    def __init__(
        self, users: Iterable[Record] = (), departments: Iterable[Record] = (), roles: Iterable[Record] = ()
    ) -> None:
        self._users = {user["userid"]: user for user in users}
        self._departments = {department["dept_id"]: department for department in departments}
        self._roles = {role["role_id"]: role for role in roles}

    def user(self, userid: str) -> Record | None:
        return self._users.get(userid)

    def department(self, dept_id: int) -> Record | None:
        return self._departments.get(dept_id)

    def role(self, role_id: int) -> Record | None:
        return self._roles.get(role_id)

    def members(self, dept_id: int) -> list[Record]:
        return [
            user
            for user in self._users.values()
            if any(membership["dept_id"] == dept_id for membership in user.get("departments", ()))
        ]


def deliver(argument: Event | Change, directory: Directory) -> list[str]:
    """Call every function that is registered for this event or change, in order; their names.

    What a function raises comes through, as a failed attempt would.
    """
    jobs = registry.for_event(argument.type) if isinstance(argument, Event) else registry.for_change(argument.entity)
    for job in jobs:
        job.function(argument, directory)
    return [job.name for job in jobs]
