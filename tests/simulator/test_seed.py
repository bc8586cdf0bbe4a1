"""A number of people and a seed make one organisation, with everything odd that real ones have."""

import json

import pytest

from simulator.model import ROOT
from simulator.seed import organisation
from simulator.tenant import View
from simulator.truth import truth


@pytest.mark.parametrize("people", [1, 2, 17, 600])
def test_has_exactly_so_many_people_in_nested_departments(people: int) -> None:
    tenant = organisation("c", people, "1")
    view = View(tenant)
    assert len(tenant.users.rows) == people
    assert max(len(view.ancestors(dept_id)) for dept_id in tenant.departments.rows) >= 4
    assert all(view.ancestors(dept_id)[-1] == ROOT for dept_id in tenant.departments.rows)
    assert len(tenant.role_groups.rows) >= 2
    assert view.admins()[0].admin_level == 1


def test_nobody_is_no_organisation() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        organisation("c", 0, "1")


def test_same_number_and_seed_same_organisation() -> None:
    assert truth(organisation("c", 200, "1")) == truth(organisation("c", 200, "1"))
    assert truth(organisation("c", 200, "1")) != truth(organisation("c", 200, "2"))


def test_what_real_organisations_have() -> None:
    tenant = organisation("c", 600, "1")
    users = list(tenant.users.rows.values())
    assert any(len(user.departments) > 1 for user in users)
    assert any(row.order > 2**53 for user in users for row in user.departments)
    assert any(row.leader for user in users for row in user.departments)
    assert any(user.userid.isdecimal() and user.userid.startswith("0") for user in users)
    assert any(not user.active for user in users)
    assert any(user.boss for user in users) and any(user.senior for user in users)
    for name in ("avatar", "manager_userid", "hired_date", "extension"):
        values = [getattr(user, name) for user in users]
        assert None in values and any(values)
    assert all(isinstance(json.loads(user.extension), dict) for user in users if user.extension)
    assert max(len(members) for members in tenant.members.values()) > 200
    assert max(len(holders) for holders in tenant.holders.values()) > 100
    assert any(not tenant.group_roles.get(group_id) for group_id in tenant.role_groups.rows)


def test_userids_and_unionids_are_unique() -> None:
    tenant = organisation("c", 3000, "5")
    assert len(tenant.users.rows) == len(tenant.unionids) == 3000
