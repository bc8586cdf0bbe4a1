"""The functions that users registered with `@on` and `@on_change`, by what they wait for."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_args

from bridge.events import CATALOGUE, queue_names
from workers.store.draft import ChangeKind

Function = TypeVar("Function", bound=Callable[..., Any])

#: The RQ queue of users' jobs that name none.
DEFAULT_QUEUE = "jobs"
#: Attempts of a user's job after its first.
DEFAULT_RETRIES = 5


class UserJob(NamedTuple):
    """A registered function: how its jobs name it, where they wait and how often they are tried again."""

    name: str
    function: Callable[..., Any]
    queue: str
    retries: int


class Registry:
    """Who wants to know what."""

    def __init__(self) -> None:
        self._on_event: dict[str, list[UserJob]] = {}
        self._on_change: dict[str, list[UserJob]] = {}
        self._jobs: dict[str, UserJob] = {}

    def on(
        self, *types: str, queue: str = DEFAULT_QUEUE, retries: int = DEFAULT_RETRIES
    ) -> Callable[[Function], Function]:
        """Run `function(event, directory)` after the datastore has caught up with an event of these types.

        Raises ValueError for a type that looks like a slip of the pen, and for what no job can be made of.
        """
        for name in types:
            close = difflib.get_close_matches(name, CATALOGUE, 1, 0.8)
            if name not in CATALOGUE and close:
                raise ValueError(f"@on: there is no event type {name}; did you mean {close[0]}?")
        return self._adder(self._on_event, types, queue, retries)

    def on_change(
        self, *entities: ChangeKind, queue: str = DEFAULT_QUEUE, retries: int = DEFAULT_RETRIES
    ) -> Callable[[Function], Function]:
        """Run `function(change, directory)` for every change of these entities that was committed.

        Raises ValueError for an entity that the datastore has not, and for what no job can be made of.
        """
        for name in entities:
            if name not in get_args(ChangeKind):
                raise ValueError(f"@on_change: there is no entity {name}; there are {', '.join(get_args(ChangeKind))}")
        return self._adder(self._on_change, entities, queue, retries)

    def for_event(self, event_type: str) -> list[UserJob]:
        """The functions that wait for events of this type."""
        return self._on_event.get(event_type, [])

    def for_change(self, entity: str) -> list[UserJob]:
        """The functions that wait for changes of this entity."""
        return self._on_change.get(entity, [])

    def find(self, name: str) -> UserJob | None:
        """The function that a job names; None where nobody registered it."""
        return self._jobs.get(name)

    def names(self) -> list[str]:
        """Every registered function."""
        return list(self._jobs)

    def queues(self) -> tuple[str, ...]:
        """The queues that registered functions wait on, the default one always."""
        return tuple(dict.fromkeys([DEFAULT_QUEUE, *(job.queue for job in self._jobs.values())]))

    def _adder(
        self, table: dict[str, list[UserJob]], keys: tuple[str, ...], queue: str, retries: int
    ) -> Callable[[Function], Function]:
        if queue in queue_names():
            raise ValueError(f"the queue {queue} is for events: give users' jobs one of another name")

        def add(function: Function) -> Function:
            job = UserJob(f"{function.__module__}.{function.__qualname__}", function, queue, retries)
            if inspect.iscoroutinefunction(function):
                raise ValueError(f"{job.name} is a coroutine function, which nobody would await: make it a plain one")
            if self._jobs.setdefault(job.name, job).function != function:
                raise ValueError(
                    f"two functions are called {job.name}, by which their jobs would name them: give each a name of its"
                    " own (a decorator does so by functools.wraps)"
                )
            self._jobs[job.name] = job
            for key in dict.fromkeys(keys):
                table.setdefault(key, []).append(job)
            return function

        return add
