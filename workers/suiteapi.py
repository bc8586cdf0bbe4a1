"""DingTalk's API as a third-party app sees it: for itself, and in each corp that has authorised it.

A call for the suite itself is signed with its ticket (KB-A/1429), or carries the suite's token; what is read of a corp
needs that corp's token, which a signed call gives.
"""

import base64
import hmac
import time
from collections.abc import Callable
from typing import TypeVar

from workers import answers
from workers.budget import Budget
from workers.dingtalk import DingTalk, Observe, payer_of
from workers.errors import Misconfigured, NotAuthorized, TokenExpired, Transient
from workers.http import Http
from workers.lenient import Json
from workers.shapes import Authorization, PermanentCode
from workers.tokens import Grant, Tokens

T = TypeVar("T")

#: The parameter that carries the suite's own token where the call is about a corp.
SUITE_TOKEN_NAME = "suite_access_token"  # noqa: S105 - a parameter's name
#: DingTalk's code for a corp that has not authorised the suite.
NOT_AUTHORIZED = "33001"


def signature(secret: str, timestamp: str, ticket: str) -> str:
    """Base64 of HMAC-SHA256 over timestamp (ms), newline, ticket (KB-A/1429); urlencode it."""
    return base64.b64encode(hmac.digest(secret.encode(), f"{timestamp}\n{ticket}".encode(), "sha256")).decode()


class Suite(DingTalk):
    """The calls that a third-party app makes for itself; all of them need the ticket that DingTalk pushes to it.

    Raises TicketStale, beside what DingTalk's calls raise, while DingTalk has a newer ticket than we.
    """

    def __init__(
        self,
        app: str,
        suite_key: str,
        suite_secret: str,
        api: str,
        budget: Budget,
        tokens: Tokens,
        http: Http,
        ticket: Callable[[], str | None],
        observe: Observe | None = None,
    ) -> None:
        """`ticket` gives the newest ticket that has come."""
        super().__init__(app, suite_key, suite_secret, api, budget, tokens, http, observe)
        self._ticket = ticket
        #: What a client of one of its corps is made of, too.
        self.made_of = (app, suite_key, suite_secret, api, budget, tokens, http, observe)

    def corp(self, corp_id: str) -> "SuiteCorp":
        """The client for a corp that has authorised the suite."""
        return SuiteCorp(self, corp_id)

    def corp_token(self, corp_id: str) -> Grant:
        """A new token for this corp (KB-A/1446). Raises NotAuthorized."""
        return Grant(*self._signed("/service/get_corp_token", {"auth_corpid": corp_id}, answers.read_token))

    def authorization(self, corp_id: str) -> Authorization:
        """What the corp has authorised at present (KB-A/0042). Raises NotAuthorized, and Gone where it is dissolved."""
        asked = {"suite_key": self._secrets[0], "auth_corpid": corp_id}
        return self._signed("/service/get_auth_info", asked, answers.read_authorization)

    def agent_state(self, corp_id: str, agent_id: int) -> int:
        """0 disabled, 1 normal, 2 not activated (KB-A/0043). Raises NotAuthorized."""
        asked = {"suite_key": self._secrets[0], "auth_corpid": corp_id, "agentid": agent_id}
        return self._signed("/service/get_agent", asked, answers.read_agent_state)

    def permanent_code(self, temporary: str) -> PermanentCode:
        """What a temporary code is exchanged for, once (KB-E/0240). BadRequest, code CODE_USED, the second time."""
        body = {"tmp_auth_code": temporary}
        return self._with_suite_token("/service/get_permanent_code", body, answers.read_permanent_code)

    def activate(self, corp_id: str, permanent_code: str) -> None:
        """Let the suite work in this corp (KB-E/0239)."""
        body = {"suite_key": self._secrets[0], "auth_corpid": corp_id, "permanent_code": permanent_code}
        self._with_suite_token("/service/activate_suite", body, answers.read_nothing)

    def _with_suite_token(self, call: str, body: Json, read: Callable[[Json], T]) -> T:
        return self._ask(call, body, read, True, token_name=SUITE_TOKEN_NAME)

    def _signed(self, call: str, body: Json, read: Callable[[Json], T]) -> T:
        key, secret = self._secrets
        ticket = self._present_ticket(call)
        stamp = str(time.time_ns() // 1_000_000)
        signed = signature(secret, stamp, ticket)
        query = {"accessKey": key, "timestamp": stamp, "suiteTicket": ticket, "signature": signed}
        try:
            payer = payer_of(self._app, str(body["auth_corpid"]))
            return self._exchange(call, query, body, read, True, (secret, ticket, signed), payer=payer)
        except TokenExpired as error:
            refused = error
        if refused.code == NOT_AUTHORIZED:
            raise NotAuthorized(refused.code, refused.message, call)
        raise Misconfigured(refused.code, refused.message, call)

    def _present_ticket(self, call: str) -> str:
        ticket = self._ticket()
        if ticket is None:
            raise Transient("no-ticket", "no suite_ticket has come yet; the developer console pushes it again", call)
        return ticket

    def _gettoken(self) -> Grant:
        """The source of the suite's own token (KB-A/1445)."""
        call = "/service/get_suite_token"
        ticket = self._present_ticket(call)
        body = dict(zip(("suite_key", "suite_secret", "suite_ticket"), (*self._secrets, ticket), strict=True))
        private = (*self._secrets, ticket)
        return Grant(*self._exchange(call, {}, body, answers.read_suite_token, True, private))


class SuiteCorp(DingTalk):
    """A corp as a suite that it has authorised sees it, by a token of its own."""

    def __init__(self, suite: Suite, corp_id: str) -> None:
        super().__init__(*suite.made_of, corp_id)
        self._suite = suite
        self._corp_id = corp_id

    def _gettoken(self) -> Grant:
        return self._suite.corp_token(self._corp_id)
