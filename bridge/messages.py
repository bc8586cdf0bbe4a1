"""What a decrypted message says: its events, whether it came as a callback, a pushed row or from the failed list.

Pure: no I/O. Payload facts: KB-E/0073-0096 (generation B), ZYX captures of 2021 (generation A), KB-E/0350 (pushed
rows).
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from bridge.errors import MalformedCallback
from bridge.events import Event, Via

#: Levels of JSON in one another; DingTalk's own have five. Every reader of the queue and the datastore can take these.
MAX_DEPTH = 100
#: Bytes; a longer id or type is none. DingTalk's have up to 64, and PostgreSQL indexes no more than 2704 of all keys.
MAX_TEXT = 255
#: Milliseconds; a time beyond the year 3000 is none.
_MAX_TIME = 32_503_680_000_000
#: A JSON escape: a whole surrogate pair, half of one (the group), or any other.
_ESCAPE = re.compile(rb"(?is)\\(?:ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(ud[89a-f][0-9a-f]{2})|.)")
#: Layers of JSON text within JSON text in which codes are looked for; DingTalk's have two. Each may double the length.
MAX_LAYERS = 4
#: A JSON string from its first character on: what is in it, and its end, at which it may be broken off.
_REST_OF_STRING = r'([^"\\]*+(?:\\.[^"\\]*+)*+)("|\\?\Z)'
_STRING = re.compile(f'(?s)"{_REST_OF_STRING}')
#: The name of its field, as it may stand in a text that cannot be read.
_CODE_NAME = re.compile(r"(?i)permanent(?:_|\\+u005f)?code")
#: A permanent code, from the end of its field's name on; in JSON, but not in a string of it.
_PERMANENT_CODE = re.compile(rf'(?is)(permanent_?code\s*"\s*:\s*"){_REST_OF_STRING}')

#: Checks of a suite's URL, which carry a `Random`.
SUITE_CHECK_EVENTS = frozenset({"check_create_suite_url", "check_update_suite_url"})
#: Answered and counted, never queued.
CHECK_EVENTS = SUITE_CHECK_EVENTS | {"check_url"}

#: Envelopes of pushed rows; each row is an event of its own.
PUSH_EVENTS = frozenset({"SYNC_HTTP_PUSH_HIGH", "SYNC_HTTP_PUSH_MEDIUM"})

#: Which ids a pushed row's biz_id gives, by biz_type (KB-E/0005).
_BIZ_ID_FIELD: Mapping[int, str] = {13: "user_ids", 14: "dept_ids", 15: "role_ids"}

#: Where an item of the failed list holds what the callback said, beside the field named like its tag (api.md §6).
_ITEM_DATA = ("data", "call_back_data")
#: And within that: contacts, roles, approvals.
_ITEM_INNER = ("callbackdata", "rolelabelchange", "bpmscallbackdata")

_TOO_DEEP = "the message is nested too deep"
_decode = msgspec.json.Decoder().decode


class Parsed(NamedTuple):
    """A message's type, the events to queue (none for a check), and the `Random` of a suite check."""

    type: str
    events: tuple[Event, ...]
    random: str | None


class Row(NamedTuple):
    """A pushed row: `order` sorts as its source changed (gmt_modified, then syncSeq), `data` is its biz_data."""

    order: str
    data: dict[str, Any]


def without_codes(message: bytes) -> bytes:
    """The message without the permanent codes that pushed rows still carry (KB-E/0350): none lies anywhere in clear.

    Also in JSON text within it; all else stays as it is written, but for text that may hold one beyond MAX_LAYERS.
    """
    if b"permanent" not in message.lower():
        return message
    return _without_codes(message.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _without_codes(text: str, layers: int = MAX_LAYERS) -> str:
    return _STRING.sub(partial(_inside_without_codes, layers), _PERMANENT_CODE.sub(r"\1\3", text))


def _inside_without_codes(layers: int, string: re.Match[str]) -> str:
    """A JSON string, whose text may be JSON itself; of other text only what looks like a code goes."""
    inside, end = string.groups()
    if "\\" not in inside or "permanent" not in inside.lower():
        return string[0]  # a field's name has quotes
    try:
        text = json.loads(f'"{inside}"', strict=False) if layers else None
    except ValueError:
        text = None
    if text is None:  # nobody could read it
        return f'"{end}' if _CODE_NAME.search(inside) else string[0]
    found = _without_codes(text, layers - 1)
    return string[0] if found == text else f"{json.dumps(found)[:-1]}{end}"


def told(event: Event) -> dict[str, Any]:
    """What an event's payload says, keys in lower case; of a pushed row what its biz_data says."""
    if (row := pushed_row(event)) is not None:
        return row.data
    fields = _fold(_object(bytes(event.payload)))
    tag = _tag(fields)
    return fields if tag is None else _said(fields, _item_data(fields, tag))


def pushed_row(event: Event) -> Row | None:
    """The row that an event was made of; None for one of a callback."""
    if b"biz_data" not in bytes(event.payload).lower():
        return None  # most are not
    fields = _fold(_object(bytes(event.payload)))
    if "biz_data" not in fields:
        return None
    data = _fold(_biz_data(fields["biz_data"]))
    modified, sequence = _number(fields.get("gmt_modified")) or 0, _text(data.get("syncseq")) or ""
    return Row(f"{max(modified, 0):020d}/{sequence.upper():0>32}", data)


def parse(message: bytes, app: str, app_corp_id: str | None, via: Via = "http") -> Parsed:
    """What a decrypted message says.

    Raises MalformedCallback when it is no JSON object, has no EventType, or is one that the worker could not read.
    """
    message = without_codes(_mend(message))
    body = _object(message)
    fields = _fold(body)
    given = fields.get("eventtype")
    event_type = _text(given) if isinstance(given, str) else None
    if event_type is None:
        raise MalformedCallback("the message has no EventType")
    if event_type in CHECK_EVENTS:
        random = fields.get("random") if event_type in SUITE_CHECK_EVENTS else None
        return Parsed(event_type, (), random if isinstance(random, str) else None)
    made: tuple[Event, ...] = ()
    rows = fields.get("bizdata")
    if event_type in PUSH_EVENTS and isinstance(rows, list):
        good = [row for row in rows if isinstance(row, dict) and row]
        made = tuple(_pushed(row, event_type, app, app_corp_id, via) for row in good)
        if len(good) == len(rows):
            return Parsed(event_type, made, None)
    # What is no row is kept within its envelope: a payload is always an object.
    return Parsed(event_type, (*made, _event(body, fields, event_type, message, app, app_corp_id, via)), None)


def parse_failed_item(item: Any, app: str, app_corp_id: str | None) -> tuple[Event, ...]:
    """The events of one item of DingTalk's failed list, whichever of its shapes it has (api.md §6).

    Where it holds the whole message, or an eventId, these have the ids that the callback's would have had.
    Raises MalformedCallback when it cannot be read.
    """
    body = _embedded(item)
    if body is None:
        raise MalformedCallback("the item is no JSON object")
    _measure(body)
    fields = _fold(body)
    tag = _tag(fields)
    if tag is None:
        raise MalformedCallback("the item has no call_back_tag")
    inner = _item_data(fields, tag)
    whole = [data for data in inner if "eventtype" in _fold(data)]
    if tag in PUSH_EVENTS:
        whole += [{"EventType": tag} | data for data in (body, *inner) if "bizdata" in _fold(data)]
    if whole:
        return parse(_encode(whole[0]), app, app_corp_id, "failed_list").events
    told = _said(fields, inner)
    told.setdefault("eventtime", told.get("event_time"))
    return (_event(body, told, tag, _encode(body), app, app_corp_id, "failed_list"),)


def _tag(fields: Mapping[str, Any]) -> str | None:
    """The type that an item of the failed list names; None for what is no such item."""
    given = fields.get("call_back_tag")
    return _text(given) if isinstance(given, str) else None


def _item_data(fields: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    """What an item holds of its callback, in each place where it may stand.

    Raises MalformedCallback where it is broken off in each.
    """
    found: list[dict[str, Any]] = []
    broken: MalformedCallback | None = None
    for name in (tag.lower(), *_ITEM_DATA):
        try:
            data = _embedded(fields.get(name))
        except MalformedCallback as error:
            broken = error
        else:
            found += [] if data is None else [data]
    if broken is not None and not found:
        raise broken
    return found


def _said(fields: dict[str, Any], inner: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All that an item says, from the outside in; the first that says anything wins."""
    layers = [fields, *map(_fold, inner)]
    for name in _ITEM_INNER:
        layers += [_fold(data) for layer in layers if (data := _embedded(layer.get(name))) is not None]
    return {name: value for layer in reversed(layers) for name, value in layer.items() if value not in (None, "", [])}


def _embedded(value: Any) -> dict[str, Any] | None:
    """An object, also as JSON text; None for what is neither. Raises MalformedCallback for text that is broken off."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        return _object(_mend(value.encode()))
    return value if isinstance(value, dict) else None


def _encode(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def fingerprint(app: str, body: Any) -> str:
    """The id of a message that has none: SHA-256 of the app and its canonical JSON."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{app}\n{canonical}".encode("utf-8", "surrogatepass")).hexdigest()


def _mend(message: bytes) -> bytes:
    """Without a byte order mark; half of a surrogate pair, as a name cut within an emoji leaves it, becomes U+FFFD."""
    message = message.removeprefix(codecs.BOM_UTF8)
    if b"\\ud" not in message.lower():
        return message
    return _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], message)


def _object(message: bytes) -> dict[str, Any]:
    try:
        body = _decode(message)
    except RecursionError:
        raise MalformedCallback(_TOO_DEEP) from None
    except msgspec.ValidationError:
        # Neither the worker nor the functions of users could read the payload again.
        raise MalformedCallback("the message has a number out of range") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedCallback("the message is not JSON") from None
    if not isinstance(body, dict):
        raise MalformedCallback("the message is no JSON object")
    if message.count(b"{") + message.count(b"[") > MAX_DEPTH:
        _measure(body)
    return body


def _measure(body: dict[str, Any]) -> None:
    """Raises MalformedCallback beyond MAX_DEPTH, which the recursion limit of no process must decide."""
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not level:
            return
    raise MalformedCallback(_TOO_DEEP)


def _fold(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in lower case without stray spaces, the first that says anything wins."""
    fields: dict[str, Any] = {}
    for key, value in body.items():
        name = key.strip().lower()
        if fields.get(name) in (None, "", []):
            fields[name] = value
    return fields


def _event(
    body: Any, fields: Mapping[str, Any], event_type: str, message: bytes, app: str, app_corp: str | None, via: Via
) -> Event:
    return Event(
        id=_text(fields.get("eventid")) or fingerprint(app, body),
        type=event_type,
        app=app,
        corp_id=_text(fields.get("corpid")) or _text(fields.get("authcorpid")) or app_corp,
        via=via,
        occurred_at=_milliseconds(fields.get("eventtime"), fields.get("timestamp"), fields.get("eventborntime")),
        user_ids=_texts(fields.get("userid"), fields.get("useridlist")),
        dept_ids=_ids(fields.get("deptid")),
        role_ids=_ids(fields.get("labelidlist")),
        payload=msgspec.Raw(message),
    )


def _pushed(row: dict[str, Any], envelope: str, app: str, app_corp: str | None, via: Via) -> Event:
    """The event of one pushed row; one that cannot be read is kept under its envelope's name."""
    fields = _fold(row)
    data = _fold(_biz_data(fields.get("biz_data")))
    keys = [_text(fields.get(name)) or "" for name in ("subscribe_id", "corp_id", "biz_id", "biz_type")]
    version = _text(data.get("syncseq")) or _text(fields.get("gmt_modified"))
    ids = _BIZ_ID_FIELD.get(_number(fields.get("biz_type")) or 0)
    return Event(
        id="/".join([*keys, version]) if version and all(keys) else fingerprint(app, row),
        type=_text(data.get("syncaction")) or envelope,
        app=app,
        corp_id=_text(fields.get("corp_id")) or app_corp,
        via=via,
        occurred_at=_milliseconds(fields.get("gmt_modified"), fields.get("gmt_create")),
        user_ids=_texts(fields.get("biz_id")) if ids == "user_ids" else (),
        dept_ids=_ids(fields.get("biz_id")) if ids == "dept_ids" else (),
        role_ids=_ids(fields.get("biz_id")) if ids == "role_ids" else (),
        payload=msgspec.Raw(msgspec.json.encode(row)),
    )


def _biz_data(value: Any) -> dict[str, Any]:
    """A row's biz_data: JSON text on the wire, an object on the documentation's pages.

    NUL is replaced, however deep it is escaped, as no SQL text can hold it.
    """
    if isinstance(value, str):
        try:
            return _object(_mend(value.encode()).replace(rb"\u0000", rb"\ufffd"))
        except MalformedCallback:
            return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        value = str(value)
    # PostgreSQL's text holds no NUL.
    text = value.replace("\0", "").strip()
    return text if text and len(text.encode()) <= MAX_TEXT else None


def _number(value: Any) -> int | None:
    text = _text(value)
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,19}", text) else None


def _several(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if value is not None:
            yield from value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _texts(*values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for value in _several(values) if (text := _text(value))))


def _ids(*values: Any) -> tuple[int, ...]:
    """Ids above 0: school contacts hang under negative ones, which no call can read (virtual-ldap#19)."""
    numbers = (_number(value) for value in _several(values))
    return tuple(dict.fromkeys(number for number in numbers if number and 0 < number < 2**63))


def _milliseconds(*values: Any) -> int | None:
    numbers = (_number(value) for value in values)
    return next((number for number in numbers if number and 0 < number < _MAX_TIME), None)
