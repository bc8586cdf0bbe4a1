"""Tokens in Redis: one refresher, bounded waiting, an early refresh, and no word of a token in a log."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from workers import tokens as module
from workers.errors import Misconfigured, Transient
from workers.tokens import Grant, Tokens


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


class Source:
    """Gives t1, t2, …; may be slow, and may fail."""

    def __init__(self, seconds: float = 7200, delay: float = 0.0) -> None:
        self.seconds = seconds
        self.delay = delay
        self.asked = 0
        self.failure: Exception | None = None

    def __call__(self) -> Grant:
        self.asked += 1
        number = self.asked
        time.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        return Grant(f"t{number}", self.seconds)


def test_one_asks_for_all(client: redis.Redis) -> None:
    """Four processes with eight threads each."""
    source = Source(delay=0.2)
    processes = [Tokens(client) for _ in range(4)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda number: processes[number % 4].get("acme", source), range(32)))
    assert set(found) == {"t1"}
    assert source.asked == 1


def test_a_fresh_token_needs_no_redis(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        tokens = Tokens(client)
        source = Source()
        tokens.get("acme", source)
        client.flushall()
        assert tokens.get("acme", source) == "t1"


def test_apps_have_their_own(client: redis.Redis) -> None:
    source = Source()
    tokens = Tokens(client)
    assert tokens.get("acme", source) == "t1"
    assert tokens.get("acme:corp", source) == "t2"
    assert tokens.get("acme", source) == "t1"


def test_it_lives_as_long_as_dingtalk_says(client: redis.Redis) -> None:
    Tokens(client).get("acme", Source(7200))
    assert 7190_000 < client.pttl("bridge:token:acme") <= 7200_000
    assert int(client.hget("bridge:token:acme", "margin") or 0) == 300_000


def test_a_token_about_to_end_is_replaced(client: redis.Redis) -> None:
    source = Source()
    Tokens(client).get("acme", source)
    client.pexpire("bridge:token:acme", 299_000)
    assert Tokens(client).get("acme", source) == "t2"


def test_while_one_refreshes_the_old_token_serves(client: redis.Redis) -> None:
    source = Source()
    Tokens(client).get("acme", source)
    client.pexpire("bridge:token:acme", 299_000)
    client.set("bridge:refresh:acme", "another", ex=20)
    assert Tokens(client).get("acme", source) == "t1"
    assert source.asked == 1


def test_a_failed_early_refresh_is_no_harm(client: redis.Redis) -> None:
    source = Source()
    Tokens(client).get("acme", source)
    client.pexpire("bridge:token:acme", 299_000)
    source.failure = Transient("timeout")
    assert Tokens(client).get("acme", source) == "t1"
    assert client.get("bridge:refresh:acme") is None


def test_a_short_lived_token_is_used_for_half_its_life(client: redis.Redis) -> None:
    source = Source(seconds=0.6)
    tokens = Tokens(client)
    assert [tokens.get("acme", source) for _ in range(3)] == ["t1"] * 3
    time.sleep(0.4)
    assert tokens.get("acme", source) == "t2"


def test_discard_spares_a_newer_token(client: redis.Redis) -> None:
    source = Source()
    one, two = Tokens(client), Tokens(client)
    assert one.get("acme", source) == two.get("acme", source) == "t1"
    one.discard("acme", "t1")
    assert one.get("acme", source) == "t2"
    two.discard("acme", "t1")
    assert two.get("acme", source) == "t2"
    assert one.get("acme", source) == "t2"
    assert source.asked == 2


def test_a_failure_reaches_all_who_wait_at_one_price(client: redis.Redis) -> None:
    source = Source(delay=0.2)
    source.failure = Misconfigured("40089", "bad secret", "/gettoken")
    tokens = Tokens(client)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(tokens.get, "acme", source) for _ in range(16)]
    assert {type(one.exception()) for one in waiting} == {Misconfigured}
    assert source.asked == 1
    assert client.get("bridge:refresh:acme") is None


def test_after_a_failure_it_asks_again(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILURE_SECONDS", 0.05)
    source = Source()
    source.failure = Transient("timeout")
    tokens = Tokens(client)
    with pytest.raises(Transient):
        tokens.get("acme", source)
    source.failure = None
    time.sleep(0.06)
    assert tokens.get("acme", source) == "t2"


def test_a_dead_refresher_is_outlived(client: redis.Redis) -> None:
    client.set("bridge:refresh:acme", "died", px=300)
    assert Tokens(client).get("acme", Source()) == "t1"


def test_waiting_is_bounded(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    client.set("bridge:refresh:acme", "hangs", ex=60)
    with pytest.raises(Transient, match="too long"):
        Tokens(client).get("acme", Source())


def test_a_late_refresher_replaces_nothing(client: redis.Redis) -> None:
    """Taken for dead while it asked; meanwhile another has put a newer token."""
    slow, quick = Source(delay=0.5), Source()
    quick.asked = 10
    late = threading.Thread(target=Tokens(client).get, args=("acme", slow))
    late.start()
    while client.get("bridge:refresh:acme") is None:
        time.sleep(0.005)
    client.delete("bridge:refresh:acme")
    assert Tokens(client).get("acme", quick) == "t11"
    late.join(10)
    assert Tokens(client).get("acme", quick) == "t11"


def test_clients_that_decode_do_too(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        source = Source()
        Tokens(client).get("acme", source)
        assert Tokens(client).get("acme", source) == "t1"


def test_a_token_is_in_no_repr(client: redis.Redis) -> None:
    tokens = Tokens(client)
    tokens.get("acme", lambda: Grant("very-secret", 7200))
    assert "very-secret" not in repr(vars(tokens))
    assert "very-secret" not in repr(Grant("very-secret", 7200))
