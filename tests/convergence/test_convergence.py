"""Some seeded examples on each kind of datastore; `make test-long` runs thousands."""

import pytest

from tests.convergence.run import postgresql, run, sqlite

#: A few hundred on both datastores together; `make test-long` runs thousands.
EXAMPLES = 100
SEED = 1

#: Seconds; a minute where nobody else computes.
pytestmark = pytest.mark.timeout(1200)


def test_every_history_ends_true_on_sqlite() -> None:
    with sqlite() as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES


def test_every_history_ends_true_on_postgresql(request: pytest.FixtureRequest) -> None:
    with postgresql(request.getfixturevalue("postgresql")) as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES
