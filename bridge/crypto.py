"""Open and seal a DingTalk envelope. Pure: no I/O.

Plaintext layout: `random(16) | length(4, big-endian, bytes) | message | owner key`, padded to 32,
AES-256-CBC with the key's first 16 bytes as IV, base64 (DingTalk-Callback-Crypto, all samples).
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from Crypto.Cipher import AES
from Crypto.Cipher._mode_cbc import CbcMode

from bridge.errors import MalformedCallback, OwnerMismatch, SignatureMismatch, Undecipherable

#: Bytes; DingTalk pads to 32, some community encoders to 16. We write 32 and read both.
BLOCK = 32
#: Bytes before the message: 16 random ones and the length.
HEAD = 20
#: The owner key while a suite is being created and has no key of its own yet (2016 ISV guide).
SUITE_CREATION_OWNER = "suite4xxxxxxxxxxxxxxx"

_WHITESPACE = string.whitespace.encode()
_AES_KEY = re.compile(r"[A-Za-z0-9]{43}\Z")


@dataclass(frozen=True, slots=True)
class Key:
    """A callback's token and 43-character EncodingAESKey, as the console shows them."""

    token: str = field(repr=False)
    aes_key: str = field(repr=False)
    secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError when aes_key is not 43 letters and digits."""
        if not _AES_KEY.match(self.aes_key):
            raise ValueError("an aes_key is exactly 43 letters and digits")
        # 43 characters carry 258 bits; the two low bits are ignored, whatever they are.
        object.__setattr__(self, "secret", base64.b64decode(self.aes_key + "="))


@dataclass(frozen=True, slots=True)
class Opened:
    """What came out of an envelope, and the key and owner that the reply must be sealed with."""

    message: bytes
    owner: str
    key: Key


def sign(token: str, timestamp: str, nonce: str, encrypt: str) -> str:
    """The hex SHA-1 over the four strings in byte order, joined without a separator."""
    parts = sorted(part.encode("utf-8", "surrogatepass") for part in (token, timestamp, nonce, encrypt))
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).hexdigest()


def encrypt(key: Key, message: bytes, owner: str, random: bytes | None = None) -> str:
    """Base64 ciphertext of `message` for `owner`; `random` (16 bytes) is for byte-exact tests."""
    plain = (random or secrets.token_bytes(16)) + len(message).to_bytes(4, "big") + message + owner.encode()
    pad = BLOCK - len(plain) % BLOCK
    plain += bytes([pad]) * pad
    return base64.b64encode(_cipher(key).encrypt(plain)).decode()


def decrypt(key: Key, encrypted: str) -> tuple[bytes, str]:
    """The message and its owner key. Raises MalformedCallback when it is no envelope."""
    try:
        cipher = base64.b64decode(encrypted.encode("ascii").translate(None, _WHITESPACE), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedCallback("encrypt is not base64") from None
    if not cipher or len(cipher) % AES.block_size:
        raise MalformedCallback("encrypt has a wrong length")
    plain = _unpad(_cipher(key).decrypt(cipher))
    if len(plain) < HEAD:
        raise Undecipherable("the message is too short: is the aes_key the one of this app?")
    end = HEAD + int.from_bytes(plain[16:HEAD], "big")
    # A wrong key gives a huge length here: compare, never allocate (Callback-Crypto issue 24).
    if end > len(plain):
        raise Undecipherable("the message's length is wrong: is the aes_key the one of this app?")
    try:
        return plain[HEAD:end], plain[end:].decode()
    except UnicodeDecodeError:
        raise Undecipherable("the owner key is no text: is the aes_key the one of this app?") from None


def open_envelope(
    keys: Sequence[Key], owners: Collection[str], signature: str, timestamp: str, nonce: str, encrypted: str
) -> Opened:
    """Verify, then decrypt, with the first of `keys` whose token made the signature.

    Raises SignatureMismatch before anything is decrypted, MalformedCallback, or OwnerMismatch when
    the owner is none of `owners`.
    """
    given = signature.encode("utf-8", "surrogatepass")
    signers = [key for key in keys if hmac.compare_digest(sign(key.token, timestamp, nonce, encrypted).encode(), given)]
    if not signers:
        raise SignatureMismatch
    # Two pairs may share a token while only the AES key is being rotated.
    for key in signers[:-1]:
        try:
            message, owner = decrypt(key, encrypted)
        except MalformedCallback:
            continue
        if owner in owners:
            return Opened(message, owner, key)
    message, owner = decrypt(signers[-1], encrypted)
    if owner not in owners:
        raise OwnerMismatch(f"the owner key {_mask(owner)} is none of this app's owner_keys")
    return Opened(message, owner, signers[-1])


def seal(key: Key, message: bytes, owner: str, timestamp: str, nonce: str) -> dict[str, str]:
    """The reply (or a request's body and query): exactly the four keys that DingTalk reads."""
    encrypted = encrypt(key, message, owner)
    return {
        "msg_signature": sign(key.token, timestamp, nonce, encrypted),
        "timeStamp": timestamp,
        "nonce": nonce,
        "encrypt": encrypted,
    }


def _cipher(key: Key) -> CbcMode:
    return AES.new(key.secret, AES.MODE_CBC, iv=key.secret[:16])


def _unpad(plain: bytes) -> bytes:
    pad = plain[-1]
    if not 1 <= pad <= BLOCK:
        # Java's rule: an unpadded message is read as it is.
        return plain
    if pad > len(plain) or plain[-pad:] != bytes([pad]) * pad:
        raise Undecipherable("the padding is wrong: is the aes_key the one of this app?")
    return plain[:-pad]


def _mask(owner: str) -> str:
    shown = len(owner) > 6 and owner.isprintable()
    return f"{owner[:6]}… ({len(owner)} characters)" if shown else "in the message"
