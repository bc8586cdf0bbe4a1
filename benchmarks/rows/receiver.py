"""How many callbacks a second the receiver answers, beside a bare hello and a textbook callback."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.load import flood, request
from benchmarks.place import START_SECONDS, Place, place
from benchmarks.row import Figures, Goal, Measure, Row, in_turn, ratio
from tests.installation import answers
from tests.servers import free_port, wait_until

#: Requests of one measurement, and connections.
REQUESTS = 4_000
CONNECTIONS = (16, 64)


@contextmanager
def prepared() -> Iterator[Measure]:
    """The three servers run all the time; one works."""
    with place() as here, ExitStack() as stack:
        ports = {
            "dingbridge": stack.enter_context(here.receiving())[0],
            "textbook": peer(stack, here, "textbook", here.redis_url),
            "hello": peer(stack, here, "hello"),
        }

        def measure(number: int) -> dict[str, float]:
            figures = {}
            for connections in CONNECTIONS:
                for name in in_turn(number, list(ports)):
                    requests = [request("/readyz")] * REQUESTS if name == "hello" else here.callbacks(REQUESTS)
                    answered = flood(ports[name], requests, connections)
                    assert set(answered.statuses) == {200}, (name, answered.statuses)
                    figures[f"{name}, {connections} connections, req/s"] = answered.rate
            return figures

        yield measure


def peer(stack: ExitStack, here: Place, name: str, *arguments: str) -> int:
    """A peer's server until the end; its port."""
    port = free_port()
    stack.enter_context(here.running("-m", f"benchmarks.peers.{name}", str(port), *arguments))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), START_SECONDS, name)
    return port


def _against(other: str, connections: int) -> Callable[[Figures], float]:
    return ratio(*(f"{name}, {connections} connections, req/s" for name in ("dingbridge", other)))


ROW = Row(
    "receiver",
    f"{REQUESTS} callbacks at once over 16 and 64 connections, `dingbridge serve` with its own settings",
    prepared,
    [
        *(Goal(f"against hello, {n} connections", _against("hello", n), 0.50, 0.75) for n in CONNECTIONS),
        *(Goal(f"against a textbook callback, {n} connections", _against("textbook", n), 2, 3) for n in CONNECTIONS),
    ],
)
