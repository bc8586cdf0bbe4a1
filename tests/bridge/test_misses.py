"""Missed callbacks are noted by spells, each app for itself."""

from collections.abc import Iterator

import pytest
import redis

from bridge.misses import MISSES_KEY, QUIET, Miss, Misses


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def now(connection: redis.Redis) -> int:
    seconds, micros = connection.time()
    return int(seconds) * 1_000_000 + int(micros)


def test_a_spell_begins_with_its_first_miss_and_ends_with_its_last(connection: redis.Redis) -> None:
    misses = Misses(connection)
    assert misses.read() == {}
    before = now(connection)
    misses.note(["acme", "shop"])
    first = misses.read()
    assert first.keys() == {"acme", "shop"}
    assert before <= first["acme"].first == first["acme"].last <= now(connection)
    misses.note(["acme"])
    second = misses.read()
    assert second["acme"].first == first["acme"].first < second["acme"].last
    assert second["shop"] == first["shop"]
    assert connection.ttl(MISSES_KEY) > 0


def test_after_a_quiet_time_another_spell_begins(connection: redis.Redis) -> None:
    misses = Misses(connection)
    long_ago = now(connection) - QUIET - 1_000_000
    connection.hset(MISSES_KEY, "acme", f"{long_ago - 1} {long_ago}")
    assert misses.read() == {"acme": Miss(long_ago - 1, long_ago)}
    misses.note(["acme"])
    spell = misses.read()["acme"]
    assert spell.first == spell.last > long_ago + QUIET
