"""What users register, and what they are told when they slip."""

from collections.abc import Callable

import pytest

from workers.registry import DEFAULT_QUEUE, DEFAULT_RETRIES, Registry


def test_functions_are_found_by_what_they_wait_for() -> None:
    registry = Registry()

    @registry.on("user_leave_org", "user_add_org", queue="slow", retries=1)
    def leave(event: object, directory: object) -> None:
        """A job."""

    @registry.on_change("user", "department")
    def mirror(change: object, directory: object) -> None:
        """A job."""

    (job,) = registry.for_event("user_leave_org")
    assert (job.function, job.queue, job.retries) == (leave, "slow", 1)
    assert registry.for_event("user_add_org") == [job]
    assert registry.for_event("org_change") == []
    assert [found.function for found in registry.for_change("department")] == [mirror]
    assert registry.find(job.name) == job
    assert registry.queues() == ("jobs", "slow")


def test_a_slip_of_the_pen_is_told() -> None:
    registry = Registry()
    with pytest.raises(ValueError, match="did you mean user_leave_org"):
        registry.on("user_leave_orgs")
    with pytest.raises(ValueError, match="no entity users"):
        registry.on_change("users")  # type: ignore[arg-type]


def test_an_event_that_dingbridge_does_not_know_may_be_waited_for() -> None:
    registry = Registry()
    registry.on("bpms_instance_change")(print)
    assert len(registry.for_event("bpms_instance_change")) == 1


def test_a_function_that_says_nothing_has_the_usual_queue_and_retries() -> None:
    registry = Registry()
    assert registry.on("user_add_org")(print) is print
    (job,) = registry.for_event("user_add_org")
    assert (job.name, job.queue, job.retries) == ("builtins.print", DEFAULT_QUEUE, DEFAULT_RETRIES)
    assert registry.queues() == (DEFAULT_QUEUE,)


def test_one_function_may_wait_for_events_and_changes() -> None:
    registry = Registry()
    registry.on("user_add_org")(registry.on_change("user")(print))
    assert registry.for_event("user_add_org") == registry.for_change("user")
    assert registry.names() == ["builtins.print"]


def test_several_are_called_in_the_order_they_registered() -> None:
    registry = Registry()
    for function in (print, repr):
        registry.on("user_add_org")(function)
    assert [job.function for job in registry.for_event("user_add_org")] == [print, repr]


def test_what_nobody_registered_is_not_found() -> None:
    assert Registry().find("os.system") is None


def test_no_users_job_waits_on_a_queue_of_events() -> None:
    """Each kind of worker would fail the other's jobs."""
    for register in (Registry().on, Registry().on_change):
        with pytest.raises(ValueError, match="user_add_org is for events"):
            register("user", queue="user_add_org")  # type: ignore[arg-type]


def test_two_functions_of_one_name_are_told() -> None:
    """Their jobs would both run the later one."""
    registry = Registry()

    def logged(function: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: function(*arguments)

    registry.on("user_add_org")(logged(print))
    with pytest.raises(ValueError, match=r"two functions are called \S+<lambda>.*functools.wraps"):
        registry.on("user_leave_org")(logged(repr))
    assert registry.for_event("user_leave_org") == []


def test_a_method_is_one_function_each_time_it_is_named() -> None:
    registry, words = Registry(), list[str]()
    registry.on("user_add_org")(words.append)
    registry.on("user_leave_org")(words.append)
    assert len(registry.names()) == 1


def test_one_type_twice_makes_one_job() -> None:
    registry = Registry()
    registry.on("user_add_org", "user_add_org")(print)
    assert len(registry.for_event("user_add_org")) == 1


def test_a_coroutine_function_is_told() -> None:
    async def later(event: object, directory: object) -> None: ...

    with pytest.raises(ValueError, match="later is a coroutine function"):
        Registry().on("user_add_org")(later)
