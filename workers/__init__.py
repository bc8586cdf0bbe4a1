"""From the queue to the datastore; and the face for people who write jobs: `on`, `on_change`."""

from workers.registry import Registry

#: The functions of this process; `on` and `on_change` are its two doors.
registry = Registry()
on = registry.on
on_change = registry.on_change

__all__ = ["on", "on_change", "registry"]
