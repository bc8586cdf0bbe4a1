"""Whoever works beside others, one step at a time: it runs until its next pause, and nobody else runs meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

#: Where one pauses: it has claimed; it knows the versions and not yet the time; it has noted; DingTalk is about to
#: answer for one entity; all answers are there; it has committed and not yet told Redis.
POINTS = ("claimed", "versions", "noted", "asked", "read", "written")
#: Steps after which one that has not ended its turn never will.
MANY = 2000

T = TypeVar("T")


class Actor:
    """Runs `turn` again and again; each gives whether it did anything."""

    def __init__(self, name: str, turn: Callable[[], bool]) -> None:
        self.name = name
        #: Where it pauses: "" between two turns.
        self.at = ""
        #: Whether its last whole turn did anything.
        self.busy = True
        self._turn = turn
        self._greenlet = greenlet(self._run)

    def step(self) -> None:
        """To its next pause."""
        self.at = self._greenlet.switch() or ""

    def run_to(self, point: str) -> None:
        """To that point, or to the end of its turn."""
        for _ in range(MANY):
            self.step()
            if self.at in ("", point):
                return
        raise AssertionError(f"{self.name} does not end its turn")

    def turn(self) -> bool:
        """To the end of its turn; whether that did anything."""
        self.run_to("")
        return self.busy

    def throw(self, error: Exception) -> None:
        """What it waits for fails."""
        self.at = self._greenlet.throw(error) or ""

    def kill(self) -> None:
        """As kill -9: it does nothing any more."""
        if self._greenlet:
            self._greenlet.throw(GreenletExit)

    def _run(self) -> None:
        while True:
            self.busy = self._turn()
            pause("")


class Inline:
    """In place of a ThreadPoolExecutor: the actor does it all by itself, so that its every call can be met."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - whoever asks for the result is told
            future.set_exception(error)
        return future

    def map(self, work: Callable[[Any], T], given: Iterable[Any]) -> Iterator[T]:
        return map(work, given)

    def shutdown(self, **_: Any) -> None:
        """Nothing is under way."""


def acting() -> bool:
    """Whether an actor asks."""
    return getcurrent().parent is not None


def pause(point: str) -> None:
    """Let the test go on, where an actor calls this."""
    if acting():
        getcurrent().parent.switch(point)
