"""What job authors test their functions with."""

import pytest

import workers
from workers import testing
from workers.directory import Change, Directory, Event
from workers.registry import Registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fresh = Registry()
    monkeypatch.setattr(workers, "registry", fresh)
    monkeypatch.setattr(testing, "registry", fresh)
    return fresh


def test_deliver_calls_what_is_registered(registry: Registry) -> None:
    seen: list[object] = []

    @registry.on("user_leave_org")
    def leave(event: Event, directory: Directory) -> None:
        seen.extend(directory.user(userid) for userid in event.user_ids)

    @registry.on_change("department")
    def mirror(change: Change, directory: Directory) -> None:
        seen.append((change.operation, directory.members(2)))

    user = {"userid": "zhangsan", "unionid": "u1", "departments": [{"dept_id": 2}]}
    directory = testing.MemoryDirectory(users=[user], departments=[{"dept_id": 2}])
    assert testing.deliver(testing.event("user_leave_org", users=["zhangsan"]), directory) == [
        f"{__name__}.{leave.__qualname__}"
    ]
    assert testing.deliver(testing.change("department", "2", "delete"), directory) == [
        f"{__name__}.{mirror.__qualname__}"
    ]
    assert seen == [user, ("delete", [user])]
    assert directory.department(3) is None
    assert directory.role(1) is None


def test_what_a_function_raises_comes_through(registry: Registry) -> None:
    @registry.on("org_change")
    def fail(event: Event, directory: Directory) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError):
        testing.deliver(testing.event("org_change"), testing.MemoryDirectory())
