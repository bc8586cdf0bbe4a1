"""One callback: signed, encrypted, posted to a receiver, and its reply verified (crypto.md §1, §8; delivery.md §2)."""

import json
import secrets
import string
import time
from urllib.parse import urlencode

import urllib3

from bridge.crypto import open_envelope, seal
from bridge.errors import Refused
from simulator.apps import Subscription
from simulator.events import Payload

#: Seconds that a receiver has for its answer: pushes (KB-E/0004), and the check at registration (KB-E/0232).
PUSH_TIMEOUT = 2.5
CHECK_TIMEOUT = 1.5


class DeliveryFailed(Exception):
    """the receiver did not acknowledge the callback"""


class Unreachable(DeliveryFailed):
    """no answer with HTTP 200 in time"""


class WrongReply(DeliveryFailed):
    """an answer with HTTP 200 that is not the encrypted success"""


def push(http: urllib3.PoolManager, to: Subscription, message: Payload, timeout: float) -> None:
    """Deliver one message. Raises Unreachable or WrongReply, each with what happened."""
    sealed = seal(to.key, json.dumps(message, ensure_ascii=False).encode(), to.owner, _now(), _nonce())
    # One request carries the signature under both names (crypto.md §1).
    query = {
        "signature": sealed["msg_signature"],
        "msg_signature": sealed["msg_signature"],
        "timestamp": sealed["timeStamp"],
        "nonce": sealed["nonce"],
    }
    separator = "&" if "?" in to.url else "?"
    try:
        answer = http.request(
            "POST",
            f"{to.url}{separator}{urlencode(query)}",
            body=json.dumps({"encrypt": sealed["encrypt"]}),
            headers={"Content-Type": "application/json"},
            timeout=timeout,
            retries=False,
            redirect=False,
        )
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"no answer: {type(error).__name__}") from None
    if answer.status != 200:
        raise Unreachable(f"HTTP {answer.status}")
    if (text := _opened(to, answer.data)) not in ("success", message.get("Random")):
        raise WrongReply(f"the reply's plaintext is {text[:40]!r}, not success")


def _opened(to: Subscription, body: bytes) -> str:
    try:
        reply = json.loads(body)
        fields = [str(reply[name]) for name in ("msg_signature", "timeStamp", "nonce", "encrypt")]
        return open_envelope([to.key], [to.owner], *fields).message.decode()
    except (ValueError, KeyError, TypeError):
        raise WrongReply("the reply is not the JSON object with msg_signature, timeStamp, nonce, encrypt") from None
    except Refused as refused:
        raise WrongReply(f"the reply does not open: {refused}") from None


def _now() -> str:
    return str(time.time_ns() // 1_000_000)


def _nonce() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))
