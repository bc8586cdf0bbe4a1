"""What DingTalk tells a suite about itself: tickets, authorisations, its micro-app (events.md §2, §3). Pure: no I/O."""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.crypto import SUITE_CREATION_OWNER
from simulator.apps import App, Authorization
from simulator.corps import APP_ID, corp_info, main_admin
from simulator.events import Payload
from simulator.rows import AUTHORIZATION, HIGH, MICRO_APP, TICKET, RowMaker, envelope, suite_id
from simulator.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Push:
    """One message to make: the suite, one of its corps, and who numbers rows."""

    app: App
    granted: Authorization
    tenant: Tenant
    rows: RowMaker

    def told(self, kind: str, **fields: object) -> Payload:
        stamp = time.time_ns() // 1_000_000
        return {"EventType": kind, "SuiteKey": self.app.client_id, "TimeStamp": stamp} | fields

    def row(self, biz_id: str, biz_type: int, data: Payload, corp_id: str | None = None) -> Payload:
        return envelope(HIGH, [self.rows.row(self.app, corp_id or self.granted.corp_id, biz_id, biz_type, data)])


def suite_ticket(push: Push, rows: bool) -> Payload:
    """A new ticket; the old one is dead at once."""
    ticket = push.app.ticket = secrets.token_urlsafe(24)
    if rows:
        # The row's corp is the developer's own, not the customer's.
        data = {"syncAction": "suite_ticket", "suiteTicket": ticket}
        return push.row(suite_id(push.app), TICKET, data, f"ding{suite_id(push.app)}isv")
    return push.told("suite_ticket", SuiteTicket=ticket)


def tmp_auth_code(push: Push, rows: bool) -> Payload:
    """A corp authorises the suite (again); over HTTP it awaits activation."""
    push.granted.revoked = False
    if rows:
        push.granted.close = 1
        return push.row(suite_id(push.app), AUTHORIZATION, _authorization(push, "org_suite_auth"))
    code = secrets.token_hex(16)
    push.granted.tmp_codes.add(code)
    push.granted.close = 2
    return push.told("tmp_auth_code", AuthCode=code, AuthCorpId=push.granted.corp_id)


def change_auth(push: Push, rows: bool) -> Payload:
    if rows:
        return push.row(suite_id(push.app), AUTHORIZATION, _authorization(push, "org_suite_change"))
    return push.told("change_auth", AuthCorpId=push.granted.corp_id)


def suite_relieve(push: Push, rows: bool) -> Payload:
    """The permanent code is dead at once."""
    push.granted.revoked = True
    push.granted.permanent_code = secrets.token_urlsafe(32)
    if rows:
        return push.row(suite_id(push.app), AUTHORIZATION, {"syncAction": "org_suite_relieve"})
    told = push.told("suite_relieve", AuthCorpId=push.granted.corp_id)
    # This one event carries its time as a string.
    return told | {"TimeStamp": str(told["TimeStamp"])}


def org_micro_app_stop(push: Push, rows: bool) -> Payload:
    push.granted.close = 0
    return _micro_app(push, rows, "org_micro_app_stop")


def org_micro_app_restore(push: Push, rows: bool) -> Payload:
    push.granted.close = 1
    push.granted.removed = False
    return _micro_app(push, rows, "org_micro_app_restore")


def org_micro_app_remove(push: Push, rows: bool) -> Payload:
    """The micro-app is in the corp no more, the authorisation is."""
    push.granted.removed = True
    return _micro_app(push, rows, "org_micro_app_remove")


def org_micro_app_scope_update(push: Push, rows: bool) -> Payload:
    """Told after the access has changed; it says the new one as JSON in strings."""
    access = push.granted.access
    scopes = {"userVisibleScopes": list(access.authed_user), "deptVisibleScopes": list(access.authed_dept)}
    return _micro_app(
        push, rows, "org_micro_app_scope_update", **{name: json.dumps(ids) for name, ids in scopes.items()}
    )


def check_create_suite_url(push: Push, rows: bool) -> Payload:
    """Never a row: the check is a callback of its own."""
    return _check("check_create_suite_url", SUITE_CREATION_OWNER)


def check_update_suite_url(push: Push, rows: bool) -> Payload:
    return _check("check_update_suite_url", push.app.client_id)


SUITE_EVENTS: dict[str, Callable[[Push, bool], Payload]] = {
    "suite_ticket": suite_ticket,
    "tmp_auth_code": tmp_auth_code,
    "change_auth": change_auth,
    "suite_relieve": suite_relieve,
    "org_micro_app_stop": org_micro_app_stop,
    "org_micro_app_restore": org_micro_app_restore,
    "org_micro_app_remove": org_micro_app_remove,
    "org_micro_app_scope_update": org_micro_app_scope_update,
    "check_create_suite_url": check_create_suite_url,
    "check_update_suite_url": check_update_suite_url,
}


def _check(kind: str, key: str) -> Payload:
    return {"EventType": kind, "Random": secrets.token_urlsafe(6)[:8], "TestSuiteKey": key}


def _micro_app(push: Push, rows: bool, kind: str, **more: str) -> Payload:
    if rows:
        return push.row(str(APP_ID), MICRO_APP, {"syncAction": kind, "agentId": push.granted.agent_id} | more)
    return push.told(kind, AuthCorpId=push.granted.corp_id, AgentId=push.granted.agent_id, AppId=APP_ID)


def _authorization(push: Push, action: str) -> Payload:
    access = push.granted.access
    agent = {"agentid": push.granted.agent_id, "agent_name": push.app.config.name, "logo_url": "", "appid": APP_ID}
    agents = [] if push.granted.removed else [agent | {"admin_list": list(push.tenant.admins)}]
    return {
        "syncAction": action,
        "auth_corp_info": corp_info(push.tenant),
        "auth_info": {"agent": agents},
        "auth_user_info": {"userId": main_admin(push.tenant)},
        "auth_scope": {
            "errcode": 0,
            "errmsg": "ok",
            "auth_user_field": ["name", "avatar"],
            "condition_field": [],
            "auth_org_scopes": {"authed_user": list(access.authed_user), "authed_dept": list(access.authed_dept)},
        },
        "permanent_code": push.granted.permanent_code,
        "ch_permanent_code": "",
    }
