"""The client against a scripted DingTalk over real HTTP, with a real Redis."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import redis
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from tests.servers import free_port
from workers import dingtalk as module
from workers.budget import Budget, paused
from workers.dingtalk import DingTalk
from workers.errors import (
    AddressBanned,
    ApiError,
    BadRequest,
    Gone,
    Hidden,
    Misconfigured,
    QuotaSpent,
    Throttled,
    Transient,
)
from workers.http import Http, Timeout
from workers.tokens import Grant, Tokens

SECRET = "s3cret-of-the-app"
USER = {"errcode": 0, "errmsg": "ok", "result": {"userid": "zhangsan", "dept_id_list": [2]}}
IN_ANOTHER_MINUTE = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "u"}


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any


@dataclass
class Script:
    """What the scripted server was asked, and what it answers: per path a list, whose last entry stays."""

    asked: list[Asked] = field(default_factory=list)
    replies: dict[str, list[Any]] = field(default_factory=dict)
    tokens: int = 0

    def reply(self, path: str, *replies: Any) -> None:
        self.replies[path] = list(replies)

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    def answer(self, asked: Asked) -> Any:
        self.asked.append(asked)
        waiting = self.replies.get(asked.path)
        if waiting is None and asked.path == "/gettoken":
            self.tokens += 1
            return {"errcode": 0, "errmsg": "ok", "access_token": f"t0ken-{self.tokens}", "expires_in": 7200}
        assert waiting, f"nothing scripted for {asked.path}"
        reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return reply(asked) if callable(reply) and not isinstance(reply, Response) else reply

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        body = request.get_data()
        query = parse_qs(request.query_string.decode())
        answer = self.answer(Asked(request.method, request.path, query, json.loads(body) if body else None))
        if not isinstance(answer, Response):
            answer = Response(json.dumps(answer), content_type="application/json")
        return answer(environ, start_response)


class QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def api(script: Script) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, script, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


Observed = list[tuple[str, str]]


@pytest.fixture
def observed() -> Observed:
    return []


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def connect(client: redis.Redis, observed: Observed) -> Iterator[Callable[[str], DingTalk]]:
    http = Http()

    def connected(address: str) -> DingTalk:
        def observe(call: str, outcome: str, seconds: float) -> None:
            assert 0 <= seconds < 30
            observed.append((call, outcome))

        return DingTalk("acme", "the-key", SECRET, address, Budget(client, 0), Tokens(client), http, observe)

    yield connected
    http.close()


@pytest.fixture
def dingtalk(connect: Callable[[str], DingTalk], api: str) -> DingTalk:
    return connect(api)


GET_USER = "/topapi/v2/user/get"


def failure(call: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    error = caught.value
    while_handling = error.__context__ or error.__cause__
    assert while_handling is None, "a chained error may show the token"
    assert SECRET not in str(error) and "t0ken" not in str(error)
    return error


def test_every_call_goes_as_documented(dingtalk: DingTalk, script: Script) -> None:
    page = {"has_more": False, "list": [{"userid": "a"}]}
    calls: list[tuple[str, Callable[[], Any], Any, Any]] = [
        (GET_USER, lambda: dingtalk.user("zhangsan").userid, {"userid": "zhangsan"}, USER["result"]),
        ("/topapi/v2/department/get", lambda: dingtalk.department(2).dept_id, {"dept_id": 2}, {"dept_id": 2}),
        ("/topapi/v2/department/listsubid", lambda: dingtalk.sub_departments(1), {"dept_id": 1}, {"dept_id_list": [2]}),
        ("/topapi/user/listid", lambda: dingtalk.user_ids(2), {"dept_id": 2}, {"userid_list": ["a"]}),
        (
            "/topapi/v2/user/list",
            lambda: dingtalk.users_page(2, 100).items[0].userid,
            {"dept_id": 2, "cursor": 100, "size": 100},
            page,
        ),
        (
            "/topapi/role/simplelist",
            lambda: dingtalk.role_members(9, 200).items,
            {"role_id": 9, "size": 100, "offset": 200},
            page,
        ),
        ("/topapi/user/listadmin", dingtalk.admins, {}, [{"userid": "a", "sys_level": 1}]),
        ("/topapi/role/list", dingtalk.role_groups, {"size": 200, "offset": 0}, {"hasMore": False, "list": []}),
    ]
    found = []
    for path, call, body, result in calls:
        script.reply(path, {"errcode": 0, "errmsg": "ok", "result": result})
        found.append(call())
        asked = script.asked[-1]
        assert (asked.method, asked.path, asked.body) == ("POST", path, body)
        assert asked.query == {"access_token": ["t0ken-1"]}
    assert found == ["zhangsan", 2, [2], ["a"], "a", ["a"], [("a", 1)], []]
    token = script.asked[0]
    assert (token.method, token.path, token.body) == ("GET", "/gettoken", None)
    assert token.query == {"appkey": ["the-key"], "appsecret": [SECRET]}
    assert len(script.asked) == len(calls) + 1


SCOPES = "/auth/scopes"
SPENT = {"errcode": 88, "sub_code": "90020", "sub_msg": "the quota is spent"}


def a_scope(*departments: int) -> dict[str, Any]:
    return {"errcode": 0, "auth_org_scopes": {"authed_user": ["a"], "authed_dept": list(departments)}}


def test_the_scope_is_asked_each_time(dingtalk: DingTalk, script: Script) -> None:
    script.reply(SCOPES, a_scope(7), a_scope(8))
    first = dingtalk.scopes()
    assert (first.users, first.departments) == (("a",), (7,))
    assert dingtalk.scopes().departments == (8,)
    assert script.paths() == ["/gettoken", SCOPES, SCOPES]
    assert script.asked[-1].method == "GET"


def test_while_the_quota_is_spent_the_last_scope_serves(dingtalk: DingTalk, script: Script) -> None:
    """DingTalk is asked no more for a while; whoever wants to know whether it answers is told."""
    script.reply(SCOPES, SPENT)
    assert isinstance(failure(dingtalk.scopes), QuotaSpent)
    dingtalk._tokens.redis.delete("bridge:budget:pauses")
    script.reply(SCOPES, a_scope(7), SPENT)
    assert dingtalk.scopes().departments == (7,)
    assert [dingtalk.scopes().departments for _ in range(2)] == [(7,), (7,)]
    assert script.paths().count(SCOPES) == 3
    assert isinstance(failure(lambda: dingtalk.scopes(fresh=True)), QuotaSpent)


class ACorp(DingTalk):
    """An app in one of several corps, by a token of its own."""

    def _gettoken(self) -> Grant:
        return Grant("t0ken", 7200)


@pytest.mark.parametrize(
    ("refusal", "others_go_on"),
    [
        (SPENT, True),
        ({"errcode": 88, "sub_code": "Forbidden.AccessDenied.QpmLimitForSuitekeyAndOrgAndApi"}, True),
        ({"errcode": 88, "sub_code": "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi"}, False),
    ],
)
def test_what_one_corp_has_spent_pauses_no_other(
    client: redis.Redis, api: str, script: Script, refusal: Any, others_go_on: bool
) -> None:
    http = Http()
    shared = (api, Budget(client, 0), Tokens(client), http, None)
    one, other = (ACorp("shop", "suitekey", SECRET, *shared, corp_id) for corp_id in ("corp1", "corp2"))
    script.reply(SCOPES, refusal, a_scope(7))
    failure(one.scopes)
    if others_go_on:
        assert other.scopes().departments == (7,)
    else:
        failure(other.scopes)
    failure(one.scopes)
    assert script.paths().count(SCOPES) == 1 + others_go_on
    (pause,) = paused(client).calls
    assert pause.app == ("shop:corp1" if others_go_on else "shop")
    http.close()


def test_another_key_under_the_same_name_has_another_token(
    client: redis.Redis, api: str, script: Script, dingtalk: DingTalk
) -> None:
    script.reply(GET_USER, USER)
    script.reply(SCOPES, a_scope(7), SPENT)
    dingtalk.user("zhangsan")
    dingtalk.scopes()
    http = Http()
    other = DingTalk("acme", "another-key", SECRET, api, Budget(client, 0), Tokens(client), http)
    other.user("zhangsan")
    assert [one.query["appkey"] for one in script.asked if one.path == "/gettoken"] == [["the-key"], ["another-key"]]
    assert script.asked[-1].query["access_token"] == ["t0ken-2"]
    assert isinstance(failure(other.scopes), QuotaSpent)
    http.close()


def test_a_prefix_of_the_api_s_address_is_kept(connect: Callable[[str], DingTalk], api: str, script: Script) -> None:
    script.reply("/ding/gettoken", {"errcode": 0, "access_token": "t0ken", "expires_in": 7200})
    script.reply(f"/ding{GET_USER}", USER)
    assert connect(f"{api}/ding/").user("zhangsan").userid == "zhangsan"


CODES: list[tuple[type[ApiError], list[Any]]] = [
    (Gone, [60121, 33012, 60003, 33011, 70001, "60121"]),
    (Hidden, [50002, 50004]),
    (QuotaSpent, [90020]),
    (Misconfigured, [40088, 40089, 41001, 43007, 60011, 60020]),
    (BadRequest, [400002, 40035, 40036, 40068, 40069]),
    (Throttled, [90018, *range(90002, 90015), 90017]),
    (AddressBanned, [90001]),
    (Transient, [-1, 400001, 60019, 123456789, "", None]),
]


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in CODES for code in codes])
def test_codes(dingtalk: DingTalk, script: Script, observed: Observed, kind: type[ApiError], code: Any) -> None:
    script.reply(GET_USER, {"errcode": code, "errmsg": "said so"})
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert type(error) is kind
    assert (error.code, error.call) == ("" if code is None else str(code), GET_USER)
    assert observed == [("/gettoken", "ok"), (GET_USER, kind.__name__)]


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        (Throttled, {"sub_code": "90018", "sub_msg": "too many"}),
        (Misconfigured, {"sub_code": "60011", "sub_msg": "no permission"}),
        (Misconfigured, {"errmsg": "ding talk error[subcode=60011,submsg=no permission]"}),
        (Gone, {"sub_code": 60121}),
        (Transient, {"sub_code": ""}),
    ],
)
def test_code_88_wraps_another(
    dingtalk: DingTalk, script: Script, kind: type[ApiError], wrapped: dict[str, Any]
) -> None:
    script.reply(GET_USER, {"errcode": 88, "errmsg": "auth"} | wrapped)
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert type(error) is kind


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (Throttled, 403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"),
        (Throttled, 403, "QpsLimitForApi"),
        (Throttled, 429, "QpmLimitForAppkeyAndApi"),
        (Throttled, 429, "SomethingNew"),
        (QuotaSpent, 403, "Forbidden.AccessDenied.ApiCountLimitForOrg"),
        (Misconfigured, 403, "Forbidden.AccessDenied.AccessTokenPermissionDenied"),
        (Misconfigured, 403, "Forbidden.AccessDenied.IpNotInWhiteList"),
        (Misconfigured, 400, "invalidClientIdOrSecret"),
        (Transient, 400, "SomethingNew"),
        (Transient, 503, "ServiceUnavailable"),
    ],
)
def test_new_style_codes(dingtalk: DingTalk, script: Script, kind: type[ApiError], status: int, code: str) -> None:
    reply = {"code": code, "message": "said so", "requestid": "r"}
    script.reply(GET_USER, Response(json.dumps(reply), status, content_type="application/json"))
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert type(error) is kind
    assert error.code == code


PAGE = "<!doctypehtml><title>405</title>"


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (AddressBanned, lambda _: Response(PAGE, 200, content_type="text/html")),
        (AddressBanned, lambda _: Response(PAGE, 405, content_type="text/html")),
        (AddressBanned, lambda _: Response(json.dumps(IN_ANOTHER_MINUTE), 200)),
        (AddressBanned, lambda _: Response("", 302, headers={"Location": "https://other/punish?x5=1"})),
        (Misconfigured, lambda _: Response(PAGE, 404, content_type="text/html")),
        (Misconfigured, lambda _: Response("", 301, headers={"Location": "https://elsewhere/"})),
        (Transient, lambda _: Response(PAGE, 502, content_type="text/html")),
        (Transient, lambda _: Response("", 200)),
        (Transient, lambda _: Response("busy", 200)),
        (Transient, lambda _: Response('{"errcode":0,"result":{"userid":"zhang', 200)),
        (Transient, lambda _: Response("[]", 200)),
        (Transient, lambda _: Response(json.dumps(USER), 500)),
        (Transient, lambda _: Response("{}", 200)),
        (Throttled, lambda _: Response("slow down", 429)),
    ],
)
def test_answers_that_are_none(
    dingtalk: DingTalk, script: Script, kind: type[ApiError], reply: Callable[[Asked], Response]
) -> None:
    script.reply(GET_USER, reply)
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert type(error) is kind
    assert script.paths().count(GET_USER) == 1


def test_an_address_ban_stops_every_call_of_every_app(dingtalk: DingTalk, script: Script, client: redis.Redis) -> None:
    script.reply(GET_USER, IN_ANOTHER_MINUTE)
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert isinstance(error, Throttled) and error.wait == 300
    asked = len(script.asked)
    with pytest.raises(Throttled) as caught:
        Budget(client, 15).acquire("other", "/topapi/role/list")
    assert caught.value.wait > 290
    assert isinstance(failure(dingtalk.admins), Throttled)
    assert len(script.asked) == asked


def test_a_throttle_pauses_the_call_and_only_it(dingtalk: DingTalk, script: Script) -> None:
    script.reply(GET_USER, {"errcode": 88, "sub_code": "90018", "sub_msg": "qps"}, USER)
    script.reply("/topapi/user/listadmin", {"errcode": 0, "result": []})
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert isinstance(error, Throttled) and error.wait >= 1
    begun = time.monotonic()
    dingtalk.admins()
    assert time.monotonic() - begun < 0.8
    dingtalk.user("zhangsan")
    assert time.monotonic() - begun > 0.9


@pytest.mark.parametrize(
    "refusal",
    [
        {"errcode": 40014, "errmsg": "invalid"},
        {"errcode": 42001, "errmsg": "expired"},
        {"errcode": 40001, "errmsg": "bad"},
        {"errcode": 33001, "errmsg": "bad corp"},
        {"errcode": 88, "errmsg": "auth", "sub_code": "40014", "sub_msg": "invalid"},
        {"code": "InvalidAuthentication", "message": "invalid"},
    ],
)
class TestARefusedToken:
    def test_is_replaced_and_the_call_repeated(self, dingtalk: DingTalk, script: Script, refusal: Any) -> None:
        script.reply(GET_USER, refusal, USER)
        assert dingtalk.user("zhangsan").userid == "zhangsan"
        assert script.paths() == ["/gettoken", GET_USER, "/gettoken", GET_USER]
        assert script.asked[-1].query["access_token"] == ["t0ken-2"]

    def test_again_is_a_fault_of_the_set_up(self, dingtalk: DingTalk, script: Script, refusal: Any) -> None:
        script.reply(GET_USER, refusal)
        error = failure(lambda: dingtalk.user("zhangsan"))
        assert type(error) is Misconfigured
        assert script.paths().count(GET_USER) == 2

    def test_when_asking_for_one_too(self, dingtalk: DingTalk, script: Script, refusal: Any) -> None:
        script.reply("/gettoken", refusal)
        error = failure(lambda: dingtalk.user("zhangsan"))
        assert (type(error), error.call) == (Misconfigured, "/gettoken")
        assert script.paths() == ["/gettoken"]


def test_many_threads_replace_a_refused_token_once(dingtalk: DingTalk, script: Script) -> None:
    refused = {"errcode": 40014, "errmsg": "invalid"}

    def user(asked: Asked) -> Any:
        return refused if asked.query["access_token"] == ["t0ken-1"] else USER

    script.reply(GET_USER, user)
    dingtalk._tokens.get(dingtalk._name, dingtalk._gettoken)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: dingtalk.user("zhangsan").userid, range(40)))
    assert set(outcomes) == {"zhangsan"}
    assert script.tokens == 2


@pytest.mark.parametrize(
    ("code", "mend"),
    [(40089, "app_secret"), (60011, "permission"), (60020, "whitelist"), (43007, "authorise")],
)
def test_a_fault_of_the_set_up_names_its_mend(dingtalk: DingTalk, script: Script, code: int, mend: str) -> None:
    script.reply("/gettoken", {"errcode": code, "errmsg": f"bad {SECRET}"})
    assert mend in str(failure(lambda: dingtalk.user("zhangsan")))


def test_no_answer_is_transient(connect: Callable[[str], DingTalk], client: redis.Redis) -> None:
    client.hset("bridge:token:acme:the-key", mapping={"token": "t0ken", "margin": 1})
    client.pexpire("bridge:token:acme:the-key", 60_000)
    error = failure(lambda: connect(f"http://127.0.0.1:{free_port()}").user("zhangsan"))
    assert (type(error), error.code) == (Transient, "unreachable")


def test_a_timeout_is_transient(dingtalk: DingTalk, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", Timeout(connect=3, answer=0.1))
    released = threading.Event()
    script.reply("/gettoken", {"errcode": 0, "access_token": "t0ken", "expires_in": 7200})
    script.reply(GET_USER, lambda _: released.wait(10) and USER)
    try:
        error = failure(lambda: dingtalk.user("zhangsan"))
    finally:
        released.set()
    assert (type(error), error.code) == (Transient, "timeout")


def test_what_cannot_be_read_is_transient(dingtalk: DingTalk, script: Script, observed: Observed) -> None:
    script.reply(GET_USER, {"errcode": 0, "result": {"userid": "zhangsan", "dept_id_list": ["13800138000x"]}})
    error = failure(lambda: dingtalk.user("zhangsan"))
    assert type(error) is Transient
    assert "dept_id_list" in str(error) and "138" not in str(error)
    assert observed[-1] == (GET_USER, "Transient")


def test_errors_and_logs_keep_secrets_and_personal_data(
    dingtalk: DingTalk, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    words = "no zhangsan 13800138000 a@b.cn t0ken-1 10.1.2.3\nhere " + "x" * 500
    script.reply(GET_USER, {"errcode": 60121, "errmsg": words})
    error = failure(lambda: dingtalk.user("zhangsan"))
    for word in ("zhangsan", "13800138000", "a@b.cn", "\n"):
        assert word not in str(error)
    assert "10.1.2.3 here" in str(error)
    assert len(str(error)) < 400
    assert SECRET not in caplog.text and "t0ken" not in caplog.text


class TestTheRoleList:
    PATH = "/topapi/role/list"

    @staticmethod
    def page(begin: int, count: int, more: bool) -> dict[str, Any]:
        groups = [{"groupId": number, "name": "g", "roles": []} for number in range(begin, begin + count)]
        return {"errcode": 0, "result": {"hasMore": more, "list": groups}}

    def test_is_read_to_its_end(self, dingtalk: DingTalk, script: Script) -> None:
        script.reply(self.PATH, self.page(0, 200, True), self.page(200, 200, True), self.page(400, 7, False))
        assert [group.group_id for group in dingtalk.role_groups()] == list(range(407))
        assert [one.body["offset"] for one in script.asked[1:]] == [0, 200, 400]

    def test_short_pages_skip_nothing(self, dingtalk: DingTalk, script: Script) -> None:
        script.reply(self.PATH, self.page(0, 20, True), self.page(20, 20, True), self.page(40, 1, False))
        assert len(dingtalk.role_groups()) == 41
        assert [one.body["offset"] for one in script.asked[1:]] == [0, 20, 40]

    def test_that_ignores_the_offset_is_whole_when_short(self, dingtalk: DingTalk, script: Script) -> None:
        script.reply(self.PATH, self.page(0, 9, True))
        assert len(dingtalk.role_groups()) == 9
        assert script.paths().count(self.PATH) == 2

    def test_that_repeats_a_full_page_is_refused(self, dingtalk: DingTalk, script: Script) -> None:
        script.reply(self.PATH, self.page(0, 200, True))
        assert type(failure(dingtalk.role_groups)) is Transient
        assert script.paths().count(self.PATH) == 2

    def test_without_end_is_refused(self, dingtalk: DingTalk, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ROLE_GROUPS_PAGES", 3)
        script.reply(self.PATH, *(self.page(begin, 200, True) for begin in range(0, 2000, 200)))
        assert type(failure(dingtalk.role_groups)) is Transient
        assert script.paths().count(self.PATH) == 3


def test_what_dingtalk_tells_but_once_is_never_asked_again_by_the_http_client(
    dingtalk: DingTalk, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept connection may break before the answer; asked again, DingTalk would tell of an empty list."""
    path = "/call_back/get_call_back_failed_result"
    script.reply(GET_USER, USER)
    script.reply(path, {"errcode": 0, "failed_list": [], "has_more": False})
    asked: dict[str, bool] = {}
    plain = Http.request

    def request(http: Http, url: str, *given: Any, once: bool) -> Any:
        asked[urlsplit(url).path] = once
        return plain(http, url, *given, once=once)

    monkeypatch.setattr(Http, "request", request)
    dingtalk.user("zhangsan")
    dingtalk.failed_callbacks(lambda _: None)
    assert asked == {"/gettoken": False, GET_USER: False, path: True}


@pytest.mark.parametrize("live", [True, False])
def test_calls_keep_to_the_budget(client: redis.Redis, api: str, script: Script, live: bool) -> None:
    http = Http()
    dingtalk = DingTalk("acme", "the-key", SECRET, api, Budget(client, 4), Tokens(client), http)
    script.reply(GET_USER, USER)
    begun = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: dingtalk.user("zhangsan", live=live), range(6)))
    assert time.monotonic() - begun > (1.2 if live else 2.0)
    http.close()
