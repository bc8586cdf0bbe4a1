"""Threads that do it together: each has its own results, and the errors of its own call alone."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import pytest

from bridge.together import Together
from tests.servers import wait_until


class Shared:
    """A `Together` whose first call is held up until all others wait, so that who shares a call is no accident."""

    def __init__(self, act: Callable[[Sequence[int]], Sequence[int]], limit: int) -> None:
        self.calls: list[list[int]] = []
        self._act = act
        self._begun, self._go_on = threading.Event(), threading.Event()
        self._together = Together[int, int](self._held_up, limit)

    def run(self, *batches: Sequence[int]) -> list[Future[Sequence[int]]]:
        """One thread for each batch, in this order; the first leads, the others wait for it together."""
        futures: list[Future[Sequence[int]]] = []
        for number, batch in enumerate(batches):
            futures.append(Future())
            # A daemon: one that is never led to its end must fail this test, not hang it.
            threading.Thread(target=self._run_one, args=(futures[-1], batch), daemon=True).start()
            if number == 0:
                assert self._begun.wait(10)
            else:
                wait_until(lambda number=number: len(self._together._waiting) == number, what="the thread to wait")  # type: ignore[misc]
        self._go_on.set()
        assert not wait(futures, 10).not_done
        return futures

    def _run_one(self, future: "Future[Sequence[int]]", batch: Sequence[int]) -> None:
        try:
            future.set_result(self._together.run(batch))
        except ValueError as error:
            future.set_exception(error)

    def _held_up(self, items: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(items))
        if len(self.calls) == 1:
            self._begun.set()
            assert self._go_on.wait(10)
        return self._act(items)


def refuse_odd(items: Sequence[int]) -> Sequence[int]:
    if any(item % 2 for item in items):
        raise ValueError(f"odd: {list(items)}")
    return [item * 10 for item in items]


def test_whoever_waits_shares_one_call_and_each_has_its_own_results() -> None:
    shared = Shared(refuse_odd, 64)
    results = [future.result() for future in shared.run([2], [4, 6], [], [8])]
    assert shared.calls == [[2], [4, 6, 8]]
    assert results == [[20], [40, 60], [], [80]]


def test_at_most_so_many_threads_share_a_call() -> None:
    shared = Shared(refuse_odd, 2)
    results = [future.result() for future in shared.run([2], [4], [6], [8], [10], [12])]
    assert [len(call) for call in shared.calls] == [1, 2, 2, 1]
    assert results == [[20], [40], [60], [80], [100], [120]]


def test_an_error_is_raised_in_each_thread_that_shared_the_call_and_in_no_other() -> None:
    shared = Shared(refuse_odd, 2)
    first, *failed, last = shared.run([2], [3], [4], [6])
    assert (first.result(), last.result()) == ([20], [60])
    for future in failed:
        with pytest.raises(ValueError, match=r"odd: \[3, 4\]"):
            future.result()


def test_after_an_error_it_goes_on() -> None:
    together = Together[int, int](refuse_odd, 64)
    with pytest.raises(ValueError, match="odd"):
        together.run([1])
    assert together.run([2]) == [20]
