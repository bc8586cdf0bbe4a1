"""What a suite is told about a corp that authorised it. Pure: no I/O."""

from typing import Any

from simulator.tenant import Tenant

#: The id of the suite's one mini-program, the same in every corp.
APP_ID = 53642


def corp_info(tenant: Tenant) -> dict[str, Any]:
    """`auth_corp_info`, as calls and pushed rows show it."""
    return {
        "corpid": tenant.corp_id,
        "corp_name": tenant.name,
        "full_corp_name": tenant.name,
        "corp_type": 0,
        "industry": "计算机软件",
        "is_authenticated": True,
        "auth_level": 1,
        "auth_channel": "",
        "auth_channel_type": "",
        "invite_code": "",
        "invite_url": f"https://wx.example.com/invite-page/index.html?corpId={tenant.corp_id}",
        "license_code": "",
        "corp_logo_url": "",
    }


def main_admin(tenant: Tenant) -> str:
    return min(tenant.admins, key=lambda userid: tenant.users.rows[userid].admin_level, default="")
