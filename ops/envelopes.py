"""Sign, encrypt and post one callback, as DingTalk does, and open the reply."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import urllib3

from bridge import crypto
from bridge.config import AppConfig
from bridge.errors import Refused
from ops.errors import NoAnswer

#: Seconds; DingTalk itself waits 2.5 at most.
TIMEOUT = 5.0


class Reply(NamedTuple):
    """What the receiver answered: HTTP status, the decrypted text (None where it is no envelope), seconds."""

    status: int
    text: str | None
    body: str
    seconds: float


def payload(
    event: str,
    corp_id: str | None,
    users: Sequence[str] = (),
    departments: Sequence[int] = (),
    roles: Sequence[int] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A message of the newer generation (KB-E/0073); `extra` wins over what it makes up."""
    body: dict[str, Any] = {
        "EventType": event,
        "EventTime": time.time_ns() // 1_000_000,
        "BizId": secrets.token_hex(16),
        "eventId": secrets.token_hex(16),
    }
    if corp_id:
        body["CorpId"] = corp_id
    label = event.startswith("label_")
    if users:
        body["userIdList" if label else "userId"] = list(users)
    if departments:
        body["deptId"] = list(departments)
    if roles:
        body["labelIdList"] = list(roles)
    return body | dict(extra or {})


def post(url: str, app: AppConfig, message: Mapping[str, Any]) -> Reply:
    """Post a message to a receiver's callback address with the app's newest key. Raises NoAnswer."""
    key, owner = app.keys[0].key(), app.owner_keys[0]
    timestamp, nonce = str(time.time_ns() // 1_000_000), secrets.token_urlsafe(6)
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    sealed = crypto.seal(key, text.encode(), owner, timestamp, nonce)
    query = {"msg_signature": sealed["msg_signature"], "signature": sealed["msg_signature"]}
    query |= {"timestamp": timestamp, "nonce": nonce}
    begun = time.perf_counter()
    target, envelope = f"{url}?{urlencode(query)}", {"encrypt": sealed["encrypt"]}
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
            answer = pool.request("POST", target, json=envelope, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        raise NoAnswer(url, error) from error
    seconds = time.perf_counter() - begun
    body = answer.data.decode(errors="replace")
    return Reply(answer.status, _open(app, answer.data), body, seconds)


def _open(app: AppConfig, body: bytes) -> str | None:
    try:
        reply = msgspec.json.decode(body, type=dict[str, str])
        opened = crypto.open_envelope(
            [pair.key() for pair in app.keys],
            set(app.owner_keys),
            reply["msg_signature"],
            reply["timeStamp"],
            reply["nonce"],
            reply["encrypt"],
        )
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, Refused):
        return None
    return opened.message.decode(errors="replace")
