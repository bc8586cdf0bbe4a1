"""Event, and the catalogue of event types. Pure: no I/O.

An event is a hint: it names entities whose present state must be read.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

Via = Literal["http", "stream", "failed_list", "replay", "replay_with_jobs"]
EntityKind = Literal["user", "department", "roles"]

#: Version of a job's JSON; raised when its shape changes.
VERSION = 1
#: Events that were recorded before and are fed in again; the second also runs users' functions again.
REPLAY: Final = "replay"
REPLAY_WITH_JOBS: Final = "replay_with_jobs"
#: Where an event waits whose type is not in the catalogue.
OTHER = "other"
#: Without a fresh ticket a suite can read nothing, so no flood of events may hold it up.
URGENT = "suite_ticket"
#: DingTalk's id of the root department, which also stands for the corp.
ROOT_DEPARTMENT = 1
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")


class Entity(NamedTuple):
    """What can be read at DingTalk: a user, a department, or a corp's whole role list (id "")."""

    corp_id: str
    kind: EntityKind
    id: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One happening, as it lies on the queue. `payload` is the decrypted JSON as it came."""

    v: int = VERSION
    id: str
    type: str
    app: str
    corp_id: str | None
    via: Via
    #: Milliseconds since 1970, by DingTalk's clock.
    occurred_at: int | None
    user_ids: tuple[str, ...] = ()
    dept_ids: tuple[int, ...] = ()
    role_ids: tuple[int, ...] = ()
    payload: msgspec.Raw

    @property
    def replayed(self) -> bool:
        """Whether it was recorded before and is fed in again."""
        return self.via in (REPLAY, REPLAY_WITH_JOBS)

    @property
    def quiet(self) -> bool:
        """Whether users' functions stay quiet about it."""
        return self.via == REPLAY


class EventType(NamedTuple):
    """A row of the catalogue: which entities an event of this type touches."""

    touches: frozenset[Literal["users", "departments", "roles", "corp"]]
    meaning: str


def _row(meaning: str, *touches: Literal["users", "departments", "roles", "corp"]) -> EventType:
    return EventType(frozenset(touches), meaning)


#: The 15 contact events; each has a queue of its own, named like it.
CONTACT_EVENTS: Mapping[str, EventType] = {
    "user_add_org": _row("people joined", "users"),
    "user_modify_org": _row("people's data changed", "users"),
    "user_leave_org": _row("people left", "users"),
    "user_active_org": _row("people activated their account", "users"),
    "org_admin_add": _row("people became admins", "users"),
    "org_admin_remove": _row("people are admins no more", "users"),
    "org_dept_create": _row("departments created", "departments"),
    "org_dept_modify": _row("departments changed", "departments"),
    "org_dept_remove": _row("departments removed", "departments"),
    "org_change": _row("the corp's own data changed", "corp"),
    "org_remove": _row("the corp was dissolved", "corp"),
    "label_user_change": _row("people's roles changed", "users"),
    "label_conf_add": _row("roles or role groups created", "roles"),
    "label_conf_modify": _row("roles or role groups changed", "roles"),
    "label_conf_del": _row("roles or role groups removed", "roles"),
}

#: Suite (third-party app) events over HTTP, and the actions of pushed rows (events.md §2 and §3).
SUITE_EVENTS: Mapping[str, EventType] = {
    "suite_ticket": _row("a new suite ticket"),
    "tmp_auth_code": _row("a corp authorised the suite"),
    "change_auth": _row("an authorisation changed"),
    "suite_relieve": _row("a corp withdrew its authorisation"),
    "check_suite_license_code": _row("a licence code to check"),
    "market_buy": _row("an order"),
    "main_data_subscribe": _row("a data subscription"),
    "org_suite_auth": _row("a corp authorised the suite"),
    "org_suite_change": _row("an authorisation changed"),
    "org_suite_relieve": _row("a corp withdrew its authorisation"),
    "org_micro_app_restore": _row("the app was switched on"),
    "org_micro_app_stop": _row("the app was switched off"),
    "org_micro_app_remove": _row("the app was removed"),
    "org_micro_app_scope_update": _row("the app's visible scope changed"),
    "user_dept_change": _row("people's departments changed", "users"),
    "user_role_change": _row("people's roles changed", "users"),
    "org_role_add": _row("roles created", "roles"),
    "org_role_modify": _row("roles changed", "roles"),
    "org_role_remove": _row("roles removed", "roles"),
    "org_update": _row("the corp's own data changed", "corp"),
    "market_order": _row("an order"),
    "contact_add_org": _row("an external contact was added"),
    "contact_modify_org": _row("an external contact changed"),
    "contact_leave_org": _row("an external contact was removed"),
    "transfer_contact_id_job_result": _row("a conversion of contact ids ended"),
}

CATALOGUE: Mapping[str, EventType] = {**CONTACT_EVENTS, **SUITE_EVENTS}


def queue_names() -> tuple[str, ...]:
    """Every queue that an event can wait on; a worker takes from the first of them first, in every claim."""
    return (URGENT, *(name for name in CATALOGUE if name != URGENT), OTHER)


def queue_of(event_type: str) -> str:
    """The queue of an event type."""
    return event_type if event_type in CATALOGUE else OTHER


def job_id(event_id: str) -> str:
    """The RQ job's id: the event's own where RQ allows its characters, else its SHA-256."""
    return event_id if _JOB_ID.match(event_id) else hashlib.sha256(event_id.encode()).hexdigest()


def describe(event: Event) -> str:
    """A line for people without personal data, as `user_add_org ding12ab… users=2`."""
    corp = event.corp_id or "no corp"
    counts = [("users", event.user_ids), ("departments", event.dept_ids), ("roles", event.role_ids)]
    named = [f"{name}={len(ids)}" for name, ids in counts if ids]
    return " ".join([event.type, corp if len(corp) <= 8 else corp[:8] + "…", *named])


def entities(event: Event) -> tuple[Entity, ...]:
    """The entities that must be read, each once; empty where the event touches none."""
    row = CATALOGUE.get(event.type)
    if row is None or event.corp_id is None:
        return ()
    corp = event.corp_id
    found: list[Entity] = []
    if "users" in row.touches:
        found += [Entity(corp, "user", user) for user in event.user_ids]
    if "departments" in row.touches:
        found += [Entity(corp, "department", str(dept)) for dept in event.dept_ids]
    if "corp" in row.touches:
        found.append(Entity(corp, "department", str(ROOT_DEPARTMENT)))
    if "roles" in row.touches:
        found.append(Entity(corp, "roles", ""))
    return tuple(dict.fromkeys(found))
