"""A client of the simulator without HTTP: its own handlers answer, as late, as stale or as badly as the test says."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from simulator import api_departments, api_roles, api_users
from simulator.call import Body, Call
from simulator.errors import ApiError as Refusal
from simulator.params import Params
from simulator.world import World
from tests.convergence.actors import pause
from workers import answers
from workers.errors import ApiError, Throttled, Transient, from_code
from workers.lenient import Json
from workers.shapes import Branch, Department, Page, RoleGroup, Scope, User

T = TypeVar("T")
Handler = Callable[[Call], Body]

#: Rows of a page: few, so that lists have several.
PAGE = 2
#: What readers ask.
HANDLERS: tuple[Handler, ...] = (api_users.user_get, api_departments.department_get, api_roles.role_list)
#: What may stand against a call.
FAULTS: tuple[ApiError, ...] = (Transient("-1", "busy"), Throttled("90018", "too many"))


class Client:
    """What `workers.dingtalk.DingTalk` gives to readers, copies and comparisons."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Against the next calls, in this order.
        self.faults: list[ApiError] = []
        #: Seconds by which the answers of a handler lag.
        self.lags: dict[Handler, float] = {}

    def user(self, userid: str, *, live: bool = True) -> User:
        return self._ask(api_users.user_get, answers.read_user, userid=userid)

    def department(self, dept_id: int, *, live: bool = True) -> Department:
        return self._ask(api_departments.department_get, answers.read_department, dept_id=dept_id)

    def role_groups(self, *, live: bool = True) -> list[RoleGroup]:
        read: Callable[[Json], Any] = lambda answer: answers.read_role_groups(answer, 0, 200).items  # noqa: E731
        groups: list[RoleGroup] = self._ask(api_roles.role_list, read, size=200, offset=0)
        return groups

    def sub_departments(self, dept_id: int, *, live: bool = True) -> list[int]:
        return self._ask(api_departments.department_listsubid, answers.read_department_ids, dept_id=dept_id)

    def branches(self, dept_id: int, *, live: bool = True) -> list[Branch]:
        return self._ask(api_departments.department_listsub, answers.read_branches, dept_id=dept_id)

    def users_page(self, dept_id: int, cursor: int = 0, *, live: bool = True) -> Page[User]:
        read = partial(answers.read_users, dept_id=dept_id, cursor=cursor, size=PAGE)
        return self._ask(api_users.user_list, read, dept_id=dept_id, cursor=cursor, size=PAGE)

    def role_members(self, role_id: int, offset: int = 0, *, live: bool = True) -> Page[str]:
        read = partial(answers.read_role_members, offset=offset, size=PAGE)
        return self._ask(api_roles.role_simplelist, read, role_id=role_id, size=PAGE, offset=offset)

    def user_ids(self, dept_id: int, *, live: bool = True) -> list[str]:
        return self._ask(api_users.user_listid, answers.read_userids, dept_id=dept_id)

    def admins(self, *, live: bool = True) -> list[tuple[str, int]]:
        return self._ask(api_users.user_listadmin, answers.read_admins)

    def scopes(self, *, live: bool = True, fresh: bool = False) -> Scope:
        return self._ask(api_departments.auth_scopes, answers.read_scope)

    def _ask(self, handler: Handler, read: Callable[[Json], T], **asked: Any) -> T:
        pause("asked")
        if self.faults:
            raise self.faults.pop(0)
        self._world.faults.lag_seconds = self.lags.get(handler, 0.0)
        (app,) = self._world.apps.values()
        call = Call(self._world, Params(asked), Params({}), {}, app, app.corp_id)
        try:
            if call.tenant.dissolved:
                raise Refusal(70001)
            return read({"errcode": 0, **handler(call)})
        except Refusal as refusal:
            raise from_code(str(refusal.errcode), refusal.errmsg, handler.__name__) from None
