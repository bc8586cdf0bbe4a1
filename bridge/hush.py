"""Log lines that strangers can cause as often as they like: at most so many a second, the others are counted."""

import threading
import time
from collections import defaultdict
from collections.abc import Hashable

#: Lines of one kind a second: enough to see what comes, few enough that a flood fills no disk and takes no time.
LINES = 20


class _Kind:
    def __init__(self) -> None:
        self.until = 0.0
        self.said = 0
        self.unsaid = 0


class Hush:
    """Decides line by line; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, _Kind] = defaultdict(_Kind)

    def unsaid(self, kind: Hashable) -> int | None:
        """How many lines of this kind were not said before this one; None: this one is not said either."""
        now = time.monotonic()
        with self._lock:
            found = self._kinds[kind]
            if now >= found.until:
                found.until, found.said = now + 1, 0
            found.said += 1
            if found.said > LINES:
                found.unsaid += 1
                return None
            unsaid, found.unsaid = found.unsaid, 0
            return unsaid
