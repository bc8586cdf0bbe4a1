"""Envelopes: the published vectors, an independent implementation in both directions, and broken ones."""

import base64
import hashlib
import hmac
import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from Crypto.Cipher import AES
from dingtalk.crypto import DingTalkCrypto
from hypothesis import given
from hypothesis import strategies as st

from bridge import crypto
from bridge.crypto import Key, decrypt, encrypt, open_envelope, seal, sign
from bridge.errors import MalformedCallback, OwnerMismatch, Refused, SignatureMismatch

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "vectors.json").read_text("utf-8"))
ALL = {vector["id"]: vector for vector in [*VECTORS["published"], *VECTORS["self_generated"]]}
GOOD = [vector for vector in ALL.values() if "plaintext" in vector]
#: Those that were padded to 16 or not at all can be read, but we would write them differently.
WRITTEN_ALIKE = [vector for vector in GOOD if "random" in vector and vector["id"] not in ("block16", "no-pad-fallback")]

TOKEN = "tok3nForTests"
KEY = Key(TOKEN, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ")
OTHER_KEY = Key("anotherToken", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")
OWNER = "dingtestappkey00001"
STAMP, NONCE = "1700000000000", "aB3dE5fG"

Text = st.text(st.characters(exclude_categories=["Cs"]))


def key_of(vector: dict[str, Any]) -> Key:
    return Key(vector["token"], vector["encoding_aes_key"])


def opened(vector: dict[str, Any], *owners: str) -> crypto.Opened:
    signature, stamp, nonce = vector["signature"], vector["timestamp"], vector["nonce"]
    return open_envelope([key_of(vector)], owners or (vector["owner_key"],), signature, stamp, nonce, vector["encrypt"])


def open_signed(encrypted: str, *keys: Key, owner: str = OWNER) -> crypto.Opened:
    """Open an envelope that was signed by whoever knows the token of the first key."""
    signature = sign(keys[0].token, STAMP, NONCE, encrypted)
    return open_envelope(keys, {owner}, signature, STAMP, NONCE, encrypted)


def raw(plain: bytes, key: Key = KEY) -> str:
    return base64.b64encode(AES.new(key.secret, AES.MODE_CBC, iv=key.secret[:16]).encrypt(plain)).decode()


def peak(action: Callable[[], object]) -> int:
    """Bytes allocated at most while `action` runs."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ids(vector: dict[str, Any]) -> str:
    return str(vector["id"])


class TestVectors:
    @pytest.mark.parametrize("vector", GOOD, ids=ids)
    def test_opens(self, vector: dict[str, Any]) -> None:
        result = opened(vector)
        assert result.message.decode() == vector["plaintext"]
        assert (result.owner, result.key) == (vector["owner_key"], key_of(vector))

    @pytest.mark.parametrize("vector", WRITTEN_ALIKE, ids=ids)
    def test_encrypts_byte_for_byte(self, vector: dict[str, Any]) -> None:
        key = key_of(vector)
        # So the chain has to stand for the filler to become the vector's.
        stands = bytes(a ^ b for a, b in zip(key.secret[:16], vector["random"].encode(), strict=True))
        key.chains.encrypt = AES.new(key.secret, AES.MODE_CBC, iv=stands).encrypt
        assert encrypt(key, vector["plaintext"].encode(), vector["owner_key"]) == vector["encrypt"]

    def test_enough_of_them_are_byte_exact(self) -> None:
        assert {"007gzs-encrypt-fixed-random", "reply-success", "utf8-body", "pad-32"} <= {
            v["id"] for v in WRITTEN_ALIKE
        }

    @pytest.mark.parametrize("vector", [v for v in ALL.values() if "signature" in v], ids=ids)
    def test_signature(self, vector: dict[str, Any]) -> None:
        made = sign(vector["token"], vector["timestamp"], vector["nonce"], vector["encrypt"])
        assert (made == vector["signature"]) is (vector["id"] != "bad-signature")

    def test_a_text_without_a_length_is_no_message(self) -> None:
        vector = ALL["rust-block16"]

        def attempt() -> None:
            with pytest.raises(MalformedCallback):
                decrypt(key_of(vector), vector["encrypt"])

        assert peak(attempt) < 100_000  # what it takes for a length is 1.9 GB

    def test_a_huge_length_is_refused_without_allocating(self) -> None:
        def attempt() -> None:
            with pytest.raises(MalformedCallback, match="length is wrong"):
                opened(ALL["bad-length"])

        assert peak(attempt) < 100_000

    def test_another_owner_is_refused(self) -> None:
        vector = ALL["bad-owner"]
        with pytest.raises(OwnerMismatch) as refusal:
            opened(vector)
        assert vector["actual_owner"] not in str(refusal.value)
        assert opened(vector, vector["actual_owner"]).owner == vector["actual_owner"]

    def test_a_wrong_signature_is_refused(self) -> None:
        with pytest.raises(SignatureMismatch):
            opened(ALL["bad-signature"])

    def test_stray_bits_in_the_last_character_make_the_same_key(self) -> None:
        vector = ALL["non-canonical-key-alias"]
        alias = Key(vector["token"], vector["alias_encoding_aes_key"])
        assert alias.secret == key_of(vector).secret and alias != key_of(vector)
        assert decrypt(alias, vector["encrypt"]) == (b"success", vector["owner_key"])


class TestIndependentImplementation:
    theirs = DingTalkCrypto(TOKEN, KEY.aes_key, OWNER)

    @given(Text.filter(bool))
    def test_reads_what_we_seal(self, text: str) -> None:
        reply = seal(KEY, text.encode(), OWNER, STAMP, NONCE)
        assert self.theirs.decrypt_message(reply, reply["msg_signature"], STAMP, NONCE) == text

    @given(Text)
    def test_we_read_what_it_seals(self, text: str) -> None:
        sent = self.theirs.encrypt_message(text, NONCE, STAMP)
        result = open_envelope([KEY], {OWNER}, sent["msg_signature"], STAMP, NONCE, sent["encrypt"])
        assert result.message.decode() == text


class TestRoundTrip:
    @given(message=Text, owner=Text, stamp=Text, nonce=Text)
    def test_any_text(self, message: str, owner: str, stamp: str, nonce: str) -> None:
        reply = seal(KEY, message.encode(), owner, stamp, nonce)
        assert set(reply) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
        assert (reply["timeStamp"], reply["nonce"]) == (stamp, nonce)
        assert not set(reply["encrypt"]) & set("\r\n ")
        result = open_envelope([KEY], {owner}, reply["msg_signature"], stamp, nonce, reply["encrypt"])
        assert result == crypto.Opened(message.encode(), owner, KEY)

    @given(random=st.binary(min_size=16, max_size=16), message=st.binary(max_size=200))
    def test_the_random_bytes_need_be_no_text(self, random: bytes, message: bytes) -> None:
        plain = random + len(message).to_bytes(4, "big") + message + OWNER.encode()
        pad = 32 - len(plain) % 32
        assert decrypt(KEY, raw(plain + bytes([pad]) * pad)) == (message, OWNER)

    @pytest.mark.parametrize("pad", range(1, 33))
    def test_every_pad(self, pad: int) -> None:
        """1 to 16 also stand for the encoders that pad to 16."""
        head = 20 + len(OWNER) + pad
        message = b"m" * (-head % AES.block_size + AES.block_size)
        plain = bytes(16) + len(message).to_bytes(4, "big") + message + OWNER.encode() + bytes([pad]) * pad
        assert decrypt(KEY, raw(plain)) == (message, OWNER)

    def test_we_pad_to_32(self) -> None:
        lengths = {len(base64.b64decode(encrypt(KEY, b"m" * size, OWNER))) for size in range(64)}
        assert lengths == {64, 96, 128}

    def test_two_envelopes_of_one_message_differ(self) -> None:
        assert encrypt(KEY, b"success", OWNER) != encrypt(KEY, b"success", OWNER)


class TestChains:
    """A key's ciphers go on from message to message; nobody may notice."""

    @given(st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), min_size=1, max_size=10))
    def test_messages_in_any_order(self, steps: list[tuple[bool, bytes]]) -> None:
        key = Key(TOKEN, KEY.aes_key)
        for ours, message in steps:
            if ours:
                assert decrypt(Key(TOKEN, KEY.aes_key), encrypt(key, message, OWNER)) == (message, OWNER)
            else:
                assert decrypt(key, encrypt(Key(TOKEN, KEY.aes_key), message, OWNER)) == (message, OWNER)

    def test_what_was_no_message_spoils_none(self) -> None:
        for broken in (raw(bytes(16)), raw(b"x" * 160), "AAAA"):
            with pytest.raises(MalformedCallback):
                decrypt(KEY, broken)
            assert decrypt(KEY, encrypt(KEY, b"success", OWNER)) == (b"success", OWNER)

    def test_each_begins_with_filler_of_its_own(self) -> None:
        sealed = [encrypt(Key(TOKEN, KEY.aes_key), b"success", OWNER) for _ in range(100)]
        assert len({base64.b64decode(each)[:16] for each in sealed}) == 100

    def test_threads_do_not_share_one(self) -> None:
        messages = [bytes([number]) * 5_000 for number in range(8)]

        def converse(message: bytes) -> bool:
            return all(decrypt(KEY, encrypt(KEY, message, OWNER)) == (message, OWNER) for _ in range(200))

        with ThreadPoolExecutor(len(messages)) as pool:
            assert all(pool.map(converse, messages))


class TestTampering:
    encrypted = encrypt(KEY, b'{"EventType":"check_url"}', OWNER)
    signature = sign(TOKEN, STAMP, NONCE, encrypted)

    def refused(
        self, signature: str = signature, stamp: str = STAMP, nonce: str = NONCE, sent: str = encrypted
    ) -> None:
        with pytest.raises(SignatureMismatch):
            open_envelope([KEY], {OWNER}, signature, stamp, nonce, sent)

    @pytest.mark.parametrize("at", range(len(encrypted)))
    def test_any_character_of_encrypt(self, at: int) -> None:
        other = "B" if self.encrypted[at] == "A" else "A"
        self.refused(sent=self.encrypted[:at] + other + self.encrypted[at + 1 :])

    @pytest.mark.parametrize("at", range(40))
    def test_any_digit_of_the_signature(self, at: int) -> None:
        other = "1" if self.signature[at] == "0" else "0"
        self.refused(signature=self.signature[:at] + other + self.signature[at + 1 :])

    def test_timestamp_nonce_and_what_is_left_out(self) -> None:
        self.refused(stamp="1700000000001")
        self.refused(nonce="aB3dE5fH")
        self.refused(signature="")
        self.refused(signature=self.signature[:39])
        self.refused(signature=self.signature + "0")
        self.refused(signature="\ud83d")
        self.refused(sent="")

    @given(st.data())
    def test_a_holder_of_the_token_alone_makes_nothing_fall_over(self, data: st.DataObject) -> None:
        """Any bytes, rightly signed: they are refused, or happen to be a message; nothing else is raised."""
        blocks = data.draw(st.integers(1, 8))
        cipher = data.draw(st.binary(min_size=16 * blocks, max_size=16 * blocks))
        try:
            open_signed(base64.b64encode(cipher).decode(), KEY)
        except Refused as refusal:
            assert refusal.status in (400, 403)

    def test_nothing_is_decrypted_before_the_signature_is_known_to_be_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return False

        monkeypatch.setattr(hmac, "compare_digest", compare)
        monkeypatch.setattr(crypto, "decrypt", lambda *_: pytest.fail("decrypted all the same"))
        self.refused()
        assert compared == [(self.signature.encode(), self.signature.encode())]


class TestMalformed:
    @pytest.mark.parametrize("encrypted", ["!", "AAAA=AAA", "AAAAA", "中文", "é", "\ud83d", "AAAA-_AA"])
    def test_no_base64(self, encrypted: str) -> None:
        with pytest.raises(MalformedCallback, match=r"\Aencrypt is not base64\Z"):
            open_signed(encrypted, KEY)

    @pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31])
    def test_a_wrong_length(self, size: int) -> None:
        with pytest.raises(MalformedCallback, match=r"\Aencrypt has a wrong length\Z"):
            open_signed(base64.b64encode(b"x" * size).decode(), KEY)

    @pytest.mark.parametrize(
        ("plain", "reason"),
        [
            (b"x" * 31 + b"\x20", "the padding is wrong"),  # more pad than there is text
            (bytes(16) + b"\x11" * 16, "the padding is wrong"),  # into the filler
            (b"x" * 30 + b"\x01\x02", "the padding is wrong"),
            (bytes([16]) * 32, "the message is too short"),
            (b"x" * 19 + b"\x0d" * 13, "the message is too short"),
            (bytes(16) + b"\xff\xff\xff\xff" + b"x" * 12, "the message's length is wrong"),
            (bytes(19) + b"\x0d" + b"x" * 12, "the message's length is wrong"),
            (bytes(16) + b"\x01" + bytes(3) + b"\x0c" * 12, "the message's length is wrong"),
            (bytes(20) + b"\xff" * 12, "the owner key is no text"),
        ],
    )
    def test_no_message(self, plain: bytes, reason: str) -> None:
        with pytest.raises(MalformedCallback) as refusal:
            open_signed(raw(plain), KEY)
        assert str(refusal.value) == f"{reason}: is the aes_key the one of this app?"

    def test_an_empty_message_for_nobody(self) -> None:
        assert decrypt(KEY, raw(bytes(20) + b"\x0c" * 12)) == (b"", "")

    def test_a_wrong_aes_key(self) -> None:
        with pytest.raises(Refused):
            open_signed(encrypt(OTHER_KEY, b"{}", OWNER), KEY)

    @pytest.mark.parametrize("signed", [True, False])
    @pytest.mark.parametrize("sent", ["A" * (1 << 20), "AA\n" * (1 << 18), "é" * (1 << 19)])
    def test_a_large_body_costs_a_few_times_its_size(self, sent: str, signed: bool) -> None:
        signature = sign(TOKEN, STAMP, NONCE, sent) if signed else "0" * 40

        def attempt() -> None:
            with pytest.raises(Refused):
                open_envelope([KEY], {OWNER}, signature, STAMP, NONCE, sent)

        assert peak(attempt) < 5 * (1 << 20)


class TestKeys:
    @pytest.mark.parametrize(
        "aes_key",
        ["", "a" * 42, "a" * 44, "a" * 42 + "+", "a" * 42 + "=", "a" * 43 + "\n", "a" * 42 + "é", "1" * 42 + "١"],
    )
    def test_a_key_is_43_letters_and_digits(self, aes_key: str) -> None:
        with pytest.raises(ValueError, match=r"\Aan aes_key is exactly 43 letters and digits\Z"):
            Key(TOKEN, aes_key)

    def test_a_key_shows_no_secret(self) -> None:
        assert repr(KEY) == "Key()"

    def test_while_keys_are_rotated_each_of_them_opens(self) -> None:
        for key in (KEY, OTHER_KEY):
            encrypted = encrypt(key, b"{}", OWNER)
            signature = sign(key.token, STAMP, NONCE, encrypted)
            assert open_envelope([OTHER_KEY, KEY], {OWNER}, signature, STAMP, NONCE, encrypted).key is key

    def test_one_token_with_two_aes_keys(self) -> None:
        new, old = Key(TOKEN, OTHER_KEY.aes_key), KEY
        for key in (new, old):
            assert open_signed(encrypt(key, b"{}", OWNER), new, old).key is key
            assert open_signed(encrypt(key, b"{}", OWNER), old, new).key is key
        with pytest.raises(OwnerMismatch):
            open_signed(encrypt(old, b"{}", "somebodyElse"), new, old)

    @pytest.mark.parametrize("at", range(3))
    def test_one_token_with_any_number_of_aes_keys(self, at: int) -> None:
        keys = [Key(TOKEN, letter * 43) for letter in "ABC"]
        sealed = encrypt(keys[at], b"{}", OWNER)
        for key in keys:
            if key is not keys[at]:
                with pytest.raises(MalformedCallback):
                    decrypt(key, sealed)
        assert open_signed(sealed, *keys) == crypto.Opened(b"{}", OWNER, keys[at])

    def test_any_of_the_owners(self) -> None:
        reply = seal(KEY, b"{}", "corp", STAMP, NONCE)
        sent = (reply["msg_signature"], STAMP, NONCE, reply["encrypt"])
        assert open_envelope([KEY], {OWNER, "corp"}, *sent).owner == "corp"

    def test_the_owner_of_a_suite_without_a_key(self) -> None:
        assert ALL["suite-create-official"]["owner_key"] == crypto.SUITE_CREATION_OWNER

    @pytest.mark.parametrize(
        ("owner", "shown"),
        [
            ("dingsomebodyelse", "dingso… (16 characters)"),
            ("1234567", "123456… (7 characters)"),
            ("123456", "in the message"),  # it would be shown in full
            ("", "in the message"),
            ("ding\nlevel=error", "in the message"),  # it would be a line of its own in a log
        ],
    )
    def test_another_owner_is_shown_in_part(self, owner: str, shown: str) -> None:
        with pytest.raises(OwnerMismatch) as refusal:
            open_signed(encrypt(KEY, b"{}", owner), KEY)
        assert str(refusal.value) == f"the owner key {shown} is none of this app's owner_keys"


class TestSignature:
    def test_line_breaks_in_encrypt_are_signed_as_sent(self) -> None:
        plain = encrypt(KEY, b"success" * 20, OWNER)
        broken = base64.encodebytes(base64.b64decode(plain)).decode()
        assert "\n" in broken
        assert open_signed(broken, KEY).message == b"success" * 20
        assert open_signed(f" \t\r\n{plain}\r\n", KEY).message == b"success" * 20
        with pytest.raises(SignatureMismatch):
            open_envelope([KEY], {OWNER}, sign(TOKEN, STAMP, NONCE, plain), STAMP, NONCE, broken)

    @pytest.mark.parametrize(
        "parts",
        [
            ("b", "B", "a", "A"),  # upper case before lower
            ("token", "10", "9", "AAAA"),  # as text, not as numbers
            ("~", "é", "z", "AAAA"),
            ("\uffff", "\U0001f409", "中文", "AAAA"),  # UTF-16 would order the first two the other way round
            ("", "", "", ""),
        ],
    )
    def test_the_order_is_that_of_bytes(self, parts: tuple[str, str, str, str]) -> None:
        expected = hashlib.sha1(b"".join(sorted(part.encode() for part in parts))).hexdigest()
        assert sign(*parts) == expected

    @given(Text, Text, Text)
    def test_the_order_of_the_arguments_does_not_matter(self, token: str, stamp: str, nonce: str) -> None:
        assert sign(token, stamp, nonce, "AAAA") == sign("AAAA", nonce, token, stamp)

    def test_half_a_surrogate_pair_is_signed_like_anything_else(self) -> None:
        assert len(sign(TOKEN, STAMP, "\ud83d", "AAAA")) == 40

    def test_where_sha_1_is_barred_from_security_it_signs_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As by OpenSSL in FIPS mode."""
        sha1, expected = hashlib.sha1, sign("a", "b", "c", "d")

        def barred(data: bytes, *, usedforsecurity: bool = True) -> Any:
            assert usedforsecurity is False
            return sha1(data, usedforsecurity=False)

        monkeypatch.setattr(hashlib, "sha1", barred)
        assert sign("a", "b", "c", "d") == expected
