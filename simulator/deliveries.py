"""Sends callbacks in the background, unordered, with DingTalk's retries and failed list (delivery.md §3)."""

import heapq
import itertools
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import urllib3

from simulator.apps import App, Subscription
from simulator.callbacks import PUSH_TIMEOUT, DeliveryFailed, push
from simulator.events import Payload
from simulator.faults import Faults, dice

#: Threads; DingTalk posts the events of one operation concurrently (delivery.md §6).
SENDERS = 8
#: Finished deliveries that can still be looked at.
REMEMBERED = 1000


@dataclass(slots=True)
class Delivery:
    """One callback on its way. state: waiting, delivered, failed, lost."""

    id: int
    app: App
    to: Subscription
    corp_id: str
    event_time: int
    payload: Payload
    attempts: int = 0
    state: str = "waiting"
    error: str | None = None

    @property
    def tag(self) -> str:
        return str(self.payload["EventType"])

    def as_dict(self) -> dict[str, Any]:
        shown = {"id": self.id, "app": self.app.config.name, "event": self.tag, "state": self.state}
        return shown | {"attempts": self.attempts, "error": self.error}


class Deliveries:
    """The callbacks that wait, were delivered, or were given up. Its threads start with the first callback."""

    def __init__(self, faults: Faults, seed: str) -> None:
        self._faults = faults
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._http = urllib3.PoolManager(num_pools=16, maxsize=SENDERS)
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Delivery]] = []
        self._serial = itertools.count(1)
        self._waiting: dict[int, Delivery] = {}
        self._finished: deque[Delivery] = deque(maxlen=REMEMBERED)
        self._counts: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def send(self, app: App, to: Subscription, corp_id: str, event_time: int, payload: Payload) -> int:
        """Hand over one callback; its number. What becomes of it is up to the receiver and the faults."""
        with self._changed:
            copies = 2 if dice(self._rng, self._faults.double_rate) else 1
            for _ in range(copies):
                delivery = Delivery(next(self._serial), app, to, corp_id, event_time, payload)
                if dice(self._rng, self._faults.lose_rate):
                    self._finish(delivery, "lost")
                else:
                    self._waiting[delivery.id] = delivery
                    self._schedule(delivery, self._rng.random() * self._faults.shuffle_ms / 1000)
            self._start()
            return delivery.id

    def check(self, to: Subscription, message: Payload, timeout: float) -> None:
        """Deliver a message now, once. Raises DeliveryFailed."""
        push(self._http, to, message, timeout)

    def as_dict(self) -> dict[str, Any]:
        """Counts by state, and the deliveries that wait or are still remembered."""
        with self._changed:
            counts = {state: self._counts[state] for state in ("delivered", "failed", "lost")}
            shown = [delivery.as_dict() for delivery in (*self._waiting.values(), *self._finished)]
            return {"waiting": len(self._waiting), **counts, "deliveries": shown}

    def wait_idle(self, timeout: float) -> bool:
        """True once nothing waits; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """Stop sending; what still waits is dropped. A later callback starts it again."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=PUSH_TIMEOUT + 1)
        self._http.clear()

    def _start(self) -> None:
        # Threads do not survive a fork, so they are started where they are first needed.
        if any(thread.is_alive() for thread in self._threads):
            return
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"callbacks-{n}", daemon=True) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                push(self._http, delivery.to, delivery.payload, PUSH_TIMEOUT)
            except DeliveryFailed as failed:
                self._failed(delivery, str(failed))
            else:
                self._delivered(delivery)

    def _next(self) -> Delivery | None:
        with self._changed:
            while not self._closed:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(pause)
            return None

    def _delivered(self, delivery: Delivery) -> None:
        with self._changed:
            delivery.attempts += 1
            delivery.error = None
            self._finish(delivery, "delivered")

    def _failed(self, delivery: Delivery, error: str) -> None:
        with self._changed:
            delivery.attempts += 1
            delivery.error = error
            delays = self._faults.retry_delays
            if delivery.id not in self._waiting:
                # Closed meanwhile: it is dropped with all that waited.
                return
            if delivery.attempts <= len(delays):
                self._schedule(delivery, delays[delivery.attempts - 1])
                return
            delivery.app.give_up(delivery.tag, delivery.corp_id, delivery.event_time, delivery.payload)
            self._finish(delivery, "failed")

    def _schedule(self, delivery: Delivery, delay: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, delivery.id, delivery))
        self._changed.notify_all()

    def _finish(self, delivery: Delivery, state: str) -> None:
        delivery.state = state
        self._waiting.pop(delivery.id, None)
        self._finished.append(delivery)
        self._counts[state] += 1
        self._changed.notify_all()
