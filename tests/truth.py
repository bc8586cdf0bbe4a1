"""Whether the datastore equals the simulated organisation, table by table."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tests.installation import Installation
from workers.store import tables
from workers.store.engine import Store


def differences(installation: Installation, app: str = "acme") -> list[str]:
    """Each row that differs, named; empty where every table equals the tenant."""
    return differing(installation.simulator.truth(app), installation.parts.store)


def differing(truth: dict[str, Any], store: Store) -> list[str]:
    """The same of any datastore and a truth."""
    expected = expected_tables(truth)
    actual = actual_tables(store, truth["corp"]["corp_id"])
    return [
        f"{name} {key}: DingTalk {rows.get(key)}, here {actual[name].get(key)}"
        for name, rows in expected.items()
        for key in sorted(rows.keys() | actual[name].keys(), key=str)
        if rows.get(key) != actual[name].get(key)
    ]


def expected_tables(truth: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """What the living rows of each table have to be: none where the corp is dissolved."""
    corp = truth["corp"]
    if corp["status"] == "dissolved":
        return {name: {} for name in _TABLES}
    users = {}
    members: dict[Any, Any] = {}
    assigned: dict[Any, Any] = {}
    for user in truth["users"]:
        hired = user["hired_date"]
        kept = {name: user[name] for name in _USER_COLUMNS}
        users[user["userid"]] = kept | {
            "hired_at": None if hired is None else datetime.fromtimestamp(hired / 1000, UTC),
            "visible": True,
        }
        for row in user["departments"]:
            members[row["dept_id"], user["userid"]] = (row["leader"], row["order"])
        for role in user["roles"]:
            assigned[role, user["userid"]] = True
    return {
        "corps": {corp["corp_id"]: (corp["name"], corp["status"])},
        "users": users,
        "department_members": members,
        "role_members": assigned,
        "departments": {
            row["dept_id"]: (row["parent_id"], row["name"], row["order"], row["manager_userids"])
            for row in truth["departments"]
        },
        "role_groups": {row["group_id"]: row["name"] for row in truth["role_groups"]},
        "roles": {row["role_id"]: (row["group_id"], row["name"]) for row in truth["roles"]},
    }


def actual_tables(store: Store, corp_id: str) -> dict[str, dict[Any, Any]]:
    """The living rows of each table, in the same shape."""
    with store.reading() as connection:

        def rows(table: sa.Table) -> list[dict[str, Any]]:
            query = sa.select(table).where(table.c.corp_id == corp_id)
            if "deleted_at" in table.c:
                query = query.where(table.c.deleted_at.is_(None))
            return [dict(row) for row in connection.execute(query).mappings()]

        return {
            "corps": {row["corp_id"]: (row["name"], row["status"]) for row in rows(tables.corps)},
            "users": {
                row["userid"]: {name: row[name] for name in (*_USER_COLUMNS, "hired_at", "visible")}
                for row in rows(tables.users)
            },
            "department_members": {
                (row["dept_id"], row["userid"]): (row["leader"], row["sort_order"])
                for row in rows(tables.department_members)
            },
            "role_members": {(row["role_id"], row["userid"]): True for row in rows(tables.role_members)},
            "departments": {
                row["dept_id"]: (row["parent_id"], row["name"], row["sort_order"], row["manager_userids"])
                for row in rows(tables.departments)
            },
            "role_groups": {row["group_id"]: row["name"] for row in rows(tables.role_groups)},
            "roles": {row["role_id"]: (row["group_id"], row["name"]) for row in rows(tables.roles)},
        }


_TABLES = ("corps", "users", "department_members", "role_members", "departments", "role_groups", "roles")
_USER_COLUMNS = (
    "unionid", "name", "title", "mobile", "email", "job_number", "manager_userid", "active", "admin", "admin_level",
    "boss", "senior",
)  # fmt: skip
