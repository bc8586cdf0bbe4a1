"""The work as a job of stock RQ: `python -m benchmarks.peers.rq_peer` is one SimpleWorker."""

import os
from functools import cache
from typing import Any

import redis
from rq import Queue, SimpleWorker

from benchmarks.peers.work import Work

QUEUE = "events"


@cache
def work() -> Work:
    return Work()


def apply(event: dict[str, Any]) -> None:
    work().apply(event)


def queue() -> Queue:
    return Queue(QUEUE, connection=redis.Redis.from_url(os.environ["REDIS"]))


if __name__ == "__main__":
    SimpleWorker([queue()], connection=queue().connection).work(logging_level="WARNING")
