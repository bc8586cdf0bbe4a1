"""The hand that changes an organisation: picks, writes, and notes the events it made. Pure: no I/O."""

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from simulator.events import Diff, Event
from simulator.model import ROOT, Department, Membership, User
from simulator.seed import new_order
from simulator.tenant import Tenant, View

#: The field names of diffInfo, by ours (events.md §1).
DIFF_FIELDS = {
    "name": "name",
    "telephone": "telephone",
    "email": "email",
    "job_number": "jobNumber",
    "work_place": "workPlace",
    "remark": "remark",
    "extension": "extFields",
    "manager_userid": "managerUserid",
}
#: Users that one event names at most, here.
USERS_PER_EVENT = 20


class ImpossibleChange(ValueError):
    """the organisation has nothing that this change could be made to"""


@dataclass
class Edit:
    """One change in the making. `serial` numbers the people who ever joined."""

    tenant: Tenant
    rng: random.Random
    serial: int
    events: list[Event] = field(default_factory=list)

    @property
    def view(self) -> View:
        return View(self.tenant)

    def tell(
        self,
        kind: str,
        users: Iterable[str] = (),
        departments: Iterable[int] = (),
        labels: Iterable[int] = (),
        action: str | None = None,
        diffs: Sequence[Diff] = (),
        label: tuple[str, str] | None = None,
        roles_gone: Iterable[int] = (),
    ) -> None:
        """Note an event; nine in ten name an administrator who did it."""
        operator = self.tenant.admins.draw(self.rng) if self.tenant.admins and self.rng.random() < 0.9 else None
        before, after = label or (None, None)
        self.events.append(
            Event(
                kind,
                time.time_ns() // 1_000_000,
                tuple(users),
                tuple(departments),
                tuple(labels),
                action,
                operator,
                tuple(diffs),
                before,
                after,
                tuple(roles_gone),
            )
        )

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def user(self, named: str | None) -> User:
        """The named user, or anyone."""
        userid = self.tenant.everyone.draw(self.rng) if named is None else named
        found = self.tenant.users.rows.get(userid)
        if found is None:
            raise ImpossibleChange(f"no user {userid} in this organisation")
        return found

    def department(self, named: int | None) -> Department:
        """The named department, or any but the root."""
        dept_id = self.some([key for key in self.tenant.departments.rows if key != ROOT], named, "department")
        found = self.tenant.departments.rows.get(dept_id)
        if found is None:
            raise ImpossibleChange(f"no department {dept_id} in this organisation")
        return found

    def some(self, candidates: Sequence[int], named: int | None, what: str) -> int:
        """The named id, or one of the candidates."""
        if named is not None:
            return named
        if not candidates:
            raise ImpossibleChange(f"this organisation has no {what} to choose")
        return self.rng.choice(candidates)

    def membership(self, dept_id: int) -> Membership:
        return Membership(dept_id, new_order(self.rng), False)

    def rewrite(self, pairs: Sequence[tuple[User, User]]) -> None:
        """Write users (before, after) and tell of them, and of the departments whose managers changed."""
        for _, after in pairs:
            self.tenant.put_user(after)
        rows = iter(pairs)
        while batch := list(islice(rows, USERS_PER_EVENT)):
            diffs = [difference(before, after) for before, after in batch]
            self.tell("user_modify_org", [after.userid for _, after in batch], diffs=diffs)
        self.tell_of_managers(led for before, after in pairs for led in leads(before) ^ leads(after))

    def tell_of_managers(self, dept_ids: Iterable[int]) -> None:
        for dept_id in sorted(set(dept_ids)):
            self.tell("org_dept_modify", departments=[dept_id])


def leads(user: User) -> set[int]:
    """The departments that this user is a manager of."""
    return {row.dept_id for row in user.departments if row.leader}


def difference(before: User, after: User) -> Diff:
    """What diffInfo says of a change; departments and roles are never in it."""
    names = [name for name in DIFF_FIELDS if getattr(before, name) != getattr(after, name)]
    return Diff(after.userid, _told(before, names), _told(after, names))


def label_json(name: str, label_id: int, group_id: int | None, whole: bool) -> str:
    """A role or (no group) a role group as label_conf_modify shows it: whole, or as few fields as the new state."""
    shown: dict[str, object] = {"hidden": False, "name": name, "id": label_id, "extraInfo": {}}
    if whole:
        level, parent = (0, -1) if group_id is None else (1, group_id)
        shown |= {"deleted": False, "color": -11687445, "level": level, "scope": 1, "parentId": parent}
    return json.dumps(shown, ensure_ascii=False)


def _told(user: User, names: Sequence[str]) -> dict[str, str]:
    return {DIFF_FIELDS[name]: str(value) for name in names if (value := getattr(user, name))}
