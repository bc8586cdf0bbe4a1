"""Erase a person who left: the personal columns, and what `changes`, payloads and replies of DingTalk say of them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from workers.errors import NotForgettable
from workers.store.engine import Store
from workers.store.naming import names
from workers.store.tables import PERSONAL_COLUMNS, changes, events, failed_lists, users

#: Rows that are looked at, and written, at a time.
PAGE = 500
#: What an erased payload keeps, in lower case: its type, ids, times and the words for what was done.
KEPT_FIELDS = frozenset(
    {
        "eventtype", "eventid", "bizid", "eventtime", "timestamp", "eventborntime", "corpid", "authcorpid", "suitekey",
        "userid", "useridlist", "deptid", "labelidlist", "optstaffid", "action", "scope",
        # Of a pushed row, and of its biz_data.
        "id", "gmt_create", "gmt_modified", "subscribe_id", "corp_id", "biz_id", "biz_type", "open_cursor", "status",
        "syncaction", "syncseq",
    }
)  # fmt: skip
#: A pushed row's own JSON: text on the wire, an object on the documentation's pages.
_NESTED = "biz_data"
#: Who did it; that alone says nothing of the person.
_OPERATOR = "optstaffid"
_PERSONAL = PERSONAL_COLUMNS["users"]

Row = Mapping[str, Any]
Rewrite = Callable[[Row], Row | None]


class Forgotten(NamedTuple):
    """How many rows of `changes` and `events`, and replies in `failed_lists`, said something of the person."""

    changes: int
    events: int
    replies: int


def forget(store: Store, corp_id: str, userid: str) -> Forgotten:
    """Erase a person in one transaction; again is harmless. Raises NotForgettable for anyone who did not leave."""
    key = (users.c.corp_id == corp_id, users.c.userid == userid)
    with store.writing() as tx:
        row = tx.execute(sa.select(users).where(*key).with_for_update()).mappings().first()
        if row is None:
            raise NotForgettable(f"no user {userid} of {corp_id} is known here")
        if row["deleted_at"] is None:
            raise NotForgettable(
                f"{userid} has not left {corp_id} as far as is known here: a read would bring everything back;"
                " only who left can be forgotten"
            )
        # The version is raised, so that no read under way writes back what it noted.
        tx.execute(sa.update(users).where(*key).values({**dict.fromkeys(_PERSONAL), "version": users.c.version + 1}))
        known = {userid, row["unionid"]}

        def strip_change(change: Row) -> Row | None:
            states = {name: change[name] for name in ("before", "after")}
            known.update(state.get("unionid") for state in states.values() if state)
            stripped: Row = {name: _without_person(state) for name, state in states.items()}
            return stripped if stripped != states else None

        of_user = (changes.c.corp_id == corp_id, changes.c.entity == "user", changes.c.entity_id == userid)
        told = _rewrite(tx, changes, sa.and_(*of_user), strip_change)
        ids = {name for name in known if name}
        named = _rewrite(tx, events, _may_name(tx, corp_id, userid, ids), lambda event: _strip(event, userid, ids))
        # A reply that is not taken yet is needed; its events have rows afterwards.
        kept = sa.and_(failed_lists.c.body.is_not(None), failed_lists.c.taken_at.is_not(None))
        said = _rewrite(tx, failed_lists, kept, lambda reply: {"body": None} if _tells(reply["body"], ids) else None)
    return Forgotten(told, named, said)


def erased(payload: Any) -> dict[str, Any]:
    """What is kept of a payload: nothing that it says of anybody, but every id that it names."""
    kept: dict[str, Any] = {}
    for name, value in payload.items() if isinstance(payload, dict) else ():
        folded = name.strip().lower()
        if folded == _NESTED:
            text = isinstance(value, str)
            inner = erased(_decoded(value) if text else value)
            kept[name] = msgspec.json.encode(inner).decode() if text else inner
        elif folded in KEPT_FIELDS and _plain(value):
            kept[name] = value
    return kept


def _without_person(state: Row | None) -> Row | None:
    """A state with every column, but without the values of the personal ones."""
    return state and {name: None if name in _PERSONAL else value for name, value in state.items()}


def _may_name(tx: Connection, corp_id: str, userid: str, ids: Collection[str]) -> sa.ColumnElement[bool]:
    """Events that may name the person: by their own lists of ids, or anywhere in the payload."""
    text = sa.cast(events.c.payload, sa.Text)
    told = [text.contains(name, autoescape=True) for name in sorted(ids)]
    of_corp = sa.or_(events.c.corp_id == corp_id, events.c.corp_id.is_(None))
    return sa.and_(of_corp, events.c.payload.is_not(None), sa.or_(names(tx, "user", userid), *told))


def _strip(event: Row, userid: str, ids: Collection[str]) -> Row | None:
    payload = event["payload"]
    told = payload
    if isinstance(payload, dict):
        told = {name: value for name, value in payload.items() if name.strip().lower() != _OPERATOR}
    kept = erased(payload)
    named = userid in event["user_ids"] or _names(told, ids)
    return {"payload": kept} if named and kept != payload else None


def _names(value: Any, ids: Collection[str]) -> bool:
    """Whether one of these ids stands anywhere in a payload, also in JSON that lies in it as text."""
    if isinstance(value, str):
        return value in ids or (value[:1] in ("{", "[") and _names(_decoded(value), ids))
    if isinstance(value, dict):
        return any(_names(item, ids) for item in value.values())
    return isinstance(value, list) and any(_names(item, ids) for item in value)


def _tells(body: bytes, ids: Collection[str]) -> bool:
    """Whether a raw reply names one of these ids; one that cannot be read may do so in any spelling."""
    value = _decoded(body)
    return value is None or _names(value, ids)


def _decoded(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _plain(value: Any) -> bool:
    """An id, a time or a word, or a list of them."""
    return all(isinstance(item, str | int) for item in (value if isinstance(value, list) else [value]))


def _rewrite(tx: Connection, table: Table, where: sa.ColumnElement[bool], rewrite: Rewrite) -> int:
    """Write what `rewrite` makes of each of these rows, in key order and page by page; how many it changed."""
    (key,) = table.primary_key.columns
    after: sa.ColumnElement[bool] = sa.true()
    count = 0
    while rows := tx.execute(sa.select(table).where(where, after).order_by(key).limit(PAGE)).mappings().all():
        for row in rows:
            values = rewrite(dict(row))
            if values is not None:
                tx.execute(sa.update(table).where(key == row[key.name]).values(**values))
                count += 1
        after = key > rows[-1][key.name]
    return count
