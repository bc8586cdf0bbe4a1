"""Events become durable in Redis, and in the spool while Redis is away; what was spooled reaches Redis."""

import errno
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from bridge import embedded, messages, spool
from bridge import intake as module
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.intake import Intake, drain
from bridge.misses import Misses
from bridge.queues import Patience, connect
from bridge.spool import Spool
from tests.installation import settings
from tests.servers import RedisServer, redis_process, wait_until

#: Seconds: the patience for Redis and its disk, on a machine that does other things too. Nobody may wait for longer.
SOON = 1.0


def event(number: int) -> Event:
    message = {"EventType": "user_add_org", "eventId": f"e{number}", "CorpId": "ding1", "userId": ["u"]}
    return messages.parse(json.dumps(message).encode(), "acme", None).events[0]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_process() as running:
        yield running


def idle(server: RedisServer, tmp_path: Path, patience: Patience = Patience.RECEIVER) -> Intake:
    """An intake whose drainer was not started."""
    config = Config.model_validate(settings(redis={"url": server.url}))
    return Intake(connect(config, patience), Spool(tmp_path / "spool"))


@pytest.fixture
def intake(server: RedisServer, tmp_path: Path) -> Iterator[Intake]:
    made = idle(server, tmp_path)
    made.start()
    yield made
    made.stop()


def waiting(server: RedisServer) -> list[str]:
    with redis.Redis.from_url(server.url) as client:
        return [job.decode() for job in client.lrange("rq:queue:user_add_org", 0, -1)]


def test_redis_takes_events_and_drops_repeats(intake: Intake, server: RedisServer) -> None:
    assert intake.take([event(1), event(2), event(1)]) == ["accepted", "accepted", "repeated"]
    assert waiting(server) == ["e1", "e2"]


def test_a_dead_redis_costs_no_event_and_what_was_spooled_is_drained_without_new_callbacks(
    intake: Intake, server: RedisServer
) -> None:
    assert intake.take([event(1)]) == ["accepted"]
    server.kill()
    begun = time.monotonic()
    assert intake.take([event(2)]) == ["spooled"]
    assert time.monotonic() - begun < SOON
    begun = time.monotonic()
    assert [intake.take([event(number)])[0] for number in range(3, 23)] == ["spooled"] * 20
    assert (time.monotonic() - begun) / 20 < 0.05
    assert intake.components() == {"redis": False, "spool": True}
    server.start()
    wait_until(lambda: len(waiting(server)) == 22, what="the spool to be drained")
    assert sorted(waiting(server)) == sorted(f"e{number}" for number in range(1, 23))


def test_a_paused_redis_is_waited_for_once_only(intake: Intake, server: RedisServer) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert intake.take([event(1)]) == ["spooled"]
        assert time.monotonic() - begun < SOON
        begun = time.monotonic()
        for number in range(2, 22):
            assert intake.take([event(number)]) == ["spooled"]
        assert (time.monotonic() - begun) / 20 < 0.05
    finally:
        server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(set(waiting(server))) == 21, what="the spool to be drained")
    # The first one may have reached Redis before it was given up: it is a repeat then, not a second event.
    assert len(waiting(server)) == 21


def test_a_redis_that_refuses_is_asked_again_at_once(server: RedisServer, tmp_path: Path) -> None:
    """It is not away: also before the drainer has looked, the next event goes there."""
    intake = idle(server, tmp_path, Patience.WORKER)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        assert intake.take([event(1)]) == ["spooled"]
        client.config_set("maxmemory", "0")
    assert intake.take([event(2)]) == ["accepted"]
    intake.start()
    wait_until(lambda: sorted(waiting(server)) == ["e1", "e2"], what="the spool to be drained")
    intake.stop()


def test_a_spooled_event_is_drained_at_once(
    intake: Intake, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis did not take it for a moment only; nothing else comes that would wake the drainer."""

    def refuse(*_: object) -> list[bool]:
        raise NotDurable("no room")

    with monkeypatch.context() as moment:
        moment.setattr(intake, "_accept", refuse)
        assert intake.take([event(1)]) == ["spooled"]
    wait_until(lambda: waiting(server) == ["e1"], module.LOOK_SECONDS / 2, "the spool to be drained")


def test_what_redis_refuses_while_it_is_drained_stays_and_is_drained_later(
    intake: Intake, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    tries: list[int] = []
    real = module.drain

    def drain(source: Spool, acceptor: Acceptor, give_way: Callable[[float], bool]) -> int:
        tries.append(1)
        return real(source, acceptor, give_way)

    monkeypatch.setattr(module, "drain", drain)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        assert intake.take([event(1)]) == ["spooled"]
        known = len(tries)
        wait_until(lambda: len(tries) > known + 2, what="the spool to be refused")
        assert waiting(server) == []
        client.config_set("maxmemory", "0")
    wait_until(lambda: waiting(server) == ["e1"], what="the spool to be drained")


def test_a_segment_is_deleted_only_when_redis_has_all_of_it(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_EVENTS", 2)
    source = Spool(tmp_path / "spool")
    source.add([event(number) for number in range(5)])
    at_work = threading.Lock()

    class Halfway(Acceptor):
        """Redis is killed after the first call."""

        def accept(self, batch: Sequence[Event], *, again: bool = False) -> list[bool]:
            with at_work:  # the batch beside it comes too late
                fresh = super().accept(batch, again=again)
                server.kill()
                return fresh

    with redis.Redis.from_url(server.url, retry=embedded.NO_RETRY) as client:
        with pytest.raises(NotDurable):
            drain(source, Halfway(client))
        assert len(list((tmp_path / "spool").glob("*.spool"))) == 1
        server.start()
        assert drain(source, Acceptor(client)) >= 3
    assert sorted(waiting(server)) == [f"e{number}" for number in range(5)]
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_comes_before_a_segments_torn_end_is_fed_in_also_where_the_end_cannot_be_kept(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    source = Spool(tmp_path / "spool")
    source.add([event(number) for number in range(200)])
    source.close()
    (segment,) = (tmp_path / "spool").iterdir()
    segment.write_bytes(segment.read_bytes() + b"torn")
    monkeypatch.setattr(spool, "_keep", full)
    with redis.Redis.from_url(server.url) as client:
        assert drain(Spool(tmp_path / "spool"), Acceptor(client)) == 192  # three batches that were whole
    assert segment.exists()
    assert len(waiting(server)) == 192


def test_a_drainer_that_is_told_to_stop_does_not_complain(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of its process it finds no threads."""
    asked = threading.Event()

    def no_threads(*_: object) -> int:
        asked.set()
        intake._stopping.wait(10)
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(module, "drain", no_threads)
    with capture_logs() as logs:
        intake.missed([])
        assert asked.wait(10)
        intake.stop()
        for thread in threading.enumerate():
            if thread.name == "drain":
                thread.join(10)
    assert [line for line in logs if line["log_level"] == "error"] == []


@pytest.mark.parametrize("callbacks", [True, False])
def test_the_drainer_gives_way_to_callbacks(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callbacks: bool
) -> None:
    spooled = Spool(tmp_path / "spool")
    spooled.add([event(number) for number in range(200)])
    spooled.close()
    intake = idle(server, tmp_path)
    accept = intake._acceptor.accept
    worked: list[float] = []
    rested: list[float] = []

    def rest(seconds: float) -> None:
        rested.append(seconds)
        intake.take([event(-1)])

    def accept_beside_callbacks(batch: Sequence[Event]) -> list[bool]:
        begun = time.monotonic()
        if callbacks:
            intake.take([event(-1)])
        new = accept(batch)
        worked.append(time.monotonic() - begun)
        return new

    monkeypatch.setattr(intake, "_accept", accept)  # by which callbacks come
    monkeypatch.setattr(intake._acceptor, "accept", accept_beside_callbacks)
    monkeypatch.setattr(intake._stopping, "wait", rest)
    intake.start()
    wait_until(lambda: not list((tmp_path / "spool").iterdir()), what="the spool to be drained")
    intake.stop()
    assert len(worked) == 4
    if callbacks:
        assert len(rested) == 4
        assert sum(rested) > 2 * sum(worked)
    else:
        assert rested == []


def test_a_segment_that_cannot_be_read_ends_no_drainer(
    intake: Intake, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    broken = tmp_path / "spool" / "0.spool"
    broken.mkdir(parents=True)
    orphan = Spool(tmp_path / "spool")
    orphan.add([event(1)])
    orphan.close()
    wait_until(lambda: waiting(server) == ["e1"], what="the other segment to be drained")
    assert broken.exists()


def test_whatever_happens_ends_no_drainer(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis was away and is back; the line about it cannot be written, and then there is no memory."""
    intake = idle(server, tmp_path)
    intake._away.set()
    intake._spool.add([event(1)])
    failed: list[str] = []
    real = module.drain

    def unwritable(*_: object) -> None:
        failed.append("line")
        raise OSError(errno.ENOSPC, "No space left on device")

    def drain(*arguments: Any) -> int:
        if len(failed) == 1:
            failed.append("memory")
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module.log, "info", unwritable)
    monkeypatch.setattr(module, "drain", drain)
    with capture_logs() as lines:
        intake.start()
        wait_until(lambda: waiting(server) == ["e1"], what="the spool to be drained")
    assert failed[:2] == ["line", "memory"]
    assert intake.take([event(2)]) == ["accepted"]  # it is not taken for away any more
    assert [line["event"] for line in lines][:2] == ["the drainer failed; it goes on"] * 2
    intake.stop()


def test_what_another_process_left_while_this_one_lives_is_drained_too(
    intake: Intake, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    intake.take([event(1)])
    orphan = Spool(tmp_path / "spool")
    orphan.add([event(2)])
    orphan.close()
    wait_until(lambda: waiting(server) == ["e1", "e2"], what="the orphan to be drained")


def test_without_redis_and_spool_nothing_is_acknowledged(server: RedisServer, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    config = Config.model_validate(settings(redis={"url": server.url}))
    with connect(config, Patience.RECEIVER) as connection:
        intake = Intake(connection, Spool(blocked / "spool"))
        server.kill()
        with pytest.raises(NotDurable):
            intake.take([event(1)])
        assert intake.components() == {"redis": False, "spool": False}
        # Nobody has found out yet that Redis is back; with no spool to go to, it is asked all the same.
        server.start()
        assert intake.take([event(1)]) == ["accepted"]


def test_a_blackholed_address_is_given_up_fast(tmp_path: Path) -> None:
    with socket.socket() as hole:  # it listens, and nobody ever accepts
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        config = Config.model_validate(settings(redis={"url": f"redis://127.0.0.1:{hole.getsockname()[1]}"}))
        intake = Intake(connect(config, Patience.RECEIVER), Spool(tmp_path / "spool"))
        begun = time.monotonic()
        assert intake.take([event(1)]) == ["spooled"]
        assert time.monotonic() - begun < SOON
        for filler in fillers:
            filler.close()


def test_an_earlier_process_left_events_and_they_are_drained_at_the_start(server: RedisServer, tmp_path: Path) -> None:
    earlier = Spool(tmp_path / "spool")
    earlier.add([event(7)])
    earlier.close()
    intake = idle(server, tmp_path)
    intake.start()
    wait_until(lambda: waiting(server) == ["e7"], what="the spool to be drained")
    wait_until(lambda: not list((tmp_path / "spool").glob("*.spool")), what="the segment to be deleted")
    intake.stop()


def test_a_miss_is_noted_once_redis_is_back(intake: Intake, server: RedisServer) -> None:
    server.kill()
    assert intake.take([event(1)]) == ["spooled"]
    intake.missed(["acme"])
    server.start()
    with redis.Redis.from_url(server.url) as client:
        wait_until(lambda: Misses(client).read().keys() == {"acme"}, what="the note")
    wait_until(lambda: waiting(server) == ["e1"], what="the spool to be drained")


def test_whether_it_is_ready_is_found_out_once_and_then_known(
    intake: Intake, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask a Redis whose name nobody resolves any more can take ten seconds, whatever the patience."""
    monkeypatch.setattr(Intake, "_answers", lambda _: False)
    server.kill()
    assert intake.components() == {"redis": False, "spool": True}

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("Redis was asked again")

    monkeypatch.setattr(intake._connection, "set", asked)
    assert intake.components() == {"redis": False, "spool": True}
    assert intake.take([event(1)]) == ["spooled"]
