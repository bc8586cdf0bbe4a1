"""What pushed rows say themselves of the entities that they name."""

from typing import Any

import msgspec
import pytest

from bridge.events import Entity
from tests.installation import CORP
from tests.workers.helpers import an_event, department, user
from workers import rows
from workers.store.draft import Absence


def told(entity: Entity, **data: Any) -> Any:
    """What a row with this biz_data says of the entity; None for nothing."""
    row = {"corp_id": CORP, "gmt_modified": 1, "biz_data": msgspec.json.encode(data).decode()}
    names: Any = {"users": [entity.id]} if entity.kind == "user" else {"departments": [int(entity.id)]}
    found = rows.content([an_event(payload=msgspec.Raw(msgspec.json.encode(row)), **names)], entity)
    return None if found is None else found.answer


@pytest.mark.parametrize(
    ("entity", "code", "says"),
    [
        (user("u1"), 50002, Absence.HIDDEN),
        (department(2), "50004", Absence.HIDDEN),
        (user("u1"), 60121, Absence.GONE),
        (department(2), 60003, Absence.GONE),
        (user("u1"), 60003, None),
        (user("u1"), -1, None),
        (department(2), "90018", None),
    ],
)
def test_a_code_in_a_row(entity: Entity, code: Any, says: Absence | None) -> None:
    """One that says nothing of the entity leaves it to its read."""
    assert told(entity, errcode=code, errmsg="x") is says


@pytest.mark.parametrize("none", [{}, {"errcode": 0}, {"errcode": "0"}, {"errcode": None}])
def test_no_code(none: dict[str, Any]) -> None:
    assert told(user("u1"), name="A", **none).name == "A"
