"""A few hundred seeded examples on each kind of datastore; `make test-long` runs thousands."""

import pytest

from tests.convergence.run import postgresql, run, sqlite

#: Enough that each guard's loss is met; see tests/guards.
EXAMPLES = 200
SEED = 1


def test_every_history_ends_true_on_sqlite() -> None:
    with sqlite() as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES


def test_every_history_ends_true_on_postgresql(request: pytest.FixtureRequest) -> None:
    with postgresql(request.getfixturevalue("postgresql")) as url:
        assert run(url, EXAMPLES, SEED, shrink=False).total() >= EXAMPLES
