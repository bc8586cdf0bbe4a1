"""A simulator with one internal app and one suite, its API, and a receiver."""

from collections.abc import Iterator

import pytest

from simulator.server import SimApp, Simulator, create_simulator, running
from tests.simulator.helpers import ACME, AES_KEY, CORP, SUITE, TOKEN, Api, Receiver


@pytest.fixture
def sim() -> Iterator[Simulator]:
    simulator = create_simulator([ACME, SUITE], 600, 7)
    yield simulator
    simulator.close()


@pytest.fixture
def api(sim: Simulator) -> Iterator[Api]:
    """The API of `sim`, signed in as acme."""
    with running(sim) as base:
        client = Api(base)
        client.login()
        yield client
        client.http.clear()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def sending(receiver: Receiver) -> Iterator[Simulator]:
    """A simulator whose acme sends its callbacks to `receiver`."""
    app = SimApp(
        "acme", "internal", TOKEN, AES_KEY, "dingappkey1", CORP, "dingappkey1", "secret1", "", "", receiver.url
    )
    simulator = create_simulator([app], 60, 7)
    yield simulator
    simulator.close()
