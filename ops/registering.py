"""`dingbridge register`: the callback that an internal app registers by API."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bridge.config import AppConfig
from bridge.crypto import Key
from bridge.errors import BridgeError
from bridge.events import CONTACT_EVENTS
from ops.compose import Clients
from workers.shapes import Callback


class Registration:
    """One app's callback at DingTalk. Raises ApiError, and BridgeError for an app that can have none."""

    def __init__(self, app: AppConfig, clients: Clients) -> None:
        if app.kind == "suite":
            raise BridgeError(f"the callback of {app.name} is set in the developer console: it is a third-party app")
        if not app.reads:
            raise BridgeError(f"{app.name} has no credentials: set app_key and app_secret")
        self._app = app
        self._client = clients.internal(app)

    def show(self) -> Mapping[str, Any] | None:
        """Address, events, and whether the keys are the configured ones; None where nothing is registered."""
        found = self._client.callback()
        if found is None:
            return None
        ours = any(same_keys(found, pair.key()) for pair in self._app.keys)
        return {"url": found.url, "events": list(found.tags), "keys_match": ours}

    def put(self, address: str) -> Mapping[str, Any]:
        """Register the callback, or change the one that is registered; DingTalk checks the address at once."""
        app = self._app
        if app.corp_id is None or app.corp_id not in app.owner_keys:
            raise BridgeError(
                f"callbacks that are registered by API come under the corp id: set corp_id of {app.name}, and add it to"
                " owner_keys"
            )
        key = app.keys[0].key()
        wanted = Callback(callback_url(address, app.name), tuple(CONTACT_EVENTS), key.token, key.aes_key)
        update = self._client.callback() is not None
        self._client.set_callback(wanted, update=update)
        return {"url": wanted.url, "events": list(wanted.tags), "updated": update}

    def remove(self) -> bool:
        """Whether there was one to remove."""
        if self._client.callback() is None:
            return False
        self._client.delete_callback()
        return True


def callback_url(address: str, name: str) -> str:
    """The address of an app's callbacks; a bare host is completed. Raises BridgeError."""
    if not is_address(address):
        raise BridgeError(f"that is no address: write https://your.host, or https://your.host/callback/{name}")
    return address if urlsplit(address).path.strip("/") else f"{address.rstrip('/')}/callback/{name}"


def is_address(text: str) -> bool:
    """Whether it is the URL of something that answers over HTTP."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - it is read to be checked
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def same_keys(found: Callback, key: Key) -> bool:
    """Whether a registered callback has this pair; of an aes_key's last character two bits mean nothing."""
    return found.token == key.token and found.aes_key[:-1] == key.aes_key[:-1]
