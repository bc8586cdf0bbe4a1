"""The work as a dramatiq actor: `dramatiq benchmarks.peers.dramatiq_peer --processes 2 --threads N`."""

import os
from functools import cache
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.work import Work

broker = RedisBroker(url=os.environ["REDIS"])  # type: ignore[no-untyped-call]
dramatiq.set_broker(broker)


@cache
def work() -> Work:
    return Work()


@dramatiq.actor
def apply(event: dict[str, Any]) -> None:
    work().apply(event)
