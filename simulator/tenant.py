"""An organisation's present state, its indexes, and its recent past for stale answers. Pure: no I/O."""

import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeAlias, TypeVar

from simulator.model import ROOT, Department, Leaver, Role, RoleGroup, User

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Hashable)
R = TypeVar("R")

#: For each key the set of its members, in the order they came.
Index: TypeAlias = defaultdict[K, dict[M, None]]

#: Seconds of past that are kept; no answer can be staler than this.
MAX_LAG = 600.0


class Pool(Generic[K]):
    """A set that a random member can be drawn from in constant time, repeatably for one seed."""

    def __init__(self) -> None:
        self._items: list[K] = []
        self._places: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __contains__(self, item: K) -> bool:
        return item in self._places

    def put(self, item: K, member: bool) -> None:
        """Make `item` a member, or not."""
        if member and item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)
        elif not member and item in self._places:
            place, last = self._places.pop(item), self._items.pop()
            if last != item:
                self._items[place] = last
                self._places[last] = place

    def draw(self, rng: random.Random) -> K:
        return self._items[rng.randrange(len(self._items))]


class Table(Generic[K, R]):
    """Rows by key, with what each was before its changes of the last MAX_LAG seconds."""

    def __init__(self) -> None:
        self.rows: dict[K, R] = {}
        self._past: deque[tuple[float, K, R | None]] = deque()

    def write(self, key: K, row: R | None) -> R | None:
        """Set or (None) delete a row; returns what it was."""
        before = self.rows.pop(key, None) if row is None else self.rows.get(key)
        if row is not None:
            self.rows[key] = row
        now = time.monotonic()
        self._past.append((now, key, before))
        while self._past[0][0] < now - MAX_LAG:
            self._past.popleft()
        return before

    def forget_past(self) -> None:
        self._past.clear()

    def before(self, lag: float) -> dict[K, R | None]:
        """The rows changed in the last `lag` seconds, as they were until then."""
        earlier: dict[K, R | None] = {}
        if lag <= 0:
            return earlier
        cutoff = time.monotonic() - lag
        for moment, key, row in reversed(self._past):
            if moment <= cutoff:
                break
            earlier[key] = row
        return earlier


class Tenant:
    """One organisation. Whoever reads or writes holds `lock`."""

    def __init__(self, corp_id: str, name: str) -> None:
        self.corp_id = corp_id
        self.lock = threading.RLock()
        self.dissolved = False
        self.users: Table[str, User] = Table()
        self.departments: Table[int, Department] = Table()
        self.roles: Table[int, Role] = Table()
        self.role_groups: Table[int, RoleGroup] = Table()
        self.leavers: dict[str, Leaver] = {}
        self.unionids: dict[str, str] = {}
        self.members: Index[int, str] = defaultdict(dict)
        self.children: Index[int, int] = defaultdict(dict)
        self.holders: Index[int, str] = defaultdict(dict)
        self.group_roles: Index[int, int] = defaultdict(dict)
        self.everyone: Pool[str] = Pool()
        self.inactive: Pool[str] = Pool()
        self.admins: Pool[str] = Pool()
        self.reports: Index[str, str] = defaultdict(dict)
        self.put_department(Department(ROOT, None, name, 0))

    @property
    def name(self) -> str:
        return self.departments.rows[ROOT].name

    def put_user(self, user: User) -> None:
        before = self.users.write(user.userid, user)
        self._index_user(user.userid, before, user)

    def drop_user(self, userid: str) -> None:
        self._index_user(userid, self.users.write(userid, None), None)

    def put_department(self, department: Department) -> None:
        before = self.departments.write(department.dept_id, department)
        move(self.children, department.dept_id, _parents(before), _parents(department))

    def drop_department(self, dept_id: int) -> None:
        before = self.departments.write(dept_id, None)
        move(self.children, dept_id, _parents(before), set())

    def put_role(self, role: Role) -> None:
        before = self.roles.write(role.role_id, role)
        move(self.group_roles, role.role_id, {before.group_id} if before else set(), {role.group_id})

    def drop_role(self, role_id: int) -> None:
        before = self.roles.write(role_id, None)
        move(self.group_roles, role_id, {before.group_id} if before else set(), set())

    def put_role_group(self, group: RoleGroup) -> None:
        self.role_groups.write(group.group_id, group)

    def drop_role_group(self, group_id: int) -> None:
        self.role_groups.write(group_id, None)

    def settle(self) -> None:
        """Forget the past: nothing that happened until now can be answered stale."""
        self.users.forget_past()
        self.departments.forget_past()
        self.roles.forget_past()
        self.role_groups.forget_past()

    def _index_user(self, userid: str, before: User | None, after: User | None) -> None:
        move(self.members, userid, _departments(before), _departments(after))
        move(self.holders, userid, _roles(before), _roles(after))
        move(self.reports, userid, _managers(before), _managers(after))
        self.everyone.put(userid, after is not None)
        self.inactive.put(userid, after is not None and not after.active)
        self.admins.put(userid, after is not None and after.admin_level > 0)
        if before:
            self.unionids.pop(before.unionid, None)
        if after:
            self.unionids[after.unionid] = userid


class View:
    """What a read call sees: the organisation as it was `lag` seconds ago."""

    def __init__(self, tenant: Tenant, lag: float = 0) -> None:
        self.tenant = tenant
        self._users = tenant.users.before(lag)
        self._departments = tenant.departments.before(lag)
        self._roles = tenant.roles.before(lag)
        self._groups = tenant.role_groups.before(lag)

    def user(self, userid: str) -> User | None:
        return _as_of(self._users, self.tenant.users, userid)

    def department(self, dept_id: int) -> Department | None:
        return _as_of(self._departments, self.tenant.departments, dept_id)

    def role(self, role_id: int) -> Role | None:
        return _as_of(self._roles, self.tenant.roles, role_id)

    def role_group(self, group_id: int) -> RoleGroup | None:
        return _as_of(self._groups, self.tenant.role_groups, group_id)

    def members(self, dept_id: int) -> list[User]:
        """The direct members of a department, in the order they entered it."""
        return _select(self.tenant.members.get(dept_id, ()), self._users, self.user, lambda u: u.membership(dept_id))

    def managers(self, dept_id: int) -> list[str]:
        return [user.userid for user in self.members(dept_id) if (row := user.membership(dept_id)) and row.leader]

    def children(self, dept_id: int) -> list[Department]:
        candidates = self.tenant.children.get(dept_id, ())
        return _select(candidates, self._departments, self.department, lambda d: d.parent_id == dept_id)

    def holders(self, role_id: int) -> list[User]:
        return _select(self.tenant.holders.get(role_id, ()), self._users, self.user, lambda u: u.holds(role_id))

    def roles_of(self, group_id: int) -> list[Role]:
        candidates = self.tenant.group_roles.get(group_id, ())
        return _select(candidates, self._roles, self.role, lambda r: r.group_id == group_id)

    def role_groups(self) -> list[RoleGroup]:
        return _select(self.tenant.role_groups.rows, self._groups, self.role_group, bool)

    def admins(self) -> list[User]:
        found = _select(self.tenant.admins, self._users, self.user, lambda u: u.admin_level)
        return sorted(found, key=lambda user: (user.admin_level, user.userid))

    def ancestors(self, dept_id: int) -> list[int]:
        """The department itself, then its parents up to the root; empty when it does not exist."""
        chain: list[int] = []
        department = self.department(dept_id)
        # A stale answer mixes moments, so a loop is possible for as long as the lag.
        while department and department.dept_id not in chain:
            chain.append(department.dept_id)
            department = self.department(department.parent_id) if department.parent_id else None
        return chain


def move(index: Index[K, M], member: M, before: set[K], after: set[K]) -> None:
    """Take `member` out of the sets it left and into those it joined; an empty set goes away."""
    for key in before - after:
        index[key].pop(member, None)
        if not index[key]:
            del index[key]
    for key in after - before:
        index[key][member] = None


def _as_of(earlier: dict[K, R | None], table: Table[K, R], key: K) -> R | None:
    return earlier[key] if key in earlier else table.rows.get(key)


def _select(
    candidates: Iterable[K], changed: dict[K, R | None], read: Callable[[K], R | None], wanted: Callable[[R], object]
) -> list[R]:
    keys = list(candidates) if not changed else list(dict.fromkeys([*candidates, *changed]))
    return [row for key in keys if (row := read(key)) is not None and wanted(row)]


def _parents(department: Department | None) -> set[int]:
    return {department.parent_id} if department and department.parent_id else set()


def _departments(user: User | None) -> set[int]:
    return {row.dept_id for row in user.departments} if user else set()


def _roles(user: User | None) -> set[int]:
    return {row.role_id for row in user.roles} if user else set()


def _managers(user: User | None) -> set[str]:
    return {user.manager_userid} if user and user.manager_userid else set()
