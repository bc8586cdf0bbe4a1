"""Random changes at a steady pace, in the background."""

import threading
import time
from collections.abc import Callable


class Traffic:
    """Calls `change` so many times a second until it is told to stop. It starts stopped."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self._change: Callable[[], object] = lambda: None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, per_second: float, change: Callable[[], object]) -> None:
        """Begin, or go on at another pace; 0 stops."""
        with self._wake:
            self.per_second = per_second
            self._change = change
            self._wake.notify_all()
        self.resume()

    def resume(self) -> None:
        """Start the thread if there is a pace and none runs, as after a fork."""
        if self.per_second > 0 and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until the change in hand is made."""
        with self._wake:
            self.per_second = 0.0
            self._wake.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        following = time.monotonic()
        while self.per_second > 0:
            following = max(following + 1 / self.per_second, time.monotonic() - 1)
            with self._wake:
                self._wake.wait_for(lambda: self.per_second <= 0, timeout=max(0.0, following - time.monotonic()))
            if self.per_second > 0:
                self._change()
