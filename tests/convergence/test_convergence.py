"""Some seeded examples on each kind of datastore; `make test-long` runs thousands."""

import pytest

from tests.convergence.run import postgresql, run, sqlite

#: Enough that the loss of a guard that others do not cover for is met.
EXAMPLES = 40
SEED = 1

#: Seconds; half a minute where nobody else computes.
pytestmark = pytest.mark.timeout(1200)


def test_every_history_ends_true_on_sqlite() -> None:
    with sqlite() as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES


def test_every_history_ends_true_on_postgresql(request: pytest.FixtureRequest) -> None:
    with postgresql(request.getfixturevalue("postgresql")) as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES
