"""Open and seal a DingTalk envelope. Pure: no I/O.

Plaintext layout: `random(16) | length(4, big-endian, bytes) | message | owner key`, padded to 32,
AES-256-CBC with the key's first 16 bytes as IV, base64 (DingTalk-Callback-Crypto, all samples).
"""

import base64
import binascii
import hashlib
import hmac
import re
import string
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from Crypto.Cipher import AES

from bridge.errors import MalformedCallback, OwnerMismatch, SignatureMismatch, Undecipherable

#: Bytes; DingTalk pads to 32, some community encoders to 16. We write 32 and read both.
BLOCK = 32
#: Bytes of filler that an envelope begins with: the cipher's first block.
FILLER = AES.block_size
#: Bytes of the message's length, which follows.
LENGTH = 4
#: The owner key while a suite is being created and has no key of its own yet (2016 ISV guide).
SUITE_CREATION_OWNER = "suite4xxxxxxxxxxxxxxx"

_WHITESPACE = string.whitespace.encode()
_AES_KEY = re.compile(r"[A-Za-z0-9]{43}\Z")


class _Chains(threading.local):
    """The two CBC chains of a key, with which this thread goes on from message to message.

    A message begins with a block of filler that nobody reads, so a chain need not begin anew with the IV that both
    sides know. Decrypted, only the filler is another then. Encrypted, the filler becomes what nobody without the key
    can tell beforehand, as a chain once began with a random block. To begin anew would be four more foreign calls a
    message, and at each of them another thread takes Python's lock.
    """

    def __init__(self, secret: bytes) -> None:
        self.encrypt = AES.new(secret, AES.MODE_CBC).encrypt
        self.decrypt = AES.new(secret, AES.MODE_CBC).decrypt


@dataclass(frozen=True, slots=True)
class Key:
    """A callback's token and 43-character EncodingAESKey, as the console shows them."""

    token: str = field(repr=False)
    aes_key: str = field(repr=False)
    secret: bytes = field(init=False, repr=False)
    chains: _Chains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError when aes_key is not 43 letters and digits."""
        if not _AES_KEY.match(self.aes_key):
            raise ValueError("an aes_key is exactly 43 letters and digits")
        # 43 characters carry 258 bits; the two low bits are ignored, whatever they are.
        object.__setattr__(self, "secret", base64.b64decode(self.aes_key + "="))
        object.__setattr__(self, "chains", _Chains(self.secret))


@dataclass(frozen=True, slots=True)
class Opened:
    """What came out of an envelope, and the key and owner that the reply must be sealed with."""

    message: bytes
    owner: str
    key: Key


def sign(token: str, timestamp: str, nonce: str, encrypt: str) -> str:
    """The hex SHA-1 over the four strings in byte order, joined without a separator."""
    parts = sorted([part.encode("utf-8", "surrogatepass") for part in (token, timestamp, nonce, encrypt)])
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).hexdigest()


def encrypt(key: Key, message: bytes, owner: str) -> str:
    """Base64 ciphertext of `message` for `owner`."""
    plain = bytes(FILLER) + len(message).to_bytes(LENGTH, "big") + message + owner.encode()
    pad = BLOCK - len(plain) % BLOCK
    plain += bytes([pad]) * pad
    return base64.b64encode(key.chains.encrypt(plain)).decode()


def decrypt(key: Key, encrypted: str) -> tuple[bytes, str]:
    """The message and its owner key. Raises MalformedCallback when it is no envelope."""
    try:
        cipher = base64.b64decode(encrypted.encode("ascii").translate(None, _WHITESPACE), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedCallback("encrypt is not base64") from None
    if len(cipher) <= FILLER or len(cipher) % AES.block_size:
        raise MalformedCallback("encrypt has a wrong length")
    plain = _unpad(key.chains.decrypt(cipher)[FILLER:])
    if len(plain) < LENGTH:
        raise Undecipherable("the message is too short: is the aes_key the one of this app?")
    end = LENGTH + int.from_bytes(plain[:LENGTH], "big")
    # A wrong key gives a huge length here: compare, never allocate (Callback-Crypto issue 24).
    if end > len(plain):
        raise Undecipherable("the message's length is wrong: is the aes_key the one of this app?")
    try:
        return plain[LENGTH:end], plain[end:].decode()
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
