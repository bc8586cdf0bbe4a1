"""A callback, from the request to its sealed reply: what is taken, what is refused and how, and how it answers."""

import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from bridge import callbacks as module
from bridge import crypto, hush, queues
from bridge.accept import Acceptor
from bridge.callbacks import MAX_BODY, Callbacks, Posted
from bridge.config import Config
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.intake import Intake
from bridge.misses import MISSES_KEY, Misses
from tests.bridge.callbacks import (
    EVENT,
    NONCE,
    OLD_KEY,
    OLD_TOKEN,
    OWNER,
    STAMP,
    SUITE_OWNER,
    TOKEN,
    Callback,
    signed,
    untouched,
)
from tests.bridge.requests import SECRETS, counts, event_counts, post, refusal_counts, refused, taken
from tests.bridge.wsgi import receiver
from tests.installation import AES_KEY, CORP, settings
from tests.servers import wait_until

CREATION_OWNER = "suite4xxxxxxxxxxxxxxx"


class TestTaken:
    def test_an_event_is_durable_once_success_is_answered(self, http: FlaskClient, connection: redis.Redis) -> None:
        assert taken(http, Callback()) == "success"
        assert connection.lrange("rq:queue:user_add_org", 0, -1) == [b"e-1"]
        data = connection.hget("rq:job:e-1", "data")
        assert isinstance(data, bytes)
        event = queues.decode(data)
        assert (event.app, event.corp_id, event.user_ids, event.via) == ("acme", CORP, ("zhangsan",), "http")

    def test_the_reply_repeats_timestamp_and_nonce(self, http: FlaskClient) -> None:
        fields = post(http, Callback()).json
        assert fields is not None and (fields["timeStamp"], fields["nonce"]) == (STAMP, NONCE)
        assert "\n" not in fields["encrypt"]

    def test_a_trailing_slash_makes_no_redirect(self, http: FlaskClient) -> None:
        callback = Callback()
        callback.path += "/"
        assert taken(http, callback) == "success"

    @pytest.mark.parametrize("names", [("signature",), ("msg_signature",), ("signature", "msg_signature")])
    def test_either_name_of_the_signature(self, http: FlaskClient, names: tuple[str, ...]) -> None:
        callback = Callback()
        for name in {"signature", "msg_signature"} - set(names):
            del callback.query[name]
        assert taken(http, callback) == "success"

    @pytest.mark.parametrize("empty", ["signature", "msg_signature"])
    def test_an_empty_name_is_no_signature(self, http: FlaskClient, empty: str) -> None:
        callback = Callback()
        callback.query[empty] = ""
        assert taken(http, callback) == "success"

    def test_either_name_of_the_timestamp(self, http: FlaskClient) -> None:
        callback = Callback()
        callback.query["timeStamp"] = callback.query.pop("timestamp")
        assert taken(http, callback) == "success"

    @pytest.mark.parametrize("nonce", ["随机", "a b+c&d=e%", "é\u0301🐉", "\n"])
    def test_any_nonce(self, http: FlaskClient, nonce: str) -> None:
        assert taken(http, Callback(nonce=nonce)) == "success"

    @pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
    def test_any_content_type(self, http: FlaskClient, content_type: str | None) -> None:
        assert taken(http, Callback(), content_type=content_type) == "success"

    def test_line_breaks_in_encrypt(self, http: FlaskClient) -> None:
        encrypted = json.loads(Callback().body)["encrypt"]
        broken = signed("\n".join(encrypted[at : at + 76] for at in range(0, len(encrypted), 76)) + "\n")
        assert taken(http, broken) == "success"

    def test_other_fields_beside_encrypt(self, http: FlaskClient) -> None:
        callback = Callback()
        callback.body = json.dumps({"x": [{}], **json.loads(callback.body)}, indent=2).encode()
        assert taken(http, callback) == "success"

    def test_the_largest_body(self, http: FlaskClient) -> None:
        callback = Callback()
        callback.body += b" " * (MAX_BODY - len(callback.body))
        assert taken(http, callback) == "success"

    def test_a_type_that_nobody_knows(self, http: FlaskClient, connection: redis.Redis) -> None:
        assert taken(http, Callback(EVENT | {"EventType": "bpms_task_change"})) == "success"
        assert connection.llen("rq:queue:other") == 1
        assert event_counts(http) == {("acme", "other", "accepted"): 1}

    def test_pushed_rows_are_taken_together(self, http: FlaskClient, connection: redis.Redis) -> None:
        rows = [{"biz_type": 13, "biz_id": str(at), "biz_data": '{"syncAction":"user_modify_org"}'} for at in range(50)]
        message = {"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": [*rows, rows[0]]}
        assert taken(http, Callback(message, app="suite-auto", owner=SUITE_OWNER)) == "success"
        assert connection.llen("rq:queue:user_modify_org") == 50
        assert event_counts(http) == {
            ("suite-auto", "user_modify_org", "accepted"): 50,
            ("suite-auto", "user_modify_org", "repeated"): 1,
        }

    def test_a_repeat_is_acknowledged_and_counted_and_not_queued(
        self, http: FlaskClient, connection: redis.Redis
    ) -> None:
        for _ in range(3):
            assert taken(http, Callback()) == "success"
        assert connection.llen("rq:queue:user_add_org") == 1
        assert event_counts(http) == {
            ("acme", "user_add_org", "accepted"): 1,
            ("acme", "user_add_org", "repeated"): 2,
        }
        assert counts(http, "dingbridge_callback_seconds_count") == {(): 3}


class TestReplyIsSealedAsItCame:
    @pytest.mark.parametrize("owner", [OWNER, CORP])
    def test_for_the_owner_that_came_in(self, http: FlaskClient, owner: str) -> None:
        assert taken(http, Callback(owner=owner)) == "success"

    @pytest.mark.parametrize(("token", "aes_key"), [(TOKEN, AES_KEY), (OLD_TOKEN, OLD_KEY)])
    def test_with_the_key_that_came_in(self, http: FlaskClient, token: str, aes_key: str) -> None:
        assert taken(http, Callback(token=token, aes_key=aes_key)) == "success"


class TestKeyRotation:
    def old(self, http: FlaskClient) -> dict[tuple[str, ...], float]:
        return counts(http, "dingbridge_callbacks_old_key_total", "app")

    def test_what_comes_under_the_old_pair_is_counted(self, http: FlaskClient) -> None:
        assert self.old(http) == {("acme",): 0}
        for nonce in ("n1", "n2"):
            taken(http, Callback(nonce=nonce))
            taken(http, Callback(nonce=nonce, token=OLD_TOKEN, aes_key=OLD_KEY))
        taken(http, Callback({"EventType": "check_url"}, token=OLD_TOKEN, aes_key=OLD_KEY))
        assert self.old(http) == {("acme",): 3}
        refused(post(http, Callback(token=OLD_TOKEN, aes_key=OLD_KEY, owner="dingsomebodyelse")), 403)
        refused(post(http, Callback(token="neither", aes_key=OLD_KEY)), 403)
        assert self.old(http) == {("acme",): 3}

    @pytest.mark.parametrize("pair", [(TOKEN, OLD_KEY), (OLD_TOKEN, AES_KEY)])
    def test_of_a_suite_that_changes_one_of_two(self, redis_url: str, tmp_path: Path, pair: tuple[str, str]) -> None:
        token, aes_key = pair
        given = settings(redis={"url": redis_url}, var=str(tmp_path / "var"))
        keys = [{"token": TOKEN, "aes_key": AES_KEY}, {"token": token, "aes_key": aes_key}]
        given["apps"] = [{"name": "suite", "kind": "suite", "keys": keys, "owner_keys": [SUITE_OWNER]}]
        config = Config.model_validate(given)
        http = receiver(config).test_client()
        ticket = {"EventType": "suite_ticket", "SuiteTicket": "t", "SuiteKey": SUITE_OWNER}
        new = Callback(ticket, app="suite", owner=SUITE_OWNER)
        assert taken(http, new) == "success"
        assert self.old(http) == {("suite",): 0}
        old = Callback(ticket, app="suite", owner=SUITE_OWNER, token=token, aes_key=aes_key)
        assert taken(http, old) == "success"
        assert self.old(http) == {("suite",): 1}

    def test_once_the_old_pair_is_removed_it_is_refused(self, redis_url: str, tmp_path: Path) -> None:
        config = Config.model_validate(settings(redis={"url": redis_url}, var=str(tmp_path / "var")))
        http = receiver(config).test_client()
        refused(post(http, Callback(token=OLD_TOKEN, aes_key=OLD_KEY)), 403)
        assert taken(http, Callback()) == "success"
        assert self.old(http) == {}


class TestChecks:
    @pytest.mark.parametrize("event_type", ["check_create_suite_url", "check_update_suite_url"])
    @pytest.mark.parametrize(
        ("app", "owner", "reply"),
        [
            ("suite-auto", CREATION_OWNER, "LPIdSnlF"),
            ("suite-auto", SUITE_OWNER, "success"),
            ("suite-random", CREATION_OWNER, "LPIdSnlF"),
            ("suite-random", SUITE_OWNER, "LPIdSnlF"),
            ("suite-success", CREATION_OWNER, "success"),
            ("suite-success", SUITE_OWNER, "success"),
        ],
    )
    def test_a_suites_url(
        self, http: FlaskClient, connection: redis.Redis, event_type: str, app: str, owner: str, reply: str
    ) -> None:
        message = {"EventType": event_type, "Random": "LPIdSnlF", "TestSuiteKey": owner}
        assert taken(http, Callback(message, app=app, owner=owner)) == reply
        assert taken(http, Callback({"EventType": event_type}, app=app, owner=owner)) == "success"
        assert untouched(connection)
        assert event_counts(http) == {(app, event_type, "checked"): 2}

    @pytest.mark.parametrize("app", ["suite-random", "suite-auto"])
    def test_the_plain_check(self, http: FlaskClient, connection: redis.Redis, app: str) -> None:
        message = {"EventType": "check_url", "Random": "LPIdSnlF"}
        assert taken(http, Callback(message, app=app, owner=CREATION_OWNER)) == "success"
        assert taken(http, Callback({"EventType": "check_url"})) == "success"
        assert untouched(connection)

    def test_pushed_rows_without_a_row(self, http: FlaskClient, connection: redis.Redis) -> None:
        assert taken(http, Callback({"EventType": "SYNC_HTTP_PUSH_MEDIUM", "bizData": []})) == "success"
        assert untouched(connection)


def query_without(*names: str) -> Callback:
    callback = Callback()
    callback.query = {name: value for name, value in callback.query.items() if name not in names}
    return callback


def query_empty(*names: str) -> Callback:
    callback = Callback()
    callback.query |= dict.fromkeys(names, "")
    return callback


def body(data: bytes) -> Callback:
    callback = Callback()
    callback.body = data
    return callback


ENCRYPTED = json.loads(Callback().body)["encrypt"]
NOT_A_CALLBACK: dict[str, Callable[[], Callback]] = {
    "no signature": lambda: query_without("signature", "msg_signature"),
    "no timestamp": lambda: query_without("timestamp"),
    "no nonce": lambda: query_without("nonce"),
    "empty signatures": lambda: query_empty("signature", "msg_signature"),
    "empty timestamp": lambda: query_empty("timestamp"),
    "empty nonce": lambda: query_empty("nonce"),
    "no body": lambda: body(b""),
    "no JSON": lambda: body(b"encrypt=x"),
    "half a body": lambda: body(Callback().body[:-2]),
    "two bodies": lambda: body(Callback().body * 2),
    "a list": lambda: body(b"[]"),
    "a text": lambda: body(b'"x"'),
    "null": lambda: body(b"null"),
    "no encrypt": lambda: body(b"{}"),
    "encrypt in capitals": lambda: body(b'{"Encrypt":"x"}'),
    "encrypt is null": lambda: body(b'{"encrypt":null}'),
    "encrypt is a number": lambda: body(b'{"encrypt":1}'),
    "encrypt is a list": lambda: body(b'{"encrypt":["x"]}'),
    "invalid UTF-8": lambda: body(b'{"encrypt":"\xff"}'),
    "half a surrogate pair": lambda: body(rb'{"encrypt":"\ud83d"}'),
    "very deep": lambda: body(b'{"x":' + b"[" * 100_000),
    "no base64": lambda: signed("!" + ENCRYPTED),
    "Chinese": lambda: signed("中文"),
    "empty encrypt": lambda: signed(""),
    "bad length": lambda: signed(ENCRYPTED[:-8] + "AAA="),
    "half an envelope": lambda: signed(ENCRYPTED[:128]),
    "first blocks swapped": lambda: signed(ENCRYPTED[64:128] + ENCRYPTED[:64] + ENCRYPTED[128:]),
    "message is no JSON": lambda: Callback("success"),
    "message is half": lambda: Callback('{"EventType":"user_add_org"'),
    "message is a list": lambda: Callback([]),
    "message is null": lambda: Callback(None),
    "message without a type": lambda: Callback({"CorpId": CORP}),
    "message with an empty type": lambda: Callback({"EventType": " "}),
    "message with a number as type": lambda: Callback({"EventType": 7}),
    "message is very deep": lambda: Callback('{"EventType":"x","x":' + "[" * 100_000),
    "message is deeper than the worker can read": lambda: Callback(
        '{"EventType":"x","x":' + "[" * 990 + "]" * 990 + "}"
    ),
    "message with a number out of range": lambda: Callback('{"EventType":"x","x":1e400}'),
}
NOT_OURS: dict[str, Callable[[], Callback]] = {
    "another token": lambda: Callback(token="somebodyElse"),
    "another owner": lambda: Callback(owner="dingsomebodyelse0001"),
    "no owner": lambda: Callback(owner=""),
    "owner of a suite": lambda: Callback(owner=CREATION_OWNER),
    "one key's token, the other's AES key": lambda: Callback(token=OLD_TOKEN, aes_key=AES_KEY, owner="x"),
    "another body": lambda: body(signed(ENCRYPTED[:-4] + "AAAA").body),
}


class TestRefused:
    @pytest.mark.parametrize("case", NOT_A_CALLBACK)
    def test_not_a_callback(self, http: FlaskClient, connection: redis.Redis, case: str) -> None:
        refused(post(http, NOT_A_CALLBACK[case]()), 400)
        assert untouched(connection)
        assert refusal_counts(http) == {("acme", "400"): 1}
        assert event_counts(http) == {}

    @pytest.mark.parametrize("case", NOT_OURS)
    def test_not_ours(self, http: FlaskClient, connection: redis.Redis, case: str) -> None:
        response = post(http, NOT_OURS[case]())
        assert response.status_code in ((400, 403) if "AES key" in case else (403,))
        refused(response, response.status_code)
        assert untouched(connection)

    def test_a_changed_timestamp_or_nonce(self, http: FlaskClient) -> None:
        for name in ("timestamp", "nonce"):
            callback = Callback()
            callback.query[name] += "1"
            refused(post(http, callback), 403)

    def test_a_wrong_signature_is_not_mended_by_a_right_one_of_the_other_name(self, http: FlaskClient) -> None:
        callback = Callback()
        callback.query["msg_signature"] = "0" * 40
        refused(post(http, callback), 403)

    def test_a_body_that_is_too_large(self, http: FlaskClient, connection: redis.Redis) -> None:
        callback = Callback()
        callback.body += b" " * (MAX_BODY + 1 - len(callback.body))
        refused(post(http, callback), 413)
        assert untouched(connection)

    def test_the_log_says_why_and_tells_no_secret(self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hush, "LINES", 1000)
        with capture_logs() as lines:
            for case in (NOT_A_CALLBACK | NOT_OURS).values():
                post(http, case())
        assert len(lines) == len(NOT_A_CALLBACK) + len(NOT_OURS)
        assert all(line["event"] == "refused" and line["reason"] and line["app"] == "acme" for line in lines)
        assert not [secret for secret in SECRETS if secret in str(lines)]

    def test_a_flood_is_counted_whole_and_told_in_few_lines(self, http: FlaskClient) -> None:
        callback = NOT_OURS["another token"]()
        with capture_logs() as lines:
            for _ in range(3 * hush.LINES):
                post(http, callback)
        assert len(lines) < 3 * hush.LINES
        assert refusal_counts(http)["acme", "403"] == 3 * hush.LINES


class TestMemory:
    @pytest.mark.parametrize(
        "data",
        [
            b'{"encrypt":"' + b"A" * (MAX_BODY - 14) + b'"}',
            b'{"encrypt":"' + b"\\n" * (MAX_BODY // 2 - 7) + b'"}',
            b'{"encrypt":"' + "中".encode() * (MAX_BODY // 3 - 5) + b'"}',
            b"[" * MAX_BODY,
            b'{"a":' * (MAX_BODY // 5),
            b'{"x":[' + b"1," * (MAX_BODY // 2 - 20) + b'1],"encrypt":"A"}',
            b'{"x":[' + b"{}," * (MAX_BODY // 3 - 20) + b'{}],"encrypt":"A"}',
        ],
        ids=["long", "line breaks", "Chinese", "deep lists", "deep objects", "numbers", "objects"],
    )
    def test_a_hostile_body_costs_a_few_times_its_size(self, http: FlaskClient, data: bytes) -> None:
        callback = body(data)
        post(http, Callback())  # what is made once
        tracemalloc.start()
        try:
            assert post(http, callback).status_code in (400, 403)
            assert tracemalloc.get_traced_memory()[1] < 8 * MAX_BODY
        finally:
            tracemalloc.stop()


class TestTogether:
    """Several that are answered with one call, as the receiver's gunicorn does."""

    def callbacks(self, http: FlaskClient) -> Callbacks:
        app = http.application.wsgi_app
        assert isinstance(app, Callbacks)
        return app

    def posted(self, callback: Callback) -> Posted:
        return Posted(callback.path, urlencode(callback.query), callback.body, time.monotonic())

    def test_one_call_and_to_each_its_own(
        self, http: FlaskClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        real = Acceptor.accept

        def accept(acceptor: Acceptor, batch: Sequence[Event]) -> list[bool]:
            calls.append(len(batch))
            return real(acceptor, batch)

        monkeypatch.setattr(Acceptor, "accept", accept)
        callbacks = self.callbacks(http)
        post(http, Callback(EVENT | {"eventId": "known"}))
        several = [
            Callback(EVENT | {"eventId": "known"}),
            Callback(token="wr0ngToken"),
            Callback(EVENT | {"eventId": "new"}, app="suite-auto", owner=SUITE_OWNER),
            Callback({"EventType": "check_url"}),
            Callback("[]"),
        ]
        answers = callbacks.answer([self.posted(callback) for callback in several])
        assert calls == [1, 2]
        assert [answer.status for answer in answers] == [200, 403, 200, 200, 400]
        for callback, answer in zip(several, answers, strict=True):
            if answer.status == 200:
                assert callback.plain(json.dumps(answer.told).encode()) == "success"
        assert connection.llen("rq:queue:user_add_org") == 2
        assert event_counts(http) == {
            ("acme", "user_add_org", "accepted"): 1,
            ("acme", "user_add_org", "repeated"): 1,
            ("suite-auto", "user_add_org", "accepted"): 1,
            ("acme", "check_url", "checked"): 1,
        }

    def test_what_nobody_took_is_told_to_each_that_brought_it(
        self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_intake: Intake, _batch: Any) -> Any:
            raise NotDurable("no room")

        callbacks = self.callbacks(http)
        monkeypatch.setattr(Intake, "take", full)
        several = [Callback(), Callback({"EventType": "check_url"}), Callback()]
        answers = callbacks.answer([self.posted(callback) for callback in several])
        assert [answer.status for answer in answers] == [503, 200, 503]


class TestFaults:
    def test_what_nobody_foresaw_is_told_in_the_log(
        self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("the reason")

        monkeypatch.setattr(crypto, "seal", broken)
        with capture_logs() as logs:
            refused(post(http, Callback()), 500)
        (fault,) = [line for line in logs if line["event"] == "a callback failed"]
        assert (fault["app"], fault["log_level"], type(fault["exc_info"])) == ("acme", "error", RuntimeError)
        assert connection.llen("rq:queue:user_add_org") == 1

    def test_of_a_parameter_that_stands_there_twice_the_first_counts(self, http: FlaskClient) -> None:
        callback = Callback()
        answer = http.post(f"{callback.url}&msg_signature=x&nonce=y&timestamp=z", data=callback.body)
        assert callback.plain(answer.data) == "success"


class TestMissed:
    """What DingTalk will list as failed makes the clock read that list; what a stranger sends never does."""

    APPS = ("acme", "suite-auto", "suite-random", "suite-success")

    @pytest.fixture
    def misses(self, http: FlaskClient, connection: redis.Redis) -> Misses:
        """A receiver whose start was noted, long ago."""
        found = Misses(connection)
        wait_until(lambda: found.read().keys() == set(self.APPS), what="the note of the start")
        connection.delete(MISSES_KEY)
        return found

    def noted(self, http: FlaskClient, connection: redis.Redis, callback: Callback) -> set[str]:
        """The apps noted after this callback: those before a later one, whose note is seen to arrive."""
        post(http, callback)
        later = Callback("[]", app="suite-auto", owner=SUITE_OWNER)
        assert post(http, later).status_code == 400
        misses = Misses(connection)
        wait_until(lambda: "suite-auto" in misses.read(), what="the later note")
        return set(misses.read()) - {"suite-auto"}

    def test_an_answer_in_time_is_no_miss(self, http: FlaskClient, connection: redis.Redis, misses: Misses) -> None:
        assert self.noted(http, connection, Callback()) == set()

    def test_one_that_came_late_is(
        self, http: FlaskClient, connection: redis.Redis, misses: Misses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LATE_SECONDS", 0.0)
        assert self.noted(http, connection, Callback()) == {"acme"}

    def test_time_counts_from_when_it_began_to_come(self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        callback, app = Callback(), http.application.wsgi_app
        assert isinstance(app, Callbacks)
        missed: list[str] = []
        monkeypatch.setattr(app._intake, "missed", missed.extend)
        begun = time.monotonic() - module.LATE_SECONDS - 1
        (answer,) = app.answer([Posted(callback.path, urlencode(callback.query), callback.body, begun)])
        assert (answer.status, missed) == (200, ["acme"])
        assert counts(http, "dingbridge_callback_seconds_sum")[()] > module.LATE_SECONDS

    def test_so_is_a_callback_of_dingtalks_that_was_refused(
        self, http: FlaskClient, connection: redis.Redis, misses: Misses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_intake: Intake, _batch: Any) -> Any:
            raise NotDurable("no room")

        with monkeypatch.context() as patched:
            patched.setattr(Intake, "take", full)
            assert post(http, Callback()).status_code == 503
        assert self.noted(http, connection, Callback()) == {"acme"}

    @pytest.mark.parametrize(
        "forged",
        [
            Callback(token="wr0ngToken"),
            Callback(owner="somebodyelse"),
            Callback(aes_key=OLD_KEY),
            signed("no base64 at all"),
        ],
    )
    def test_a_forged_one_is_not(
        self, http: FlaskClient, connection: redis.Redis, misses: Misses, forged: Callback
    ) -> None:
        assert post(http, forged).status_code in (400, 403)
        assert self.noted(http, connection, forged) == set()
