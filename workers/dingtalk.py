"""DingTalk's API as one app sees it: budget, token, call, and what the answer means."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
import structlog

from workers import answers, lenient
from workers.budget import Budget
from workers.errors import (
    ADDRESS_WAIT,
    NOT_REGISTERED,
    AddressBanned,
    ApiError,
    Misconfigured,
    QuotaSpent,
    Throttled,
    TokenExpired,
    Transient,
    from_code,
)
from workers.http import Http, NoAnswer, Response, Timeout
from workers.lenient import Json
from workers.shapes import Branch, Callback, Department, FailedList, Page, RoleGroup, Scope, User
from workers.tokens import Grant, Tokens

T = TypeVar("T")
Observe = Callable[[str, str, float], None]
#: Makes a reply durable just as it came, before anybody looks at it.
Keep = Callable[[bytes], None]

#: DingTalk answers within tens of milliseconds.
TIMEOUT = Timeout(connect=3.0, answer=10.0)
#: Where giving up would lose the answer: DingTalk forgets what it has once told.
KEEP_TIMEOUT = Timeout(connect=3.0, answer=60.0)
#: Calls whose answer DingTalk gives but once (KB-E/0230, KB-E/0240).
ONCE = frozenset({"/call_back/get_call_back_failed_result", "/service/get_permanent_code"})
#: Members of a department in a page; DingTalk's most.
USERS_PAGE = 100
#: Groups of the role list in a page; DingTalk's most.
ROLE_GROUPS_PAGE = 200
#: Pages after which the role list has to have ended: 20 000 groups.
ROLE_GROUPS_PAGES = 100
#: Members of a role in a page; DingTalk's most.
ROLE_MEMBERS_PAGE = 100
#: Items of a suite's failed list in a page; DingTalk's most.
FAILED_RECORDS_PAGE = 100
#: Seconds that the app's scope stays in Redis, for when the monthly quota is spent: longer than a month.
SCOPE_SECONDS = 40 * 86_400
#: The parameter that carries the token.
TOKEN_NAME = "access_token"  # noqa: S105 - a parameter's name
#: Characters of DingTalk's own words that an error keeps.
MESSAGE_LENGTH = 200

_PERSONAL = re.compile(r"[0-9]{11,}|\S+@\S+")
log = structlog.get_logger()
_SUB_CODE = re.compile(r"subcode=([^,\]]+)", re.IGNORECASE)


def payer_of(app: str, corp_id: str) -> str:
    """Whose quota an app's calls for one of its corps count against."""
    return f"{app}:{corp_id}"


class DingTalk:
    """DingTalk's API as one app sees it; blocking, thread-safe.

    Every call raises ApiError (see errors.py), without secrets and personal data in its text, and RedisError. A call is
    made once, and once more if its token was refused. `live` is False for a bulk copy, which gives way to all others.
    """

    def __init__(
        self,
        app: str,
        app_key: str,
        app_secret: str,
        api: str,
        budget: Budget,
        tokens: Tokens,
        http: Http,
        observe: Observe | None = None,
        corp_id: str | None = None,
    ) -> None:
        """`observe` gets each call's path, outcome ("ok" or the error's class) and seconds. `corp_id` for an app that
        has a token for each of several corps."""
        self._app = app
        #: Whose monthly quota calls count against.
        self._payer = app if corp_id is None else payer_of(app, corp_id)
        #: What tokens and scopes are kept under. The key belongs to it: another one's may be of another organisation.
        self._name = ":".join([app, app_key, *([] if corp_id is None else [corp_id])])
        self._secrets = (app_key, app_secret)
        self._http = http
        self._api = api.rstrip("/")
        self._budget = budget
        self._tokens = tokens
        self._observe = observe

    def user(self, userid: str, *, live: bool = True) -> User:
        """A user with departments and roles. Raises Gone and Hidden."""
        return self._ask("/topapi/v2/user/get", {"userid": userid}, answers.read_user, live)

    def department(self, dept_id: int, *, live: bool = True) -> Department:
        """A department. Raises Gone and Hidden."""
        return self._ask("/topapi/v2/department/get", {"dept_id": dept_id}, answers.read_department, live)

    def sub_departments(self, dept_id: int, *, live: bool = True) -> list[int]:
        """The departments right below, also those that the app may not see (KB-A/0083)."""
        return self._ask("/topapi/v2/department/listsubid", {"dept_id": dept_id}, answers.read_department_ids, live)

    def branches(self, dept_id: int, *, live: bool = True) -> list[Branch]:
        """The departments right below, with their names. Raises Gone and Hidden."""
        return self._ask("/topapi/v2/department/listsub", {"dept_id": dept_id}, answers.read_branches, live)

    def user_ids(self, dept_id: int, *, live: bool = True) -> list[str]:
        """The department's own members, also those that the app may not see (KB-A/0065)."""
        return self._ask("/topapi/user/listid", {"dept_id": dept_id}, answers.read_userids, live)

    def users_page(self, dept_id: int, cursor: int = 0, *, live: bool = True) -> Page[User]:
        """The department's own members without roles and managers. Raises Hidden."""
        body = {"dept_id": dept_id, "cursor": cursor, "size": USERS_PAGE}
        read = partial(answers.read_users, dept_id=dept_id, cursor=cursor, size=USERS_PAGE)
        return self._ask("/topapi/v2/user/list", body, read, live)

    def role_groups(self, *, live: bool = True) -> list[RoleGroup]:
        """The whole role list; Transient where it never ends, as half a list would look like deleted roles."""
        call = "/topapi/role/list"
        groups: dict[int, RoleGroup] = {}
        offset = 0
        for _ in range(ROLE_GROUPS_PAGES):
            read = partial(answers.read_role_groups, offset=offset, size=ROLE_GROUPS_PAGE)
            page = self._ask(call, {"size": ROLE_GROUPS_PAGE, "offset": offset}, read, live)
            known = len(groups)
            groups |= {group.group_id: group for group in page.items}
            # A short page that repeats comes from a server that gives all it has, whatever the offset.
            if page.next is None or (len(groups) == known and len(page.items) < ROLE_GROUPS_PAGE):
                return list(groups.values())
            if len(groups) == known:
                break
            offset = page.next
        raise Transient("paging", "the list does not end", call)

    def role_members(self, role_id: int, offset: int = 0, *, live: bool = True) -> Page[str]:
        """Userids of a role's members. Raises Gone."""
        body = {"role_id": role_id, "size": ROLE_MEMBERS_PAGE, "offset": offset}
        read = partial(answers.read_role_members, offset=offset, size=ROLE_MEMBERS_PAGE)
        return self._ask("/topapi/role/simplelist", body, read, live)

    def admins(self, *, live: bool = True) -> list[tuple[str, int]]:
        """Userid and level, 1 main or 2 sub, of each administrator."""
        return self._ask("/topapi/user/listadmin", {}, answers.read_admins, live)

    def scopes(self, *, live: bool = True, fresh: bool = False) -> Scope:
        """What the app may see; unless `fresh`, what it saw last while the monthly quota is spent.

        This call counts against the quota, and those that read what may be seen do not (api.md §8).
        """
        key = f"bridge:scope:{self._name}"
        try:
            scope = self._ask("/auth/scopes", None, answers.read_scope, live)
        except QuotaSpent as error:
            kept = None if fresh else self._tokens.redis.get(key)
            if kept is None:
                raise
            log.warning("goes on with the scope that was told last", app=self._payer, reason=str(error))
            return msgspec.json.decode(kept, type=Scope)
        self._tokens.redis.set(key, msgspec.json.encode(scope), ex=SCOPE_SECONDS)
        return scope

    def failed_callbacks(self, keep: Keep) -> FailedList:
        """An internal app's failed callbacks, up to 200; DingTalk forgets them as it answers (KB-E/0230)."""
        return self._ask("/call_back/get_call_back_failed_result", None, answers.read_failed_list, True, keep)

    def failed_records(self, tags: Sequence[str], cursor: int, confirm: bool, keep: Keep) -> FailedList:
        """A suite's failed callbacks of these types after the item `cursor`, which DingTalk keeps until `confirm`."""
        asked = {"tags": list(tags), "cursor": cursor, "status": 1, "page_size": FAILED_RECORDS_PAGE}
        body = {"req": asked | {"confirm": confirm}}
        return self._ask("/topapi/callback/failrecord/list", body, answers.read_failed_list, True, keep)

    def sign_in(self) -> None:
        """Asks for a new token, whatever is remembered: whether key and secret are right."""
        self._gettoken()

    def callback(self) -> Callback | None:
        """The callback that is registered by API (KB-E/0237); None where none is."""
        try:
            return self._ask("/call_back/get_call_back", None, answers.read_callback, True)
        except Misconfigured as error:
            if error.code != NOT_REGISTERED:
                raise
        return None

    def set_callback(self, callback: Callback, *, update: bool) -> None:
        """Registers a callback, or changes the registered one; DingTalk checks the address at once (KB-E/0233)."""
        path = "/call_back/update_call_back" if update else "/call_back/register_call_back"
        body = {"call_back_tag": list(callback.tags), "token": callback.token, "aes_key": callback.aes_key}
        self._ask(path, body | {"url": callback.url}, answers.read_nothing, True)

    def delete_callback(self) -> None:
        """Removes the registered callback (KB-E/0238)."""
        self._ask("/call_back/delete_call_back", None, answers.read_nothing, True)

    def forget(self) -> None:
        """Drops the token and what else is remembered."""
        self._tokens.forget(self._name)
        self._tokens.redis.delete(f"bridge:scope:{self._name}")

    def _ask(
        self,
        call: str,
        body: Json | None,
        read: Callable[[Json], T],
        live: bool,
        keep: Keep | None = None,
        token_name: str = TOKEN_NAME,
    ) -> T:
        """One authorised call, POST where there is a body; a second one where the token was refused."""

        def ask(token: str) -> T:
            private = (token, *(value for value in (body or {}).values() if isinstance(value, str)))
            return self._exchange(call, {token_name: token}, body, read, live, private, keep)

        token = self._tokens.get(self._name, self._gettoken)
        try:
            return ask(token)
        except TokenExpired:
            self._tokens.discard(self._name, token)
        token = self._tokens.get(self._name, self._gettoken)
        try:
            return ask(token)
        except TokenExpired as again:
            refused = again
        raise Misconfigured(refused.code, "DingTalk refuses a token that it has just given", call)

    def _gettoken(self) -> Grant:
        """The source of an internal app's token (KB-A/1444)."""
        query = dict(zip(("appkey", "appsecret"), self._secrets, strict=True))
        try:
            return Grant(*self._exchange("/gettoken", query, None, answers.read_token, True, self._secrets))
        except TokenExpired as error:
            refused = error
        raise Misconfigured(refused.code, refused.message, refused.call)

    def _exchange(
        self,
        call: str,
        query: dict[str, str],
        body: Json | None,
        read: Callable[[Json], T],
        live: bool,
        private: Iterable[str],
        keep: Keep | None = None,
        payer: str | None = None,
    ) -> T:
        """One call within the budget, seen by `observe`; a throttle pauses it for every worker."""
        payer = payer or self._payer
        self._budget.acquire(self._app, call, live=live, payer=payer)
        begun = time.perf_counter()
        outcome = "ok"
        try:
            response = self._send(call, query, body, TIMEOUT if keep is None else KEEP_TIMEOUT)
            if keep is not None:
                keep(response.body)
            return _read(call, read, _checked(call, response, private))
        except ApiError as error:
            outcome = type(error).__name__
            if isinstance(error, Throttled):
                self._pause(error, payer)
            raise
        finally:
            if self._observe is not None:
                self._observe(call, outcome, time.perf_counter() - begun)

    def _pause(self, error: Throttled, payer: str) -> None:
        """For every worker on every host; said once, loudly where it does not pass by itself."""
        if isinstance(error, AddressBanned):
            self._budget.pause_all(error.wait)
            log.error("DingTalk blocks this address: all calls pause", seconds=error.wait, code=error.code)
            return
        whose = payer if error.of_organisation else self._app
        if self._budget.pause(whose, error.call, error.wait, error.code):
            say = log.error if isinstance(error, QuotaSpent) else log.warning
            say("a call pauses", app=whose, call=error.call, code=error.code, reason=error.__doc__)

    def _send(self, call: str, query: dict[str, str], body: Json | None, timeout: Timeout) -> Response:
        try:
            encoded = None if body is None else msgspec.json.encode(body)
            url = f"{self._api}{call}?{urlencode(query)}"
            return self._http.request(url, encoded, timeout, once=call in ONCE)
        except NoAnswer as error:
            fault = str(error)
        raise Transient(fault, "no answer", call)


def _read(call: str, read: Callable[[Json], T], answer: Json) -> T:
    try:
        return read(answer)
    except msgspec.ValidationError as error:
        fault = str(error)
    raise Transient("unreadable", fault, call)


def _checked(call: str, response: Response, private: Iterable[str]) -> Json:
    """The answer, or the error that it tells."""
    answer = _decoded(response.body)
    if answer is None:
        raise _no_json(call, response)
    code, message = _verdict(answer)
    if code == "0" and response.status < 300:
        return answer
    raise _error(call, response.status, code, _harmless(message, private))


def _decoded(body: bytes) -> Json | None:
    try:
        return lenient.decode(body)
    except ValueError:
        return None


def _verdict(answer: Json) -> tuple[str, str]:
    """Code and message of an old answer (errcode; 88 wraps another), a v1.0 one (code), or a ban (status 1111)."""
    if "errcode" in answer:
        code, message = lenient.text_of(answer, "errcode"), lenient.text_of(answer, "errmsg")
        if code != "88":
            return code, message
        found = _SUB_CODE.search(message)
        inner = lenient.text_of(answer, "sub_code") or (found[1] if found else code)
        return inner, lenient.text_of(answer, "sub_msg") or message
    if "code" in answer:
        return lenient.text_of(answer, "code"), lenient.text_of(answer, "message")
    if lenient.text_of(answer, "status") == "1111" or "punish" in answer:
        return "1111", ""
    return ("0", "") if "result" in answer else ("no-errcode", "")


def _error(call: str, status: int, code: str, message: str) -> ApiError:
    if code == "1111":
        return AddressBanned(code, message, call, ADDRESS_WAIT)
    error = from_code(f"http-{status}" if code == "0" else code, message, call)
    if status == 429 and isinstance(error, Transient):
        return Throttled(error.code, message, call)
    return error


def _no_json(call: str, response: Response) -> ApiError:
    """A page in place of JSON is how DingTalk blocks an address (KB-A/0012); a gateway or a wrong `api` has one too."""
    code = f"http-{response.status}"
    if response.status >= 500:
        return Transient(code, "the server failed", call)
    if response.status == 429:
        return Throttled(code, "", call)
    punished = b"punish" in response.body or "punish" in response.redirect
    if not punished and response.status in (301, 302, 303, 307, 308, 404):
        return Misconfigured("not-the-api", code, call)
    if punished or response.body.lstrip()[:1] == b"<":
        return AddressBanned("html", "a page in place of an answer", call, ADDRESS_WAIT)
    return Transient(code, "the answer is no JSON", call)


def _harmless(message: str, private: Iterable[str]) -> str:
    """DingTalk's words without what the call itself carried, nor anything like a phone number or an e-mail address."""
    for value in private:
        if len(value) > 2:
            message = message.replace(value, "…")
    return _PERSONAL.sub("…", " ".join(message.split()))[:MESSAGE_LENGTH]
