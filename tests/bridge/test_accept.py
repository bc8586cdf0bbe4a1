"""Once accepted, an event is there: once, stamped, whatever is killed; and refused events leave nothing behind."""

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import redis
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
from rq.serializers import JSONSerializer

from bridge import accept, embedded, queues
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.messages import parse
from bridge.queues import Patience
from tests.installation import settings
from tests.servers import running_redis, wait_until

QUEUE = "rq:queue:user_add_org"


def event(event_id: str = "e-1", event_type: str = "user_add_org") -> Event:
    message = b'{"EventType":"%s","UserId":["a"],"eventId":"%s"}' % (event_type.encode(), event_id.encode())
    return parse(message, "acme", "dingcorp01").events[0]


def client(url: str) -> redis.Redis:
    return queues.connect(Config.model_validate(settings(redis={"url": url})), Patience.WORKER)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with client(redis_url) as found:
        yield found


@pytest.fixture
def acceptor(connection: redis.Redis) -> Acceptor:
    return Acceptor(connection)


def waiting(connection: redis.Redis, queue: str = QUEUE) -> list[str]:
    return [name.decode() for name in connection.lrange(queue, 0, -1)]


def take(connection: redis.Redis, status: str) -> Job:
    """What a worker does to the one waiting job."""
    job_id = connection.lpop(QUEUE).decode()
    job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    job.set_status(JobStatus(status))
    return job


class TestNewEvents:
    def test_one_call_makes_it_durable(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        assert acceptor.accept([event()]) == [True]
        assert waiting(connection) == ["e-1"]
        assert connection.smembers("rq:queues") == {QUEUE.encode()}
        data = connection.hget("rq:job:e-1", "data")
        assert isinstance(data, bytes) and queues.decode(data) == event()

    def test_nothing_accepted_is_nothing_done(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        assert acceptor.accept([]) == []
        assert connection.dbsize() == 0

    def test_the_stamp_is_redis_time_and_its_life(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        def now() -> int:
            seconds, micros = connection.time()
            return seconds * 1_000_000 + micros

        before = now()
        acceptor.accept([event(), event("e-2")])
        first, second = (connection.hmget(f"rq:job:{job}", "stamp", "life") for job in ("e-1", "e-2"))
        assert before <= int(first[0]) == int(second[0]) <= now()
        assert first[1].decode() == connection.info("server")["run_id"]

    def test_another_life_after_a_restart(self) -> None:
        lives = set()
        for _ in range(2):
            with running_redis() as url, client(url) as found:
                Acceptor(found).accept([event()])
                lives.add(found.hget("rq:job:e-1", "life"))
        assert len(lives) == 2 and all(re.fullmatch(rb"[0-9a-f]{40}", life) for life in lives)

    def test_the_order_is_kept(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        batch = [event(f"e-{number}") for number in range(300)]
        assert acceptor.accept(batch) == [True] * 300
        assert waiting(connection) == [made.id for made in batch]

    def test_more_than_a_call_inside_redis_can_take_enter_all_the_same(
        self, connection: redis.Redis, acceptor: Acceptor
    ) -> None:
        batch = [event(f"e-{number}") for number in range(9000)]
        assert acceptor.accept(batch) == [True] * 9000
        ids = [made.id.encode() for made in batch]
        for key in (QUEUE, "bridge:lane:user_add_org:dingcorp01"):
            assert connection.lrange(key, 0, -1) == ids
        assert connection.lrange("bridge:lanes:user_add_org", 0, -1) == [b"dingcorp01"]
        assert connection.hget(accept.ACCEPTED_KEY, "user_add_org") == b"9000"

    def test_types_and_corps_in_turn_each_stand_in_their_lanes_in_order(
        self, connection: redis.Redis, acceptor: Acceptor
    ) -> None:
        corps, types = ("c2", "c1"), ("user_add_org", "org_dept_create")
        acceptor.accept([msgspec.structs.replace(event("first"), corp_id="c1")])
        batch = [
            msgspec.structs.replace(event(f"e-{number}", types[number // 2 % 2]), corp_id=corps[number % 2])
            for number in range(12)
        ]
        assert acceptor.accept(batch) == [True] * 12
        for queue in types:
            mine = [made for made in batch if made.type == queue]
            before = ["first"] if queue == "user_add_org" else []
            assert sorted(waiting(connection, f"rq:queue:{queue}")) == sorted(before + [made.id for made in mine])
            order = [b"c1", b"c2"] if before else [b"c2", b"c1"]
            assert connection.lrange(f"bridge:lanes:{queue}", 0, -1) == order
            for corp in corps:
                lane = [made.id.encode() for made in mine if made.corp_id == corp]
                known = [b"first"] if before and corp == "c1" else []
                assert connection.lrange(f"bridge:lane:{queue}:{corp}", 0, -1) == known + lane

    def test_each_type_has_its_queue_and_unknown_ones_share_one(
        self, connection: redis.Redis, acceptor: Acceptor
    ) -> None:
        kinds = ["user_add_org", "org_dept_create", "bpms_task_change", "check_in"]
        acceptor.accept([event(f"e-{kind}", kind) for kind in kinds])
        assert waiting(connection, "rq:queue:org_dept_create") == ["e-org_dept_create"]
        assert waiting(connection, "rq:queue:other") == ["e-bpms_task_change", "e-check_in"]
        assert not connection.exists("rq:queue:check_in")
        counts = {b"user_add_org": b"1", b"org_dept_create": b"1", b"other": b"2"}
        assert connection.hgetall(accept.ACCEPTED_KEY) == counts
        assert connection.hgetall(accept.LAST_KEY).keys() == counts.keys()

    def test_an_id_that_rq_does_not_allow(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        assert acceptor.accept([event("a/b"), event("a b"), event("a/b")]) == [True, True, False]
        assert all(re.fullmatch("[0-9a-f]{64}", job) for job in waiting(connection))

    def test_a_script_that_redis_forgot(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        acceptor.accept([event()])
        connection.script_flush()
        assert acceptor.accept([event("e-2")]) == [True]

    def test_each_new_event_wakes_a_worker_of_its_queue(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        wake = accept.WAKE_PREFIX + "user_add_org"
        acceptor.accept([event("e-1")])
        acceptor.accept([event("e-1")])
        assert connection.keys(f"{accept.WAKE_PREFIX}*") == [wake.encode()]
        assert connection.llen(wake) == 1

    def test_the_wake_list_is_bounded(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        for hundred in range(3):
            acceptor.accept([event(f"e-{hundred}-{number}") for number in range(100)])
        assert connection.llen(accept.WAKE_PREFIX + "user_add_org") == accept.WAKE_LIMIT


class TestRepeats:
    def test_a_repeat_is_dropped(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        assert [acceptor.accept([event()]) for _ in range(3)] == [[True], [False], [False]]
        assert waiting(connection) == ["e-1"]
        assert connection.hget(accept.ACCEPTED_KEY, "user_add_org") == b"1"

    def test_inside_one_batch(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        assert acceptor.accept([event("a"), event("b"), event("a"), event("c")]) == [True, True, False, True]
        assert waiting(connection) == ["a", "b", "c"]

    @pytest.mark.parametrize("status", ["started", "finished", "failed"])
    def test_whatever_became_of_the_first(self, connection: redis.Redis, acceptor: Acceptor, status: str) -> None:
        acceptor.accept([event()])
        take(connection, status)
        assert acceptor.accept([event()]) == [False]
        assert waiting(connection) == []

    def test_also_once_its_job_is_gone(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        acceptor.accept([event()])
        take(connection, "finished").delete()
        assert acceptor.accept([event()]) == [False]

    def test_the_window_is_a_day(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        acceptor.accept([event()])
        assert 86_390 <= connection.ttl("bridge:seen:e-1") <= 86_400
        connection.pexpire("bridge:seen:e-1", 1)
        wait_until(lambda: not connection.exists("bridge:seen:e-1"))
        assert acceptor.accept([event()]) == [False]  # it still waits
        take(connection, "finished").delete()
        connection.delete("bridge:seen:e-1")
        assert acceptor.accept([event()]) == [True]

    def test_a_repeat_does_not_lengthen_the_window(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        acceptor.accept([event()])
        connection.expire("bridge:seen:e-1", 100)
        acceptor.accept([event()])
        assert connection.ttl("bridge:seen:e-1") <= 100

    def test_of_many_at_the_same_time_one_wins(self, redis_url: str, connection: redis.Redis) -> None:
        def attempt(_: int) -> list[bool]:
            with client(redis_url) as own:
                return Acceptor(own).accept([event()])

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(attempt, range(40)))
        assert outcomes.count([True]) == 1 and waiting(connection) == ["e-1"]


class TestAgain:
    @pytest.mark.parametrize("status", ["queued", "started", "scheduled"])
    def test_what_still_waits_is_never_doubled(self, connection: redis.Redis, acceptor: Acceptor, status: str) -> None:
        acceptor.accept([event()])
        stamp = connection.hget("rq:job:e-1", "stamp")
        if status != "queued":
            job = take(connection, status)
            if status == "scheduled":
                registry = ScheduledJobRegistry("user_add_org", connection=connection, serializer=JSONSerializer)
                registry.schedule(job, job.created_at)
        before = waiting(connection)
        assert acceptor.accept([event()], again=True) == [False]
        assert waiting(connection) == before
        assert connection.hget("rq:job:e-1", "stamp") == stamp

    @pytest.mark.parametrize(("status", "kind"), [("failed", FailedJobRegistry), ("finished", FinishedJobRegistry)])
    def test_what_has_ended_is_fed_in_anew(
        self,
        connection: redis.Redis,
        acceptor: Acceptor,
        status: str,
        kind: type[FailedJobRegistry | FinishedJobRegistry],
    ) -> None:
        acceptor.accept([event()])
        job = take(connection, status)
        registry = kind("user_add_org", connection=connection, serializer=JSONSerializer)
        registry.add(job, ttl=600)
        connection.hset("rq:job:e-1", "exc_info", "boom")
        connection.expire("rq:job:e-1", 600)
        assert acceptor.accept([event()], again=True) == [True]
        assert waiting(connection) == ["e-1"] and registry.get_job_ids(cleanup=False) == []
        assert connection.ttl("rq:job:e-1") == -1 and not connection.hexists("rq:job:e-1", "exc_info")
        assert Job.fetch("e-1", connection=connection, serializer=JSONSerializer).get_status() is JobStatus.QUEUED

    def test_what_is_long_gone(self, connection: redis.Redis, acceptor: Acceptor) -> None:
        acceptor.accept([event()])
        take(connection, "finished").delete()
        assert acceptor.accept([event()], again=True) == [True]
        assert acceptor.accept([event()]) == [False]
        assert waiting(connection) == ["e-1"]


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that syncs each write, whose files stay when it goes."""
    path = folder / "redis.sock"
    settings_ = embedded.SETTINGS | {"appendfsync": "always", "dir": str(folder), "unixsocket": str(path)}
    command = [embedded.program()]
    for name, value in settings_.items():
        command += [f"--{name}", value]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: embedded.answers(path), what="Redis")
        yield process, f"unix://{path}"
    finally:
        process.kill()
        process.wait(10)


class TestKills:
    def test_nothing_acknowledged_is_lost_and_nothing_is_half_written(self, tmp_path: Path) -> None:
        acknowledged: list[str] = []
        numbers = itertools.count()

        def send(url: str) -> None:
            with queues.connect(Config.model_validate(settings(redis={"url": url})), Patience.RECEIVER) as own:
                acceptor = Acceptor(own)
                while True:
                    batch = [event(f"e-{next(numbers)}") for _ in range(3)]
                    try:
                        acceptor.accept(batch)
                    except NotDurable:
                        return
                    acknowledged.extend(made.id for made in batch)

        with server(tmp_path) as (process, url):
            senders = [threading.Thread(target=send, args=(url,)) for _ in range(4)]
            for sender in senders:
                sender.start()
            wait_until(lambda: len(acknowledged) > 300, what="three hundred events")
            os.kill(process.pid, signal.SIGKILL)
            for sender in senders:
                sender.join(10)
                assert not sender.is_alive()
        with server(tmp_path) as (_, url), client(url) as found:
            there = waiting(found)
            assert set(acknowledged) <= set(there) and len(there) == len(set(there))
            for job in there:
                assert found.exists(f"rq:job:{job}", f"bridge:seen:{job}") == 2
            # Some were written and could not be acknowledged any more; all are jobs, marks and counts alike.
            assert found.hget(accept.ACCEPTED_KEY, "user_add_org") == str(len(there)).encode()
            assert len(found.keys("rq:job:*")) == len(found.keys("bridge:seen:*")) == len(there)


class TestNotDurable:
    def test_when_redis_is_away(self, tmp_path: Path) -> None:
        away = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=embedded.NO_RETRY)
        with pytest.raises(NotDurable, match="Redis did not take the event: ConnectionError"):
            Acceptor(away).accept([event()])

    def test_when_redis_has_no_room(self) -> None:
        with running_redis("--maxmemory", "1mb") as url, client(url) as found:
            acceptor = Acceptor(found)
            assert found.config_set("maxmemory", 1)
            with pytest.raises(NotDurable):
                acceptor.accept([event()])
            assert found.dbsize() == 0
            assert found.config_set("maxmemory", 0)
            assert acceptor.accept([event()]) == [True]

    def test_when_redis_hangs(self) -> None:
        with running_redis() as url:
            with client(url) as found:
                pid = found.info("server")["process_id"]
            receiver = Acceptor(queues.connect(Config.model_validate(settings(redis={"url": url})), Patience.RECEIVER))
            receiver.accept([event()])
            os.kill(pid, signal.SIGSTOP)
            try:
                begun = time.perf_counter()
                with pytest.raises(NotDurable, match="TimeoutError"):
                    receiver.accept([event("e-2")])
                assert time.perf_counter() - begun < 1
            finally:
                os.kill(pid, signal.SIGCONT)
