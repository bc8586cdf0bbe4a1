"""How tests make a receiver: in this process, or in gunicorn's, where the configuration comes from a file."""

import redis
from flask import Flask

from bridge import config as configuration
from bridge import queues
from bridge.config import Config
from bridge.queues import Patience
from bridge.receiver import create_receiver


def receiver(config: Config, connection: redis.Redis) -> Flask:
    """The receiver on a Redis that the test knows."""
    return create_receiver(config, connection)


def create() -> Flask:
    """`gunicorn tests.bridge.wsgi:create()`"""
    config = configuration.load()
    return receiver(config, queues.connect(config, Patience.RECEIVER))
