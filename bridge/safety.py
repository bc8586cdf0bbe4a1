"""Whether a Redis can be trusted with events: asked by INFO alone, as managed servers refuse CONFIG."""

from typing import Any, NamedTuple

import redis
import structlog

from bridge.errors import RedisUnusable

#: The oldest Redis whose commands we use.
OLDEST_VERSION = (6, 2)
#: Share of `maxmemory` in use above which there is too little head-room for a burst.
MEMORY_SHARE = 0.9

log = structlog.get_logger()


class Finding(NamedTuple):
    """A setting that is not as it should be, and the mend. A fatal one can lose events."""

    text: str
    fatal: bool


def check(connection: redis.Redis, accept_unsafe: bool) -> None:
    """Raises RedisUnusable where a setting can lose events, unless that is accepted; the rest is logged.

    Raises RedisError where Redis does not answer.
    """
    findings = examine(connection)
    fatal = [finding.text for finding in findings if finding.fatal]
    if fatal and not accept_unsafe:
        raise RedisUnusable("; ".join(fatal) + "; or set redis.accept_unsafe: true")
    for finding in findings:
        log.warning("Redis is not set up as it should be", finding=finding.text)


def examine(connection: redis.Redis) -> list[Finding]:
    """Every finding; empty for a Redis that loses nothing."""
    info: dict[str, Any] = connection.info()
    findings: list[Finding] = []
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST_VERSION:
        findings.append(Finding(f"Redis {info['redis_version']} is too old: use 6.2 or newer", True))
    if info.get("role") != "master":
        findings.append(Finding("this Redis is a replica, which takes no events: connect to its master", True))
    if not info.get("aof_enabled"):
        findings.append(Finding("Redis forgets events when it ends: set appendonly yes", True))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        findings.append(
            Finding(f"Redis drops events when memory runs out: set maxmemory-policy noeviction, not {policy}", True)
        )
    limit = int(info.get("maxmemory") or 0)
    if limit and int(info["used_memory"]) > limit * MEMORY_SHARE:
        findings.append(Finding("Redis' memory is nearly full, then events go to the spool: raise maxmemory", False))
    return findings
