"""Seal permanent codes at rest with the key of the configuration. Pure: no I/O.

A sealed code is `1.` and base64 of nonce (12), tag (16) and ciphertext of AES-256-GCM; suite and corp are
authenticated with it, so that no code can be put into another's row.
"""

import base64
import binascii
import hashlib
import secrets

from Crypto.Cipher import AES
from Crypto.Cipher._mode_gcm import GcmMode

from workers.errors import SealBroken

_VERSION = "1."
_NONCE, _TAG = 12, 16


class Seal:
    """Seals and opens with one key."""

    def __init__(self, encryption_key: str) -> None:
        # The key is a long random text; nothing has to be slowed down.
        self._key = hashlib.sha256(b"dingbridge permanent codes\n" + encryption_key.encode()).digest()

    def close(self, code: str, suite_key: str, corp_id: str) -> str:
        """The sealed code."""
        nonce = secrets.token_bytes(_NONCE)
        cipher, tag = self._cipher(nonce, suite_key, corp_id).encrypt_and_digest(code.encode())
        return _VERSION + base64.b64encode(nonce + tag + cipher).decode()

    def open(self, sealed: str, suite_key: str, corp_id: str) -> str:
        """The code. Raises SealBroken where it was sealed with another key, or for another row."""
        try:
            data = base64.b64decode(sealed.removeprefix(_VERSION), validate=True)
            nonce, tag, cipher = data[:_NONCE], data[_NONCE : _NONCE + _TAG], data[_NONCE + _TAG :]
            return self._cipher(nonce, suite_key, corp_id).decrypt_and_verify(cipher, tag).decode()
        except (binascii.Error, ValueError):
            raise SealBroken from None

    def _cipher(self, nonce: bytes, suite_key: str, corp_id: str) -> GcmMode:
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG)
        cipher.update(f"{suite_key}\n{corp_id}".encode())
        return cipher
