"""The simulator, playing every app of the configuration with that app's own credentials, keys and corp."""

from collections.abc import Mapping
from typing import Any

import msgspec
import urllib3

from bridge.config import AppConfig, Config
from bridge.errors import BridgeError
from ops.errors import NoAnswer
from simulator import server
from simulator.server import SimApp


def serve(config: Config, users: int, seed: int, callbacks: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; changes are called back at `callbacks`/callback/<app>."""
    apps = [sim_app(app, callbacks) for app in config.apps]
    server.serve(server.create_simulator(apps, users, seed), config.listen, port)


def sim_app(app: AppConfig, callbacks: str) -> SimApp:
    """An app as the simulator knows it."""
    key = app.keys[0]
    return SimApp(
        name=app.name,
        kind=app.kind,
        token=key.token.get_secret_value(),
        aes_key=key.aes_key.get_secret_value(),
        owner_key=app.owner_keys[0],
        corp_id=app.corp_id,
        app_key=app.app_key or "",
        app_secret=app.app_secret.get_secret_value() if app.app_secret else "",
        suite_key=app.suite_key or "",
        suite_secret=app.suite_secret.get_secret_value() if app.suite_secret else "",
        callback_url=f"{callbacks.rstrip('/')}/callback/{app.name}",
    )


def change(url: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Let a running simulator make changes; the callbacks that it made. Raises NoAnswer, BridgeError."""
    try:
        answer = urllib3.request("POST", f"{url.rstrip('/')}/_sim/changes", json=asked, retries=False, timeout=30)
    except urllib3.exceptions.HTTPError as error:
        raise NoAnswer(url, error) from error
    try:
        if answer.status == 200:
            return msgspec.json.decode(answer.data, type=list[dict[str, Any]])
        refusal = msgspec.json.decode(answer.data, type=dict[str, Any])
    except msgspec.DecodeError:
        raise BridgeError("no simulator answers there: name yours with --url") from None
    raise BridgeError(f"the simulator refuses: {refusal.get('error', answer.status)}")
