"""Threads that want the same slow thing do it together: whoever comes first does it for all that wait."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ticket(Generic[Item, Result]):
    """One thread's items, and what came of them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.results: Sequence[Result] | None = None
        self.error: Exception | None = None
        #: Held until there are results or an error, or this thread has to lead.
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def done(self) -> bool:
        return self.results is not None or self.error is not None


class Together(Generic[Item, Result]):
    """Calls `act` with the items of all threads that wait, at most `limit` threads' at a time.

    `act` gives one result for each item. What it raises is raised in each of these threads.
    """

    def __init__(self, act: Callable[[Sequence[Item]], Sequence[Result]], limit: int) -> None:
        self._act = act
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        #: Whether a thread is at it; whoever comes meanwhile waits.
        self._led = False

    def run(self, items: Sequence[Item]) -> Sequence[Result]:
        """The results for these items."""
        ticket: _Ticket[Item, Result] = _Ticket(items)
        with self._lock:
            self._waiting.append(ticket)
            waits, self._led = self._led, True
        if waits:
            ticket.turn.acquire()
        if not ticket.done:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.results is not None  # noqa: S101 - done, and without an error
        return ticket.results

    def _lead(self) -> None:
        """Do it for those that wait, the longest first; the next of them leads then."""
        with self._lock:
            group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
        try:
            self._do(group)
        finally:
            with self._lock:
                heirs = self._waiting[:1]
                self._led = bool(heirs)
            for ticket in heirs + group:
                ticket.turn.release()

    def _do(self, group: Sequence[_Ticket[Item, Result]]) -> None:
        try:
            results = self._act([item for ticket in group for item in ticket.items])
        except Exception as error:  # noqa: BLE001 - raised again in each thread that it belongs to
            for ticket in group:
                ticket.error = error
            return
        at = 0
        for ticket in group:
            ticket.results = results[at : at + len(ticket.items)]
            at += len(ticket.items)
