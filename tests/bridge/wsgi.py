"""How tests make a receiver: in this process, or in gunicorn's, where the configuration comes from a file."""

from pathlib import Path

from flask import Flask

from bridge import config as configuration
from bridge import queues
from bridge.config import Config
from bridge.queues import Patience
from bridge.receiver import create_receiver
from tests.bridge.callbacks import OLD_KEY, OLD_TOKEN, SUITE_OWNER, TOKEN
from tests.installation import AES_KEY, settings


def receiver(config: Config) -> Flask:
    """A receiver of this configuration."""
    return create_receiver(config, queues.connect(config, Patience.RECEIVER))


def many_apps(redis_url: str, var: Path) -> Config:
    """An app whose keys are being rotated, and a suite for each way to answer its checks."""
    given = settings(redis={"url": redis_url}, var=str(var))
    given["apps"][0]["keys"].append({"token": OLD_TOKEN, "aes_key": OLD_KEY})
    for reply in ("auto", "random", "success"):
        suite = {"name": f"suite-{reply}", "kind": "suite", "owner_keys": [SUITE_OWNER], "check_reply": reply}
        given["apps"].append(suite | {"keys": [{"token": TOKEN, "aes_key": AES_KEY}]})
    return Config.model_validate(given)


def create() -> Flask:
    """`gunicorn tests.bridge.wsgi:create()`"""
    return receiver(configuration.load())
