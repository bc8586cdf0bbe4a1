"""A user's function that does nothing, for one type of event."""

from typing import Any

from workers import on

#: The type that it waits for.
TYPE = "user_active_org"


@on(TYPE)
def nothing(event: Any, directory: Any) -> None:
    """As cheap as can be: what it costs is ours."""
