"""One change of an organisation, named or at random, and the events DingTalk tells of it. Pure: no I/O."""

import random
from collections.abc import Callable

from simulator import changes_departments, changes_roles, changes_users
from simulator.edit import Edit, ImpossibleChange
from simulator.events import Event
from simulator.tenant import Tenant

#: How often each kind comes in random traffic; org_remove only when named.
WEIGHTS = {
    "user_add_org": 10,
    "user_modify_org": 40,
    "user_leave_org": 6,
    "user_active_org": 5,
    "org_admin_add": 2,
    "org_admin_remove": 2,
    "org_dept_create": 4,
    "org_dept_modify": 8,
    "org_dept_remove": 2,
    "org_change": 1,
    "label_user_change": 12,
    "label_conf_add": 4,
    "label_conf_modify": 3,
    "label_conf_del": 1,
}
_BY_USERID: dict[str, Callable[[Edit, str | None], None]] = {
    "user_add_org": changes_users.user_add_org,
    "user_modify_org": changes_users.user_modify_org,
    "user_leave_org": changes_users.user_leave_org,
    "user_active_org": changes_users.user_active_org,
    "org_admin_add": changes_users.org_admin_add,
    "org_admin_remove": changes_users.org_admin_remove,
}
_BY_NUMBER: dict[str, Callable[[Edit, int | None], None]] = {
    "org_dept_create": changes_departments.org_dept_create,
    "org_dept_modify": changes_departments.org_dept_modify,
    "org_dept_remove": changes_departments.org_dept_remove,
    "org_change": changes_departments.org_change,
    "org_remove": changes_departments.org_remove,
    "label_user_change": changes_roles.label_user_change,
    "label_conf_add": changes_roles.label_conf_add,
    "label_conf_modify": changes_roles.label_conf_modify,
    "label_conf_del": changes_roles.label_conf_del,
}


class Changes:
    """Changes one organisation, repeatably for one seed."""

    def __init__(self, tenant: Tenant, seed: str) -> None:
        self._tenant = tenant
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._serial = len(tenant.users.rows)

    def make(self, event: str | None = None, entity: str | int | None = None) -> list[Event]:
        """Change something; the events in the order they happened.

        `event` is one of CONTACT_EVENTS, None for any but org_remove. `entity` names the userid, department,
        role or role group that it happens to. Raises ImpossibleChange, and then nothing has changed.
        """
        with self._tenant.lock:
            if self._tenant.dissolved:
                raise ImpossibleChange("this organisation is dissolved: nothing changes in it any more")
            kind = event or self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            edit = Edit(self._tenant, self._rng, self._serial)
            _apply(edit, kind, entity)
            self._serial = edit.serial
            return edit.events


def _apply(edit: Edit, kind: str, entity: str | int | None) -> None:
    if kind in _BY_USERID:
        return _BY_USERID[kind](edit, None if entity is None else str(entity))
    if kind in _BY_NUMBER:
        return _BY_NUMBER[kind](edit, _number(entity))
    raise ImpossibleChange(f"no contact event is called {kind}")


def _number(entity: str | int | None) -> int | None:
    try:
        return None if entity is None else int(entity)
    except ValueError:
        raise ImpossibleChange(f"{entity} is no id of a department, role or role group") from None
