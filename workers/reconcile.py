"""What the datastore holds, held against what DingTalk's lists say: a plan of what to read. Pure: no I/O.

A list only marks (rule 4): what it does not name is read before anything is removed. So a plan may be wrong about a
single entity at no harm; what it counts as removals is what a run would bring about if DingTalk stands by its lists.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import UNSET

from bridge.config import HealConfig
from bridge.events import ROOT_DEPARTMENT, Entity
from workers.shapes import Scope
from workers.snapshot import Listed, Lists
from workers.store.holdings import REMOVABLE, HeldDepartment, HeldUser, Holdings
from workers.store.users import LISTED_FIELDS

#: The field of a difference in whether there is such an entity at all, and its two values.
ROW, PRESENT, ABSENT = "row", "present", "absent"


class Difference(NamedTuple):
    """A field in which the datastore and the lists differ."""

    entity: Entity
    field: str
    here: Any
    there: Any
    #: Whether rows would go if DingTalk stands by it.
    removes: bool = False


@dataclass
class Plan:
    """What differs, and what a run would remove."""

    differences: list[Difference] = field(default_factory=list)
    #: Named by the scope and told of by no list: to be read in any case.
    untold: set[Entity] = field(default_factory=set)
    #: Rows that would go, and that live, by table.
    removals: Counter[str] = field(default_factory=Counter)
    living: Mapping[str, int] = field(default_factory=dict)
    #: Entities that no list names and that lie outside of the scope: they would be hidden. By table, and by name.
    outside: Counter[str] = field(default_factory=Counter)
    outsiders: set[Entity] = field(default_factory=set)

    def removing(self) -> set[Entity]:
        """Entities that a read may remove something of."""
        return {difference.entity for difference in self.differences if difference.removes}


def compare(holdings: Holdings, lists: Lists) -> Plan:
    """The plan; uses `holdings.users` up."""
    return _Comparer(holdings, lists).plan()


def objections(plan: Plan, limits: HealConfig, lost: Sequence[str], removals: bool, scope: bool) -> list[str]:
    """Why nothing may be removed, each for people; `removals` and `scope` were allowed this once.

    `lost` names what the app's scope held at the last comparison and DingTalk hides now.
    """
    found: list[str] = []
    if lost and not scope:
        found.append(
            f"the app's scope has lost {_few(lost)}, so what lies there would be hidden: allow it with --allow-scope"
        )
    for table, words in REMOVABLE.items():
        count = plan.removals[table] + (0 if scope else plan.outside[table])
        living = plan.living.get(table, 0)
        if not removals and count > limits.max_removals and count > limits.max_share * living:
            found.append(
                f"it would remove {count} of {living} {words}, more than heal.max_removals ({limits.max_removals})"
                f" and heal.max_share ({limits.max_share:.0%}): allow it with --allow-removals"
            )
    return found


def lost_scope(before: Scope | None, lists: Lists) -> tuple[list[int], list[str]]:
    """Departments and users that the scope named at the last comparison and that nothing tells of now.

    Whether they are lost or gone has to be asked.
    """
    if before is None or lists.dissolved:
        return [], []
    departments = set(before.departments) - set(lists.scope.departments) - lists.departments.keys()
    users = set(before.users) - set(lists.scope.users) - lists.users.keys()
    return sorted(departments), sorted(users)


class _Comparer:
    def __init__(self, holdings: Holdings, lists: Lists) -> None:
        self._held = holdings
        self._lists = lists
        self._plan = Plan(living=holdings.living)
        self._scope_users = set(lists.scope.users)
        self._covered = _Ancestry(holdings.departments, {*lists.scope.departments, *lists.departments})
        #: Departments under one that could not be listed: nothing is known of them.
        self._hanging = _Ancestry(holdings.departments, lists.unlisted)

    def plan(self) -> Plan:
        if self._lists.dissolved:
            self._dissolved()
            return self._plan
        self._departments()
        if self._lists.groups is not None:
            self._roles()
        seen = set()
        for user in self._held.users:
            if (listed := self._lists.users.get(user.userid)) is not None:
                seen.add(user.userid)
                self._user(user, listed)
            elif user.visible and user.userid not in self._scope_users:
                self._absent_user(user)
        for userid in self._lists.users.keys() - seen:
            self._differ(self._entity("user", userid), ROW, ABSENT, PRESENT)
        self._plan.untold = {self._entity("department", dept_id) for dept_id in self._lists.starts}
        self._plan.untold |= {self._entity("user", userid) for userid in self._scope_users - self._lists.users.keys()}
        return self._plan

    def _dissolved(self) -> None:
        if self._held.status == "dissolved":
            return
        root = self._entity("department", ROOT_DEPARTMENT)
        self._differ(root, "status", self._held.status, "dissolved", removes=True)
        self._plan.removals.update(self._held.living)

    def _departments(self) -> None:
        held, listed = self._held.departments, self._lists.departments
        for dept_id, branch in listed.items():
            entity, row = self._entity("department", dept_id), held.get(dept_id)
            if row is None:
                self._differ(entity, ROW, ABSENT, PRESENT)
                continue
            parent_id = None if dept_id == ROOT_DEPARTMENT else branch.parent_id
            for name, here, there in (
                ("name", row.name, branch.name),
                ("parent_id", row.parent_id, parent_id),
                ("visible", row.visible, True),
            ):
                if here != there:
                    self._differ(entity, name, here, there)
        for dept_id in held.keys() - listed.keys() - self._lists.starts:
            if held[dept_id].visible and not self._hanging.below(dept_id):
                self._absent(self._entity("department", dept_id), "departments", self._covered.within(dept_id))

    def _roles(self) -> None:
        entity = self._entity("roles", "")
        groups = {group.group_id: group.name for group in self._lists.groups or ()}
        roles = {role.id: (group.group_id, role.name) for group in self._lists.groups or () for role in group.roles}
        held: tuple[tuple[str, Mapping[int, Any], Mapping[int, Any]], ...] = (
            ("role_groups", self._held.groups, groups),
            ("roles", self._held.roles, roles),
        )
        for table, here, there in held:
            word = "group" if table == "role_groups" else "role"
            for key in sorted(here.keys() | there.keys()):
                if here.get(key) != there.get(key) or (key in here) != (key in there):
                    gone = key not in there
                    self._differ(entity, f"{word} {key}", here.get(key, ABSENT), there.get(key, ABSENT), gone)
                    self._plan.removals[table] += gone

    def _user(self, user: HeldUser, listed: Listed) -> None:
        entity = self._entity("user", user.userid)
        for name, here, there in zip(LISTED_FIELDS, user.values, listed.values, strict=True):
            said = there
            if name == "admin" and said is UNSET and self._lists.admins is not None:
                said = user.userid in self._lists.admins
            if said is not UNSET and here != said:
                self._differ(entity, name, here, said)
        if not user.visible:
            self._differ(entity, "visible", False, True)
        self._membership(entity, "department_members", set(user.departments), listed.departments)
        for dept_id, standing in listed.standing.items():
            if user.departments.get(dept_id, standing) != standing:
                self._differ(entity, f"department {dept_id}", user.departments[dept_id], standing)
        if self._lists.groups is not None:
            unread = self._lists.unread_roles
            holds = self._lists.roles_of.get(user.userid, set())
            self._membership(entity, "role_members", user.roles - unread, holds - unread)

    def _membership(self, entity: Entity, table: str, here: set[int], there: set[int]) -> None:
        """Whoever moves loses one and gains another: that is no removal."""
        if here == there:
            return
        fewer = max(0, len(here - there) - len(there - here))
        name = "departments" if table == "department_members" else "roles"
        self._differ(entity, name, sorted(here), sorted(there), removes=fewer > 0)
        self._plan.removals[table] += fewer

    def _absent_user(self, user: HeldUser) -> None:
        if any(self._unjudged(dept_id) for dept_id in user.departments):
            return
        within = not user.departments or any(self._covered.within(dept_id) for dept_id in user.departments)
        entity = self._entity("user", user.userid)
        self._absent(entity, "users", within)
        counts = self._plan.removals if within else self._plan.outside
        counts["department_members"] += len(user.departments)
        counts["role_members"] += len(user.roles)

    def _unjudged(self, dept_id: int) -> bool:
        """Whether a list that might have named its members is missing."""
        return dept_id in self._lists.unpeopled or self._hanging.below(dept_id)

    def _absent(self, entity: Entity, table: str, within: bool) -> None:
        self._differ(entity, ROW, PRESENT, ABSENT, removes=True)
        if within:
            self._plan.removals[table] += 1
        else:
            self._plan.outside[table] += 1
            self._plan.outsiders.add(entity)

    def _differ(self, entity: Entity, name: str, here: Any, there: Any, removes: bool = False) -> None:
        self._plan.differences.append(Difference(entity, name, here, there, removes))

    def _entity(self, kind: Any, key: int | str) -> Entity:
        return Entity(self._held.corp_id, kind, str(key))


class _Ancestry:
    """Whether a department lies under one of some, by the datastore's parents."""

    def __init__(self, departments: Mapping[int, HeldDepartment], heads: set[int]) -> None:
        self._departments = departments
        self._heads = heads
        self._known: dict[int, bool] = {}

    def within(self, dept_id: int) -> bool:
        """It is one of them, or lies below one."""
        path = list(self._path(dept_id))
        last = path[-1]
        found = last in self._heads or self._known.get(last, False)
        self._known |= dict.fromkeys(path, found)
        return found

    def below(self, dept_id: int) -> bool:
        """It lies below one; whether it is one itself does not count."""
        row = self._departments.get(dept_id)
        return row is not None and row.parent_id is not None and self.within(row.parent_id)

    def _path(self, dept_id: int) -> Iterator[int]:
        """Upwards, to where the answer is known; a ring, as stale rows may make one, ends too."""
        seen: set[int] = set()
        at: int | None = dept_id
        while at is not None and at not in seen:
            yield at
            if at in self._heads or at in self._known:
                return
            seen.add(at)
            row = self._departments.get(at)
            at = None if row is None else row.parent_id


def _few(names: Sequence[str]) -> str:
    """Some of these, and how many more."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
