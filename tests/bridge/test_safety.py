"""Whether a Redis can be trusted: by INFO alone, with the mend for each fault."""

import pytest
import redis

from bridge import safety
from bridge.errors import RedisUnusable
from tests.servers import running_redis


def test_the_embedded_settings_are_trusted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert safety.examine(client) == []
        safety.check(client, accept_unsafe=False)


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        (("--appendonly", "no"), "appendonly yes"),
        (("--maxmemory-policy", "allkeys-lru"), "noeviction"),
    ],
)
def test_a_setting_that_can_lose_events_is_refused_with_its_mend(options: tuple[str, ...], mend: str) -> None:
    with running_redis(*options) as url, redis.Redis.from_url(url) as client:
        with pytest.raises(RedisUnusable, match=mend):
            safety.check(client, accept_unsafe=False)
        safety.check(client, accept_unsafe=True)


def test_a_replica_is_refused() -> None:
    with running_redis() as url, redis.Redis.from_url(url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert any("replica" in finding.text for finding in safety.examine(client))
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert safety.examine(client) == []


def test_a_redis_that_is_too_old_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "OLDEST_VERSION", (99, 0))
    with redis.Redis.from_url(redis_url) as client, pytest.raises(RedisUnusable, match="too old"):
        safety.check(client, accept_unsafe=False)


def test_a_memory_that_is_nearly_full_is_told_but_not_refused(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1000)
        (finding,) = safety.examine(client)
        assert not finding.fatal
        safety.check(client, accept_unsafe=False)
        client.config_set("maxmemory", 0)
