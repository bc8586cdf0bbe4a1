"""The list of guards cannot rot: each is where it is said to be, can be taken out, and its tests are there."""

import ast
import types
from functools import cache

import pytest
import redis

from tests.guards import GUARDS
from tests.guards.guard import ROOT, Guard


def test_names_are_unique() -> None:
    names = [(guard.file, guard.name) for guard in GUARDS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.file}: {guard.name}")
def test_a_guard_is_found_once_and_the_code_without_it_still_runs(guard: Guard, redis_url: str) -> None:
    """Only the harm may be noticed, not a slip in the text that is put in its place."""
    module = types.ModuleType(guard.file.removesuffix(".py").replace("/", "."))
    exec(compile(guard.without(), guard.file, "exec"), module.__dict__)
    with redis.Redis.from_url(redis_url) as connection:
        for value in list(vars(module).values()):
            if isinstance(value, str) and "redis.call(" in value:
                connection.script_load(value)


@pytest.mark.parametrize("test", sorted({test for guard in GUARDS for test in guard.tests}))
def test_the_tests_are_there(test: str) -> None:
    file, *names = test.partition("[")[0].split("::")
    assert "::".join(names) in named_in(file)


@cache
def named_in(file: str) -> set[str]:
    """The tests of a file, with their classes; `make guards` checks their parameters as it runs them."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found
