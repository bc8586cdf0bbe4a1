"""Callbacks as DingTalk sends them, made and read by an implementation that is not ours."""

import json
from typing import Any
from urllib.parse import urlencode

import redis
from dingtalk.core.utils import DingTalkSigner
from dingtalk.crypto import DingTalkCrypto

from bridge.misses import MISSES_KEY
from bridge.verdicts import VERDICTS_KEY
from tests.installation import AES_KEY, CORP

TOKEN = "tok3nForTests"
OWNER = "dingtestappkey00001"
OLD_TOKEN, OLD_KEY = "oldTok3n", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
SUITE_OWNER = "suitetestkey0001"
STAMP, NONCE = "1700000000000", "aB3dE5fG"
EVENT = {"EventType": "user_add_org", "UserId": ["zhangsan"], "CorpId": CORP, "eventId": "e-1"}


class Callback:
    """One request, and how its reply is read."""

    def __init__(
        self,
        message: object = EVENT,
        *,
        app: str = "acme",
        token: str = TOKEN,
        aes_key: str = AES_KEY,
        owner: str = OWNER,
        nonce: str = NONCE,
    ) -> None:
        self._crypto = DingTalkCrypto(token, aes_key, owner)
        text = message if isinstance(message, str) else json.dumps(message)
        sent = self._crypto.encrypt_message(text, nonce, STAMP)
        signature = sent["msg_signature"]
        self.path = f"/callback/{app}"
        self.query = {"signature": signature, "msg_signature": signature, "timestamp": STAMP, "nonce": nonce}
        self.body = json.dumps({"encrypt": sent["encrypt"]}).encode()

    @property
    def url(self) -> str:
        return f"{self.path}?{urlencode(self.query)}"

    def plain(self, reply: bytes) -> str:
        """The text of a reply, which must be signed and sealed for this very sender."""
        fields: dict[str, Any] = json.loads(reply)
        assert set(fields) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
        assert all(isinstance(value, str) for value in fields.values())
        signature, stamp, nonce = fields["msg_signature"], fields["timeStamp"], fields["nonce"]
        return str(self._crypto.decrypt_message(fields, signature, stamp, nonce))


def signed(encrypted: str) -> Callback:
    """A callback with any text where the ciphertext belongs, rightly signed."""
    callback = Callback()
    signer = DingTalkSigner()
    signer.add_data(TOKEN, STAMP, NONCE, encrypted)
    callback.query |= dict.fromkeys(("signature", "msg_signature"), signer.signature)
    callback.body = json.dumps({"encrypt": encrypted}).encode()
    return callback


def untouched(connection: redis.Redis) -> bool:
    """Whether nothing came to this Redis but the notes that a receiver has started, and how callbacks fared."""
    return set(connection.keys()) <= {MISSES_KEY.encode(), VERDICTS_KEY.encode()}
