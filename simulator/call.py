"""One API call: who asks, what is asked, and what they may see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from simulator.apps import Access, App
from simulator.errors import ApiError
from simulator.model import Department, User
from simulator.params import Params
from simulator.tenant import Tenant, View
from simulator.world import World

Body = dict[str, Any]


@dataclass(slots=True)
class Call:
    """What every handler gets. `app` and `corp_id` are set where the route needs a token."""

    world: World
    params: Params
    query: Params
    path: dict[str, str]
    app: App
    corp_id: str

    @property
    def tenant(self) -> Tenant:
        return self.world.tenants[self.corp_id]

    @property
    def access(self) -> Access:
        return self.app.corps[self.corp_id].access

    @property
    def view(self) -> View:
        """The organisation as reads see it at present, which may be stale."""
        return View(self.tenant, self.world.faults.lag_seconds)


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the API. `opened_by`: which kind of token; `permission`: what the app needs besides.
    `reads`: it reads the organisation, under its lock; a dissolved one then answers 70001."""

    path: str
    handler: Callable[[Call], Body]
    method: Literal["GET", "POST"] = "POST"
    opened_by: Literal["corp", "suite", "either", None] = "corp"
    permission: str | None = None
    style: Literal["old", "new"] = "old"
    token_name: str = "access_token"  # noqa: S105 - a parameter's name
    reads: bool = True


def visible_user(call: Call, view: View, userid: str) -> User:
    """The user, when the app may see them.

    Raises 33012 (no such userid), 60121 (one who left) or 50002 (out of scope). DingTalk answers either of the
    first two for users it does not have (api.md §2), so clients are to meet both.
    """
    user = view.user(userid)
    if user is None:
        raise ApiError(60121 if userid in call.tenant.leavers else 33012)
    scope = call.access
    if userid not in scope.authed_user and not any(covers(call, view, row.dept_id) for row in user.departments):
        raise ApiError(50002)
    return user


def known_department(view: View, dept_id: int) -> Department:
    """Raises 60003."""
    department = view.department(dept_id)
    if department is None:
        raise ApiError(60003)
    return department


def visible_department(call: Call, view: View, dept_id: int) -> Department:
    """Raises 60003 (gone) or 50004 (out of scope)."""
    department = known_department(view, dept_id)
    if not covers(call, view, dept_id):
        raise ApiError(50004)
    return department


def covers(call: Call, view: View, dept_id: int) -> bool:
    """Whether the app's scope holds this department."""
    granted = call.access.authed_dept
    return bool(granted) and not set(granted).isdisjoint(view.ancestors(dept_id))
