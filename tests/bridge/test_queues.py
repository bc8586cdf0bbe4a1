"""Events as RQ's own classes read them, jobs that are refused, and connections that never make a caller wait long."""

import json
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from bridge import embedded, queues
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.errors import NotDurable
from bridge.events import Event, queue_names
from bridge.messages import parse
from bridge.queues import Patience, connect, decode, encode
from tests.installation import settings
from tests.servers import free_port, redis_process, running_redis, wait_until

MESSAGE = '{"EventType":"user_add_org","UserId":["张三","0042"],"CorpId":"dingcorp01","eventId":"e-1"}'.encode()


def event(message: bytes = MESSAGE) -> Event:
    return parse(message, "acme", "dingcorp01").events[0]


def config(url: str) -> Config:
    return Config.model_validate(settings(redis={"url": url}))


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with connect(config(redis_url), Patience.RECEIVER) as client:
        yield client


def fetch(connection: redis.Redis, job_id: str = "e-1") -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


class TestJob:
    def test_rq_reads_it(self, connection: redis.Redis) -> None:
        Acceptor(connection).accept([event()])
        job = fetch(connection)
        assert job.func_name == queues.EVENT_FUNCTION == "workers.batch.apply"
        (argument,) = job.args
        assert job.kwargs == {} and argument["payload"] == json.loads(MESSAGE) and argument["v"] == 1
        assert (argument["user_ids"], argument["corp_id"]) == (["张三", "0042"], "dingcorp01")
        assert job.get_status() is JobStatus.QUEUED
        assert (job.origin, job.description) == ("user_add_org", "user_add_org dingcorp… users=2")
        assert (job.timeout, job.result_ttl, job.failure_ttl) == (600, 600, 30 * 86400)
        assert job.created_at == job.enqueued_at and job.created_at.tzinfo is not None
        assert abs(job.created_at.timestamp() - time.time()) < 60

    def test_rqs_queue_lists_it(self, connection: redis.Redis) -> None:
        Acceptor(connection).accept([event()])
        queue = Queue("user_add_org", connection=connection, serializer=JSONSerializer)
        assert queue.job_ids == ["e-1"] and [job.id for job in queue.jobs] == ["e-1"]

    def test_every_queue_is_shown_also_while_it_is_empty(self, connection: redis.Redis) -> None:
        queues.show_queues(connection)
        found = Queue.all(connection=connection, serializer=JSONSerializer)
        assert {queue.name for queue in found} == set(queue_names())


class TestDecode:
    def test_what_was_encoded(self) -> None:
        again = decode(encode(event()))
        assert again == event() and bytes(again.payload) == MESSAGE

    def test_a_job_that_was_requeued_in_rqs_own_way(self, connection: redis.Redis) -> None:
        Acceptor(connection).accept([event()])
        connection.delete("rq:queue:user_add_org")
        job = fetch(connection)
        registry = FailedJobRegistry("user_add_org", connection=connection, serializer=JSONSerializer)
        job.set_status(JobStatus.FAILED)
        registry.add(job, ttl=60)
        registry.requeue("e-1")
        assert connection.lrange("rq:queue:user_add_org", 0, -1) == [b"e-1"]
        data = connection.hget("rq:job:e-1", "data")
        assert isinstance(data, bytes) and not data.startswith(b"[") and decode(data) == event()

    @pytest.mark.parametrize(
        "call",
        [
            ["os.system", None, ["true"], {}],
            ["os.system", None, [{}], {}],
            ["workers.batch.apply", "instance", ["EVENT"], {}],
            ["workers.batch.apply", None, ["EVENT"], {"x": 1}],
            ["workers.batch.apply", None, ["EVENT", "EVENT"], {}],
            ["workers.batch.apply", None, [], {}],
            ["workers.batch.apply.x", None, ["EVENT"], {}],
            [None, None, ["EVENT"], {}],
            {},
            None,
        ],
    )
    @pytest.mark.parametrize("pack", [bytes, zlib.compress])
    def test_any_other_call_is_refused(self, call: object, pack: type[bytes]) -> None:
        whole = json.loads(encode(event()))[2][0]
        data = json.dumps(call).replace('"EVENT"', json.dumps(whole)).encode()
        with pytest.raises(ValueError, match=r"not an event's job|the job names"):
            decode(pack(data))

    @pytest.mark.parametrize(
        "data", [b"", b"\x80\x04K\x01.", b"x\x9c broken", b'["\xff', zlib.compress(b"\xff"), b"[" * 90_000]
    )
    def test_no_json(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            decode(data)

    def test_another_version(self) -> None:
        with pytest.raises(ValueError, match="version 2; this worker knows version 1"):
            decode(encode(event()).replace(b'"v":1', b'"v":2'))


def seconds_to_fail(url: str) -> float:
    """How long the receiver waits for a server that is not there."""
    with connect(config(url), Patience.RECEIVER) as client:
        begun = time.perf_counter()
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            client.ping()
        return time.perf_counter() - begun


@contextmanager
def hung() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@contextmanager
def blackhole() -> Iterator[int]:
    """A port on which no connection is ever taken: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for filler in fillers:
            filler.close()


class TestPatience:
    def test_a_refused_connection_fails_at_once(self, tmp_path: Path) -> None:
        assert seconds_to_fail(f"redis://127.0.0.1:{free_port()}") < 0.1
        assert seconds_to_fail(f"unix://{tmp_path}/none.sock") < 0.1

    def test_a_server_that_hangs_is_given_up_after_one_read(self) -> None:
        with hung() as number:
            assert 0.05 < seconds_to_fail(f"redis://127.0.0.1:{number}") < 0.25

    def test_a_server_that_cannot_be_reached_is_given_up_after_one_connect(self) -> None:
        with blackhole() as number:
            assert 0.03 < seconds_to_fail(f"redis://127.0.0.1:{number}") < 0.2

    def test_sentinels_that_are_away_hold_nobody_up(self) -> None:
        ports = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
        assert seconds_to_fail(f"redis+sentinel://{ports}/main") < 0.2
        with hung() as number:
            assert seconds_to_fail(f"redis+sentinel://127.0.0.1:{number}/main") < 0.25

    def test_a_worker_tries_again(self) -> None:
        port = free_port()
        with connect(config(f"redis://127.0.0.1:{port}"), Patience.WORKER) as client:
            begun = time.perf_counter()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            assert time.perf_counter() - begun > 0.1


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://127.0.0.1/0?socket_timeout=30&socket_connect_timeout=30&retry_on_error=x",
            "unix:///nowhere?socket_timeout=30&socket_connect_timeout=30",
            "redis+sentinel://127.0.0.1/main?socket_timeout=30&socket_connect_timeout=30",
        ],
    )
    def test_our_patience_wins(self, url: str) -> None:
        with connect(config(url), Patience.RECEIVER) as client:
            given = client.connection_pool.connection_kwargs
            connect_seconds, read_seconds, retries = Patience.RECEIVER.value
            assert (given["socket_connect_timeout"], given["socket_timeout"]) == (connect_seconds, read_seconds)
            assert given["retry"].get_retries() == retries and given["retry_on_error"] == [redis.ReadOnlyError]

    def test_a_server_that_hangs_is_given_up_whatever_the_url_says(self) -> None:
        with hung() as number:
            assert seconds_to_fail(f"redis://127.0.0.1:{number}?socket_timeout=30") < 0.25

    @pytest.mark.parametrize("scheme", ["redis", "redis+sentinel"])
    def test_its_options_have_their_own_types(self, scheme: str) -> None:
        url = f"{scheme}://u:p%40ss@h/3?health_check_interval=30&socket_keepalive=false&client_name=us"
        with connect(config(url), Patience.RECEIVER) as client:
            given = client.connection_pool.connection_kwargs
            assert (given["health_check_interval"], given["socket_keepalive"], given["client_name"]) == (
                30,
                False,
                "us",
            )
            assert (given["username"], given["password"]) == ("u", "p@ss")

    @pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis://h?protocol=3", "redis+sentinel://h"])
    def test_no_server_can_raise_our_patience(self, url: str) -> None:
        """As Redis Cloud does while it is being maintained."""
        with connect(config(url), Patience.RECEIVER) as client:
            found = client.connection_pool.make_connection().maint_notifications_config
            assert not (found and found.enabled)


class TestDemoted:
    """A master that has become a replica keeps its connections; its name leads to the new one."""

    @pytest.fixture
    def fail_over(self, tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
        with redis_process() as old, redis_process() as new:
            name = tmp_path / "redis.sock"
            name.symlink_to(old.path)

            def act() -> None:
                with redis.Redis.from_url(old.url) as client:
                    client.replicaof("127.0.0.1", free_port())
                name.unlink()
                name.symlink_to(new.path)

            yield f"unix://{name}", act

    def test_it_is_left_for_the_new_one(self, fail_over: tuple[str, Callable[[], None]]) -> None:
        url, act = fail_over
        with connect(config(url), Patience.RECEIVER) as client:
            client.set("key", "old")
            act()
            with pytest.raises(redis.ReadOnlyError):
                client.set("key", "new")
            assert client.set("key", "new")

    def test_a_worker_does_not_even_notice(self, fail_over: tuple[str, Callable[[], None]]) -> None:
        url, act = fail_over
        with connect(config(url), Patience.WORKER) as client:
            client.set("key", "old")
            act()
            assert client.set("key", "new")

    def test_events_go_to_the_new_one_at_the_second_try(self, fail_over: tuple[str, Callable[[], None]]) -> None:
        url, act = fail_over
        with connect(config(url), Patience.RECEIVER) as client:
            acceptor = Acceptor(client)
            assert acceptor.accept([event()]) == [True]
            act()
            with pytest.raises(NotDurable, match="ReadOnlyError"):
                acceptor.accept([event()])
            assert [acceptor.accept([event()]) for _ in range(3)] == [[True], [False], [False]]

    def test_before_redis_7_too(
        self, fail_over: tuple[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There a script's error is its own, and quotes the server's."""
        url, act = fail_over

        def refuse(*_: object) -> None:
            raise redis.ResponseError("Error running script (call to f_1): @user_script:9: -READONLY You can't write")

        with connect(config(url), Patience.RECEIVER) as client:
            acceptor = Acceptor(client)
            assert acceptor.accept([event()]) == [True]
            act()
            with monkeypatch.context() as older:
                older.setattr(redis.Redis, "evalsha", refuse)
                with pytest.raises(NotDurable):
                    acceptor.accept([event()])
            assert acceptor.accept([event()]) == [True]


@contextmanager
def sentinel(folder: Path, master: int, service: str) -> Iterator[int]:
    """The port of a real sentinel that watches a master."""
    port = free_port()
    path = folder / "sentinel.conf"
    path.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor {service} 127.0.0.1 {master} 1\n")
    process = subprocess.Popen([embedded.program(), str(path), "--sentinel"], stdout=subprocess.DEVNULL, cwd=folder)
    probe = redis.Redis(port=port, retry=embedded.NO_RETRY)

    def knows() -> bool:
        try:
            return bool(probe.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", service))
        except redis.RedisError:
            return False

    try:
        wait_until(knows, what="the sentinel")
        yield port
    finally:
        probe.close()
        process.terminate()
        process.wait(10)


class TestSentinel:
    def test_it_leads_to_the_master(self, tmp_path: Path) -> None:
        master, gone = free_port(), free_port()
        with running_redis("--port", str(master)), sentinel(tmp_path, master, "main") as number:
            url = f"redis+sentinel://127.0.0.1:{gone},127.0.0.1:{number}/main/3"
            with connect(config(url), Patience.RECEIVER) as client:
                assert Acceptor(client).accept([event()]) == [True]
                assert client.connection_pool.connection_kwargs["db"] == 3
            with connect(config(url.removesuffix("3") + "?db=3&socket_timeout=1"), Patience.RECEIVER) as client:
                assert Acceptor(client).accept([event()]) == [False]
            with redis.Redis(port=master, db=3) as direct:
                assert direct.lrange("rq:queue:user_add_org", 0, -1) == [b"e-1"]
            unknown = connect(config(url.replace("/main/", "/other/")), Patience.RECEIVER)
            with unknown as client, pytest.raises(redis.ConnectionError):
                client.ping()

    def test_a_master_with_a_user_and_a_password(self, tmp_path: Path) -> None:
        master = free_port()
        user = ("--user", "bridge", "on", ">p@ss", "~*", "&*", "+@all")
        with (
            running_redis("--port", str(master), *user),
            sentinel(tmp_path, master, "mymaster") as number,
            connect(config(f"redis+sentinel://bridge:p%40ss@127.0.0.1:{number}"), Patience.RECEIVER) as client,
        ):
            assert client.acl_whoami() == "bridge"

    @pytest.mark.parametrize(
        ("hosts", "addresses"),
        [
            ("a", [("a", 26379)]),
            ("a:1,b,c:3", [("a", 1), ("b", 26379), ("c", 3)]),
            ("[::1]:1,[::2]", [("::1", 1), ("::2", 26379)]),
        ],
    )
    def test_its_addresses(self, hosts: str, addresses: list[tuple[str, int]]) -> None:
        with connect(config(f"redis+sentinel://{hosts}/main"), Patience.RECEIVER) as client:
            sentinels = client.connection_pool.sentinel_manager.sentinels
            given = [one.connection_pool.connection_kwargs for one in sentinels]
            assert [(kwargs["host"], kwargs["port"]) for kwargs in given] == addresses
