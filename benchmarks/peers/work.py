"""The same work for one event as ours does for it: read the user, then write row, memberships, change and event.

Plain code with prepared statements and kept connections; one transaction for each event, as each is a job of its own.
"""

import os
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from tests.installation import CORP
from workers.dingtalk import TIMEOUT
from workers.http import Http
from workers.store.engine import Store, open_store
from workers.store.statements import upsert
from workers.store.tables import changes, department_members, events, role_members, users

_COLUMNS = ("unionid", "name", "title", "mobile", "email", "job_number", "active", "admin", "boss", "senior")
_FOUND = sa.select(users).where(users.c.corp_id == CORP, users.c.userid == sa.bindparam("id")).with_for_update()


class Work:
    """What a process keeps open: the datastore, and connections to the API."""

    def __init__(self) -> None:
        self._store: Store = open_store(os.environ["DATASTORE"])
        self._http = Http()
        self._url = f"{os.environ['API']}/topapi/v2/user/get?access_token=bench"
        dialect = self._store.engine.dialect.name
        user = upsert(dialect, users)
        kept = [*_COLUMNS, "fetched_at", "raw"]
        self._user = user.on_conflict_do_update(
            index_elements=[users.c.corp_id, users.c.userid], set_={name: user.excluded[name] for name in kept}
        )
        self._events = upsert(dialect, events).on_conflict_do_nothing()
        self._departments = upsert(dialect, department_members).on_conflict_do_nothing()
        self._roles = upsert(dialect, role_members).on_conflict_do_nothing()

    def apply(self, event: dict[str, Any]) -> None:
        """One event, as DingTalk sends it."""
        (userid,) = event["userId"]
        told = self._read(userid)
        now = datetime.now(UTC)
        key = {"corp_id": CORP, "userid": userid}
        row = key | {name: told.get(name) for name in _COLUMNS} | {"fetched_at": now, "raw": told}
        with self._store.writing() as sql:
            before = sql.execute(_FOUND, {"id": userid}).mappings().first()
            sql.execute(self._user, row)
            orders = {item["dept_id"]: item["order"] for item in told["dept_order_list"]}
            member_of = [
                key | {"dept_id": dept, "leader": False, "sort_order": order} for dept, order in orders.items()
            ]
            sql.execute(self._departments, member_of)
            sql.execute(self._roles, [key | {"role_id": role["id"]} for role in told["role_list"]])
            change = {
                "corp_id": CORP,
                "entity": "user",
                "entity_id": userid,
                "operation": "update" if before else "create",
                "before": before and _shown(dict(before)),
                "after": _shown(row),
                "event_id": event["eventId"],
                "changed_at": now,
            }
            sql.execute(sa.insert(changes), change)
            done = {
                "id": event["eventId"],
                "app": "acme",
                "corp_id": CORP,
                "type": event["EventType"],
                "via": "http",
                "received_at": now,
                "applied_at": now,
                "status": "applied",
                "payload": event,
                "user_ids": [userid],
                "dept_ids": [],
                "role_ids": [],
            }
            sql.execute(self._events, done)

    def _read(self, userid: str) -> dict[str, Any]:
        answer = self._http.request(self._url, msgspec.json.encode({"userid": userid}), TIMEOUT)
        told: dict[str, Any] = msgspec.json.decode(answer.body)["result"]
        return told


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("userid", *_COLUMNS, "raw")}
