"""Waits grow, end, and hold for names and networks."""

import redis

from ops.console.throttle import FREE_ATTEMPTS, WAIT_SECONDS, Throttle


def test_waits_double_up_to_the_longest(connection: redis.Redis) -> None:
    throttle, waits = Throttle(connection), []
    for _ in range(FREE_ATTEMPTS + 8):
        assert throttle.attempt("admin", "192.0.2.1") == 0
        keys = list(connection.scan_iter("bridge:console:wait:*"))
        waits.append(throttle.attempt("admin", "192.0.2.1") if keys else 0)
        connection.delete("none", *keys)  # as if it had been waited out
    first, most = WAIT_SECONDS
    assert waits[: FREE_ATTEMPTS - 1] == [0] * (FREE_ATTEMPTS - 1)
    grown = waits[FREE_ATTEMPTS - 1 :]
    assert grown[:4] == [first, 2 * first, 4 * first, 8 * first]
    assert grown[-1] == most


def test_everything_is_forgotten_in_time(connection: redis.Redis) -> None:
    throttle = Throttle(connection)
    for _ in range(FREE_ATTEMPTS):
        throttle.attempt("x" * 100_000, "2001:db8::1")
    keys = list(connection.scan_iter("bridge:console:*"))
    assert len(keys) == 4
    assert all(0 < connection.ttl(key) <= 3600 and len(key) < 80 for key in keys)


def test_one_ipv6_network_is_one_address(connection: redis.Redis) -> None:
    throttle = Throttle(connection)
    for number in range(FREE_ATTEMPTS):
        assert throttle.attempt(f"name{number}", f"2001:db8::{number}") == 0
    assert throttle.attempt("another", "2001:db8::ffff") > 0
    assert throttle.attempt("another", "2001:db8:0:1::1") == 0
    assert throttle.attempt("another", "no address at all") == 0


def test_an_ipv4_address_in_ipv6_is_that_address(connection: redis.Redis) -> None:
    throttle = Throttle(connection)
    for number in range(FREE_ATTEMPTS):
        assert throttle.attempt(f"name{number}", "::ffff:192.0.2.1") == 0
    assert throttle.attempt("another", "192.0.2.1") > 0
    assert throttle.attempt("another", "::ffff:192.0.2.2") == 0
