"""What must hold of any input on the way in, as functions that a fuzzer, hypothesis or a test calls with bytes."""

import base64
import json
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

from Crypto.Cipher import AES
from rq.serializers import JSONSerializer

from bridge import crypto, events, messages, queues
from bridge.crypto import Key, sign
from bridge.errors import MalformedCallback, Refused
from bridge.events import Event

TOKEN, STAMP, NONCE = "tok3nForTests", "1700000000000", "aB3dE5fG"
OWNER = "dingtestappkey00001"
#: Two pairs with one token, as while an AES key is being rotated, and one with another.
KEYS = (
    Key(TOKEN, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"),
    Key("anotherToken", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"),
    Key(TOKEN, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"),
)
#: Bytes allocated at most for each byte of input, and beside it. An object of JSON in as few bytes as possible,
#: `{"":0}`, becomes a dict; as a row it becomes an event as well: 81.
ENVELOPE_MULTIPLE, MESSAGE_MULTIPLE, BESIDE = 8, 100, 100_000

_Result = TypeVar("_Result")


def open_envelope(data: bytes) -> None:
    """Any envelope; the first byte says how much of it is genuine: nothing, the signature, or the encryption too."""
    how, rest = data[:1], data[1:]
    if how == b"r":
        text = rest.decode("utf-8", "surrogateescape")
        signature, stamp, nonce, encrypted = (text.split("\n", 3) + [""] * 3)[:4]
    else:
        encrypted, stamp, nonce = _encrypt(rest) if how == b"e" else rest.decode("utf-8", "replace"), STAMP, NONCE
        signature = sign(TOKEN, stamp, nonce, encrypted)
    size = len(data) + len(encrypted)
    try:
        opened = _bounded(
            lambda: crypto.open_envelope(KEYS, {OWNER}, signature, stamp, nonce, encrypted), size * ENVELOPE_MULTIPLE
        )
    except Refused as refusal:
        assert refusal.status in (400, 403) and str(refusal)
        assert "\n" not in str(refusal) and len(str(refusal)) < 200
        return
    assert opened.owner == OWNER and opened.key in KEYS
    assert len(opened.message) < len(encrypted)


def parse(data: bytes) -> None:
    """Any decrypted message."""
    try:
        parsed = _bounded(lambda: messages.parse(data, "acme", "dingcorp"), len(data) * MESSAGE_MULTIPLE)
    except MalformedCallback as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 200
        return
    assert parsed.events or parsed.type in messages.CHECK_EVENTS | messages.PUSH_EVENTS
    for event in parsed.events:
        _holds(event)


TARGETS: dict[str, Callable[[bytes], None]] = {"open_envelope": open_envelope, "parse": parse}


def _holds(event: Event) -> None:
    """Whatever comes after the receiver can read and keep this event."""
    ids = [event.id, event.type, event.corp_id or "", *event.user_ids]
    assert event.id and event.type and not any("\0" in text for text in ids)
    # PostgreSQL's longest key of an index.
    assert len(event.id.encode()) + len((event.corp_id or "").encode()) < 2000
    assert all(0 < number < 2**63 for number in event.dept_ids + event.role_ids)
    assert events.queue_of(event.type) in events.queue_names()
    assert events.job_id(event.id) and events.describe(event)
    assert all(entity.corp_id for entity in events.entities(event))
    assert isinstance(json.loads(bytes(event.payload)), dict)
    data = queues.encode(event)
    taken = queues.decode(data)
    assert _told(taken) == _told(event) and bytes(taken.payload) == bytes(event.payload).strip(b" \t\r\n")
    # RQ reads and writes a job again when somebody requeues it.
    again = queues.decode(JSONSerializer.dumps(JSONSerializer.loads(data)))
    assert _told(again) == _told(event) and json.loads(bytes(again.payload)) == json.loads(bytes(event.payload))


def _told(event: Event) -> dict[str, object]:
    """All but the payload."""
    return {name: getattr(event, name) for name in event.__struct_fields__ if name != "payload"}


def _encrypt(plain: bytes) -> str:
    """Base64 ciphertext of these very bytes: length and padding are theirs."""
    cipher = AES.new(KEYS[-1].secret, AES.MODE_CBC, iv=KEYS[-1].secret[:16])
    return base64.b64encode(cipher.encrypt(plain + bytes(-len(plain) % AES.block_size))).decode()


def _bounded(action: Callable[[], _Result], most: int) -> _Result:
    """Its result or refusal. Fails when it allocates more than so many bytes and some at a time."""
    # A fuzzer traces all the time: each start leaks a kilobyte.
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        return action()
    finally:
        allocated = tracemalloc.get_traced_memory()[1] - before
        if not already:
            tracemalloc.stop()
        assert allocated <= most + BESIDE, f"{allocated} bytes allocated, {most + BESIDE} are allowed"
