"""What a suite asks about the corps that authorised it (api.md §1)."""

from simulator.api_tokens import suite_of
from simulator.apps import App, Authorization
from simulator.call import Body, Call, Route
from simulator.corps import APP_ID, corp_info, main_admin
from simulator.errors import ApiError, NewStyleError


def get_permanent_code(call: Call) -> Body:
    """The temporary code works once."""
    app = suite_of(call)
    code = call.params.text("tmp_auth_code", 40078)
    with app.lock:
        granted = next((row for row in app.corps.values() if code in row.tmp_codes and not row.revoked), None)
        if granted is None:
            raise ApiError(40078)
        granted.tmp_codes.remove(code)
    corp_info = {"corpid": granted.corp_id, "corp_name": call.world.tenants[granted.corp_id].name}
    return {"permanent_code": granted.permanent_code, "auth_corp_info": corp_info}


def activate_suite(call: Call) -> Body:
    granted = _granted(call, suite_of(call))
    if call.params.optional("permanent_code") != granted.permanent_code:
        raise ApiError(40084)
    granted.close = 1
    return {}


def get_auth_info(call: Call) -> Body:
    app = suite_of(call)
    granted = _granted(call, app)
    tenant = call.world.tenants[granted.corp_id]
    agent = {
        "agentid": granted.agent_id,
        "agent_name": app.config.name,
        "logo_url": "",
        "appid": APP_ID,
        "admin_list": list(tenant.admins),
    }
    return {
        "auth_corp_info": corp_info(tenant),
        "auth_info": {"agent": [] if granted.removed else [agent]},
        "auth_user_info": {"userId": main_admin(tenant)},
        "channel_auth_info": {"channelAgent": []},
        "auth_market_info": {},
    }


def get_agent(call: Call) -> Body:
    app = suite_of(call)
    granted = _granted(call, app)
    if granted.removed or call.params.integer("agentid", 52019) != granted.agent_id:
        raise ApiError(52019)
    return {
        "agentid": granted.agent_id,
        "name": app.config.name,
        "logo_url": "",
        "description": app.config.name,
        "close": granted.close,
    }


def v1_auth_info(call: Call) -> Body:
    """Opened by the suite's own token (KB-A/0045)."""
    corp_id = call.params.optional("authCorpId")
    granted = call.app.authorization(corp_id)
    if granted is None:
        raise NewStyleError(400, "orgNotAuthApp", "企业未授权开通应用")
    tenant = call.world.tenants[corp_id]
    agent = {
        "agentId": granted.agent_id,
        "agentName": call.app.config.name,
        "appId": APP_ID,
        "adminList": list(tenant.admins),
    }
    info = corp_info(tenant)
    return {
        "authAppInfo": {"agentList": [agent]},
        "authCorpInfo": {
            "inviteCode": info["invite_code"],
            "industry": info["industry"],
            "corpName": info["corp_name"],
            "licenseCode": info["license_code"],
            "authChannel": info["auth_channel"],
            "authChannelType": info["auth_channel_type"],
            "authLevel": info["auth_level"],
            "inviteUrl": info["invite_url"],
            "corpLogoUrl": info["corp_logo_url"],
        },
        "authUserInfo": {"userId": main_admin(tenant)},
    }


def _granted(call: Call, app: App) -> Authorization:
    """The corp that the call names. Raises 33001 (did not authorise the suite) or 70001 (dissolved)."""
    granted = app.authorization(call.params.text("auth_corpid"))
    if granted is None:
        raise ApiError(33001)
    if call.world.tenants[granted.corp_id].dissolved:
        raise ApiError(70001)
    return granted


ROUTES = (
    Route("/service/get_permanent_code", get_permanent_code, opened_by=None, reads=False),
    Route("/service/activate_suite", activate_suite, opened_by=None, reads=False),
    Route("/service/get_auth_info", get_auth_info, opened_by=None, reads=False),
    Route("/service/get_agent", get_agent, opened_by=None, reads=False),
    Route("/v1.0/oauth2/apps/authInfo", v1_auth_info, "GET", opened_by="suite", style="new", reads=False),
)
