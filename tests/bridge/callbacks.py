"""Callbacks as DingTalk sends them, made and read by an implementation that is not ours."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from dingtalk.crypto import DingTalkCrypto
from dingtalk.core.exceptions import InvalidSignatureException

from tests.installation import AES_KEY, CORP

TOKEN = "tok3nForTests"
OWNER = "dingtestappkey00001"
STAMP, NONCE = "1700000000000", "aB3dE5fG"
EVENT = {"EventType": "user_add_org", "UserId": ["张三"], "CorpId": CORP, "eventId": "e-1"}


@dataclass
class Callback:
    """One request, and how its reply is read."""

    message: Any = field(default_factory=lambda: EVENT)
    token: str = TOKEN
    aes_key: str = AES_KEY
    owner: str = OWNER
    app: str = "acme"
    query: dict[str, str] = field(init=False)
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        text = self.message if isinstance(self.message, str) else json.dumps(self.message)
        sent = self._crypto.encrypt_message(text, NONCE, STAMP)
        signature = sent["msg_signature"]
        self.query = {"signature": signature, "msg_signature": signature, "timestamp": STAMP, "nonce": NONCE}
        self.body = json.dumps({"encrypt": sent["encrypt"]}).encode()

    @property
    def _crypto(self) -> DingTalkCrypto:
        return DingTalkCrypto(self.token, self.aes_key, self.owner)

    @property
    def url(self) -> str:
        return f"/callback/{self.app}?{urlencode(self.query)}"

    def plain(self, reply: bytes) -> str:
        """The text of a reply that must be sealed for this very sender."""
        fields = json.loads(reply)
        assert set(fields) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
        assert all(isinstance(value, str) for value in fields.values())
        try:
            text = self._crypto.decrypt_message(fields, fields["msg_signature"], fields["timeStamp"], fields["nonce"])
        except InvalidSignatureException:
            raise AssertionError("the reply is signed with another token") from None
        return str(text)


def signed(encrypted: str, token: str = TOKEN) -> Callback:
    """A callback with any text where the ciphertext belongs, rightly signed."""
    callback = Callback(token=token)
    crypto = DingTalkCrypto(token, AES_KEY, OWNER)
    signature = crypto_signature(crypto, encrypted)
    callback.query |= {"signature": signature, "msg_signature": signature}
    callback.body = json.dumps({"encrypt": encrypted}).encode()
    return callback
