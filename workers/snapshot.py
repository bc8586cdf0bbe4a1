"""What DingTalk's lists say of a corp: a few calls for each department, none for each user."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec import UNSET

from workers.dingtalk import DingTalk
from workers.errors import ApiError, Gone, QuotaSpent, Throttled
from workers.readers import ORG_DISSOLVED
from workers.shapes import Branch, RoleGroup, Scope, User
from workers.store.users import LISTED_FIELDS, told

T = TypeVar("T")

#: Times that a list is asked for, where asking again may help.
ATTEMPTS = 3
#: Seconds until it is asked for again, times the attempts made; a throttle tells its own wait.
RETRY_SECONDS = 1.0
#: Seconds of a wait after which whoever runs this is heard again.
BREATH_SECONDS = 0.5


@dataclass(slots=True)
class Listed:
    """A user as the lists of members tell: the columns of LISTED_FIELDS, UNSET where they say nothing."""

    values: tuple[Any, ...]
    departments: set[int] = field(default_factory=set)
    #: Leader and order in the departments whose list was read.
    standing: dict[int, tuple[bool, int | None]] = field(default_factory=dict)


@dataclass
class Lists:
    """All that the lists told, and what could not be listed."""

    scope: Scope = field(default_factory=lambda: Scope((), (), ()))
    #: Where the walk began: the scope names these and no list tells more of them.
    starts: set[int] = field(default_factory=set)
    departments: dict[int, Branch] = field(default_factory=dict)
    users: dict[str, Listed] = field(default_factory=dict)
    #: None where the role list could not be read.
    groups: list[RoleGroup] | None = None
    roles_of: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: None where the administrators could not be listed.
    admins: frozenset[str] | None = None
    #: Departments whose sub-departments, and whose members, could not be listed; roles whose members could not.
    unlisted: set[int] = field(default_factory=set)
    unpeopled: set[int] = field(default_factory=set)
    unread_roles: set[int] = field(default_factory=set)
    #: What could not be listed, for people, with the reason.
    faults: list[str] = field(default_factory=list)
    #: There is no such corp any more; nothing else was listed then.
    dissolved: bool = False


class Steps(NamedTuple):
    """How far it is: departments and roles listed, and those known of."""

    done: int
    found: int


class Survey:
    """One walk through the lists of a corp, at the pace of bulk reads."""

    def __init__(self, client: DingTalk) -> None:
        self._client = client
        self._done = 0
        self._found = 0
        self.lists = Lists()

    @property
    def steps(self) -> Steps:
        """How far it is."""
        return Steps(self._done, self._found)

    def run(self) -> Iterator[Steps]:
        """Walk, telling the progress after each step; `lists` is complete when this ends. Raises ApiError."""
        try:
            self.lists.scope = yield from self._ask(partial(self._client.scopes, live=False))
            yield from self._walk()
            yield from self._roles()
            yield from self._admins()
        except Gone as error:
            if error.code != ORG_DISSOLVED:
                raise
            self.lists = Lists(dissolved=True)

    def _walk(self) -> Iterator[Steps]:
        """From what the app may see down; one department that fails never stops the rest."""
        self.lists.starts = set(self.lists.scope.departments)
        level, seen = list(self.lists.scope.departments), set[int]()
        while level:
            self._found += len(level)
            below: dict[int, None] = {}
            for dept_id in level:
                seen.add(dept_id)
                yield from self._department(dept_id)
                below |= dict.fromkeys(found for found in self._below if found not in seen)
                self._done += 1
                yield self.steps
            level = [dept_id for dept_id in below if dept_id not in seen]

    def _department(self, dept_id: int) -> Iterator[Steps]:
        """What lies right below it, and its own members."""
        self._below: list[int] = []
        try:
            branches = yield from self._ask(partial(self._client.branches, dept_id, live=False))
        except Gone as error:
            _unless_over(error)
            self.lists.departments.pop(dept_id, None)
            self.lists.starts.discard(dept_id)
            return
        except ApiError as error:
            _unless_over(error)
            self.lists.unlisted.add(dept_id)
            self.lists.faults.append(f"department {dept_id} cannot be listed: {error}")
        else:
            self._below = [branch.dept_id for branch in branches]
            self.lists.departments |= {branch.dept_id: branch for branch in branches}
        try:
            yield from self._members(dept_id)
        except ApiError as error:
            _unless_over(error)
            self.lists.unpeopled.add(dept_id)
            self.lists.faults.append(f"the members of department {dept_id} cannot be listed: {error}")

    def _members(self, dept_id: int) -> Generator[Steps, None, None]:
        cursor: int | None = 0
        listed: set[str] = set()
        while cursor is not None:
            page = yield from self._ask(partial(self._client.users_page, dept_id, cursor, live=False))
            for user in page.items:
                self._add(user, dept_id)
            known = len(listed)
            listed |= {user.userid for user in page.items}
            # A page that brings nobody comes from a server that gives all it has, whatever the cursor.
            cursor = page.next if len(listed) > known else None

    def _add(self, user: User, dept_id: int) -> None:
        values = told(user)
        known = self.lists.users.setdefault(user.userid, Listed(()))
        known.values = tuple(values.get(name, UNSET) for name in LISTED_FIELDS)
        for membership in user.departments:
            known.departments.add(membership.dept_id)
            if membership.dept_id == dept_id:
                known.standing[dept_id] = (membership.leader, membership.order)

    def _roles(self) -> Iterator[Steps]:
        try:
            groups = yield from self._ask(partial(self._client.role_groups, live=False))
        except ApiError as error:
            _unless_over(error)
            self.lists.faults.append(f"the role list cannot be read: {error}")
            return
        self.lists.groups = groups
        roles = [role.id for group in groups for role in group.roles]
        self._found += len(roles)
        for role_id in roles:
            try:
                yield from self._holders(role_id)
            except ApiError as error:
                _unless_over(error)
                self.lists.unread_roles.add(role_id)
                if not isinstance(error, Gone):
                    self.lists.faults.append(f"the members of role {role_id} cannot be listed: {error}")
            self._done += 1
            yield self.steps

    def _holders(self, role_id: int) -> Generator[Steps, None, None]:
        offset: int | None = 0
        holders: set[str] = set()
        while offset is not None:
            page = yield from self._ask(partial(self._client.role_members, role_id, offset, live=False))
            known = len(holders)
            holders |= set(page.items)
            offset = page.next if len(holders) > known else None
        for userid in holders:
            self.lists.roles_of[userid].add(role_id)

    def _admins(self) -> Iterator[Steps]:
        try:
            admins = yield from self._ask(partial(self._client.admins, live=False))
        except ApiError as error:
            _unless_over(error)
            self.lists.faults.append(f"the administrators cannot be listed: {error}")
        else:
            self.lists.admins = frozenset(userid for userid, _ in admins)

    def _ask(self, call: Callable[[], T]) -> Generator[Steps, None, T]:
        """The answer; what may pass is asked for again. A throttle is no attempt, but a spent quota ends it."""
        attempts = 1
        while True:
            try:
                return call()
            except Throttled as error:
                if isinstance(error, QuotaSpent):
                    raise
                wait = error.wait
            except ApiError as error:
                if error.permanent or attempts == ATTEMPTS:
                    raise
                wait = RETRY_SECONDS * attempts
                attempts += 1
            until = time.monotonic() + wait
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, BREATH_SECONDS))
                yield self.steps


def _unless_over(error: ApiError) -> None:
    """A corp that is dissolved ends the walk, and so does a quota that is spent: they stand against any call."""
    if error.code == ORG_DISSOLVED or isinstance(error, QuotaSpent):
        raise error
