"""The shared budget: never too much in any second, pauses for all, bulk copies last, clocks that step."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import redis

from workers.budget import LATE_US, QUIET_SECONDS, Budget, paused
from workers.errors import QuotaSpent, Throttled

CALL = "/topapi/v2/user/get"
SLOTS = f"bridge:budget:slots:acme:{CALL}"
BULK = f"bridge:budget:bulk:acme:{CALL}"


class Watched(redis.Redis):
    """Remembers the times that the budget's script gave out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given: set[int] = set()
        self.times: list[int] = []
        self.looks = 0
        #: Seconds by which the next answer comes late, and those after it.
        self.late = self.always_late = 0.0

    def evalsha(self, sha: str, numkeys: int, *args: Any) -> Any:
        answer = super().evalsha(sha, numkeys, *args)
        late, self.late = self.late, self.always_late
        time.sleep(late)
        self.looks += 1
        held = args[-1]
        if isinstance(answer, list) and answer[1] and answer[1] != held:
            self.times.append(answer[1])
        return answer


@pytest.fixture
def connect(redis_url: str) -> Iterator[Callable[[], Watched]]:
    """A client as each host has its own."""
    clients: list[Watched] = []

    def connected() -> Watched:
        client = Watched(connection_pool=redis.ConnectionPool.from_url(redis_url))
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.connection_pool.disconnect()


def seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def call(budget: Budget, times: int) -> None:
    for _ in range(times):
        budget.acquire("acme", CALL)


def most_within(times: list[float], span: float) -> int:
    times = sorted(times)
    return max(sum(begin <= one < begin + span for one in times) for begin in times)


def step_clock(client: redis.Redis, step: float) -> None:
    """As if Redis' clock stepped by `step` seconds: the budget adds its shift to what the clock tells."""
    client.hincrby("bridge:budget", "shift", int(step * 1_000_000))


@pytest.mark.parametrize("per_second", [1, 2, 15, 50])
def test_no_second_has_more_than_its_calls(connect: Callable[[], Watched], per_second: int) -> None:
    """Several hosts, each with several threads; some live, some in bulk."""
    clients = [connect() for _ in range(3)]
    budgets = [Budget(client, per_second) for client in clients]
    made: list[float] = []
    end = time.monotonic() + 2.3

    def calls(number: int) -> None:
        with suppress(Throttled):
            while True:
                budgets[number % 3].acquire("acme", CALL, live=number % 4 != 0, deadline=end)
                made.append(time.time())

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(calls, range(12)))
    given = [slot / 1e6 for client in clients for slot in client.times]
    assert most_within(given, 1.0) <= per_second
    assert len(made) >= 2 * per_second
    assert most_within(made, 0.9) <= per_second + max(1, per_second // 3)


def test_a_burst_is_a_third_of_the_second(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 15)
    call(budget, 5)
    assert client.times[-1] - client.times[0] < 250_000
    assert seconds(lambda: call(budget, 10)) > 0.4
    given = [slot / 1e6 for slot in client.times]
    assert most_within(given, 1 / 3) == 5


def test_apps_and_apis_do_not_share(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 1)
    begun = time.monotonic()
    for app in ("acme", "other"):
        for api in (CALL, "/topapi/role/list"):
            budget.acquire(app, api)
    assert time.monotonic() - begun < 0.5


def test_a_granted_call_takes_one_round_trip_and_a_waiting_one_two(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 3)
    budget.acquire("acme", CALL)  # loads the script
    time.sleep(0.5)
    client.looks = 0
    budget.acquire("acme", CALL)
    assert client.looks == 1
    budget.acquire("acme", CALL)
    assert client.looks == 3


def test_a_time_that_was_told_too_late_is_given_anew(connect: Callable[[], Watched]) -> None:
    """Calls that a slow Redis held back would all come at once."""
    client = connect()
    budget = Budget(client, 15)
    budget.acquire("acme", CALL)  # loads the script
    client.late = 2 * LATE_US / 1e6
    budget.acquire("acme", CALL)
    _, told_late, anew = client.times
    assert anew - told_late > 2 * LATE_US


def test_a_redis_that_is_always_slow_holds_nobody(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 15)
    budget.acquire("acme", CALL)
    client.late = client.always_late = 1.1 * LATE_US / 1e6
    assert seconds(lambda: budget.acquire("acme", CALL)) < 5
    unlimited = Budget(client, 0)
    client.looks, client.late = 0, client.always_late
    unlimited.acquire("acme", CALL)
    assert client.looks == 1


def test_no_limit_still_pauses(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 0)
    assert seconds(lambda: call(budget, 200)) < 2
    budget.pause("acme", CALL, 0.4, "90018")
    assert 0.35 < seconds(lambda: budget.acquire("acme", CALL)) < 1.5


def test_a_pause_stops_one_api_on_every_host(connect: Callable[[], Watched]) -> None:
    one, two = Budget(connect(), 100), Budget(connect(), 100)
    two.acquire("acme", CALL)
    assert one.pause("acme", CALL, 0.5, "90018")
    assert not one.pause("acme", CALL, 0.1, "90018")  # a shorter one does not end it
    assert seconds(lambda: two.acquire("acme", "/topapi/role/list")) < 0.2
    assert 0.35 < seconds(lambda: two.acquire("acme", CALL)) < 1.5


@pytest.mark.parametrize("per_second", [0, 100])
def test_a_payers_pause_stops_the_payer_alone(connect: Callable[[], Watched], per_second: int) -> None:
    budget = Budget(connect(), per_second)
    assert budget.pause("shop:corp1", CALL, 600, "90020")
    budget.acquire("shop", CALL, payer="shop:corp2")
    for live in (True, False):
        with pytest.raises(QuotaSpent) as caught:
            budget.acquire("shop", CALL, live=live, payer="shop:corp1")
        assert caught.value.code == "90020" and 590 < caught.value.wait <= 600


def test_an_apps_pause_stops_its_payers(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 100)
    budget.pause("shop", CALL, 20, "90018")
    with pytest.raises(Throttled) as caught:
        budget.acquire("shop", CALL, payer="shop:corp1")
    assert not isinstance(caught.value, QuotaSpent)


def test_a_throttle_that_comes_again_soon_pauses_longer(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 100)

    def pause(seconds: float, code: str = "90018") -> float:
        """How long it pauses; time goes on to its end."""
        assert budget.pause("acme", CALL, seconds, code)
        (found,) = paused(client).calls
        assert (found.app, found.call, found.code, found.quota_spent) == ("acme", CALL, code, code == "90020")
        step_clock(client, found.seconds + 0.001)
        assert paused(client).calls == []
        return found.seconds

    assert [pause(4) for _ in range(6)] == pytest.approx([4, 8, 16, 32, 60, 60], abs=2)
    assert pause(600, "90020") == pytest.approx(600, abs=2)
    step_clock(client, QUIET_SECONDS)
    assert [pause(4), pause(10)] == pytest.approx([4, 20], abs=2)


@pytest.mark.parametrize("live", [True, False])
def test_a_long_pause_is_told_and_not_sat_out(connect: Callable[[], Watched], live: bool) -> None:
    budget = Budget(connect(), 15)
    budget.pause_all(300)
    with pytest.raises(Throttled) as caught:
        budget.acquire("other", "/topapi/role/list", live=live)
    assert 295 < caught.value.wait <= 300


def test_who_waits_already_honours_a_pause(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 2)
    budget.acquire("acme", CALL)
    waiting = threading.Thread(target=budget.acquire, args=("acme", CALL))
    begun = time.monotonic()
    waiting.start()
    budget.pause("acme", CALL, 1.2, "90018")
    waiting.join(10)
    assert 1.1 < time.monotonic() - begun < 5


def test_a_deadline_books_nothing(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 1)
    budget.acquire("acme", CALL)
    with pytest.raises(Throttled) as caught:
        budget.acquire("acme", CALL, deadline=time.monotonic() + 0.3)
    assert 0.5 < caught.value.wait < 1.1
    assert client.llen(SLOTS) == 1
    budget.acquire("acme", CALL, deadline=time.monotonic() + 3)


def test_a_bulk_deadline_also_counts_the_queue_for_a_turn(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 1)
    budget.acquire("acme", CALL, live=False)
    first = threading.Thread(target=budget.acquire, args=("acme", CALL), kwargs={"live": False})
    first.start()
    with pytest.raises(Throttled):
        budget.acquire("acme", CALL, live=False, deadline=time.monotonic() + 0.2)
    first.join(10)


def test_bulk_leaves_two_calls_a_second_to_the_living(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 9)
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            budget.acquire("acme", CALL, live=False)

    with ThreadPoolExecutor(4) as pool:
        copies = [pool.submit(copy) for _ in range(4)]
        try:
            time.sleep(1.5)
            waits = []
            for _ in range(4):
                waits.append(seconds(lambda: budget.acquire("acme", CALL)))
                time.sleep(0.55)
        finally:
            stop.set()
        for one in copies:
            one.result()
    assert max(waits) < 0.6
    bulk = [int(slot) / 1e6 for slot in client.lrange(BULK, 0, -1)]
    assert most_within(bulk, 1.0) <= 7
    assert len(client.times) > 20


def test_bulk_waits_for_all_living_callers(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 6)
    order: list[str] = []

    def ask(kind: str) -> None:
        budget.acquire("acme", CALL, live=kind == "live")
        order.append(kind)

    with ThreadPoolExecutor(12) as pool:
        living = [pool.submit(ask, "live") for _ in range(10)]
        while budget_has_no_queue(connect()):
            time.sleep(0.005)
        bulk = pool.submit(ask, "bulk")
        for one in [*living, bulk]:
            one.result(10)
    assert order[-1] == "bulk"


def test_a_bulk_caller_that_waits_holds_no_place(connect: Callable[[], Watched]) -> None:
    budget = Budget(connect(), 2)
    budget.acquire("acme", CALL, live=False)
    waiting = threading.Thread(target=budget.acquire, args=("acme", CALL), kwargs={"live": False})
    waiting.start()
    time.sleep(0.1)
    assert seconds(lambda: call(budget, 1)) < 0.75
    waiting.join(10)


def budget_has_no_queue(client: redis.Redis) -> bool:
    newest = client.lindex(SLOTS, 0)
    return newest is None or int(newest) / 1e6 < time.time() + 0.5


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_step_of_the_clock_holds_nobody(connect: Callable[[], Watched], step: float) -> None:
    client = connect()
    budget = Budget(client, 5)
    call(budget, 5)
    step_clock(client, step)
    client.times.clear()
    assert seconds(lambda: call(budget, 1)) < 0.8
    assert seconds(lambda: call(budget, 9)) < 3
    assert most_within([slot / 1e6 for slot in client.times], 1.0) <= 5


@pytest.mark.parametrize("step", [-10.0, 10.0])
def test_sleepers_and_newcomers_share_after_a_step(connect: Callable[[], Watched], step: float) -> None:
    """Counted by this host's clock, which did not step."""
    client = connect()
    budget = Budget(client, 4)
    made: list[float] = []

    def ask() -> None:
        budget.acquire("acme", CALL)
        made.append(time.monotonic())

    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(ask) for _ in range(8)]
        while client.llen(SLOTS) < 4 or len(client.times) < 8:
            time.sleep(0.005)
        step_clock(client, step)
        calls += [pool.submit(ask) for _ in range(8)]
        for one in calls:
            one.result(30)
    assert max(made) - min(made) < 8
    assert most_within(made, 0.9) <= 6


def test_an_emptied_redis_begins_anew(connect: Callable[[], Watched]) -> None:
    client = connect()
    budget = Budget(client, 5)
    budget.acquire("acme", CALL)
    client.flushall()
    client.script_flush()
    assert seconds(lambda: budget.acquire("acme", CALL)) < 0.5
