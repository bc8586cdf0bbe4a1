"""Jobs are moved in one step, and each once."""

from concurrent.futures import ThreadPoolExecutor

import redis
from rq.utils import as_text

from bridge.accept import WAKE_LIMIT, WAKE_PREFIX
from ops.console.requeue import Requeuer
from tests.ops.console import sample


def test_two_who_requeue_the_same_put_it_back_once(connection: redis.Redis) -> None:
    sample.accept(connection, 200)
    ids = sample.fail(connection, 200, "no permission")
    requeuer = Requeuer(connection)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda _: requeuer.requeue_all("user_add_org", "failed"), range(8)))
    assert sum(moved) == 200
    assert sorted(as_text(item) for item in connection.lrange("rq:queue:user_add_org", 0, -1)) == sorted(ids)


def test_a_requeue_wakes_a_worker_that_waits(connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    sample.fail(connection, 1, "no permission")
    connection.delete(f"{WAKE_PREFIX}user_add_org")
    Requeuer(connection).requeue_all("user_add_org", "failed")
    assert connection.llen(f"{WAKE_PREFIX}user_add_org") == 1
    for _ in range(WAKE_LIMIT + 5):
        sample.fail(connection, 1, "again")
        Requeuer(connection).requeue_all("user_add_org", "failed")
    assert connection.llen(f"{WAKE_PREFIX}user_add_org") <= WAKE_LIMIT


def test_an_entry_whose_job_is_gone_is_dropped(connection: redis.Redis) -> None:
    connection.zadd("rq:failed:user_add_org", {"ghost": 4_000_000_000})
    assert Requeuer(connection).requeue_all("user_add_org", "failed") == 0
    assert not connection.exists("rq:failed:user_add_org", "rq:queue:user_add_org")


def test_a_job_that_was_accepted_anew_is_not_forgotten(connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    assert Requeuer(connection).forget("user_add_org", "failed", ["event-0"]) == 0
    assert connection.exists("rq:job:event-0")
