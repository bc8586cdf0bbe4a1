"""Single values of DingTalk's answers, taken in every form that its documentation shows. Pure: no I/O.

It shows quoted numbers, objects in place of arrays, JSON within strings (api.md). What cannot be read raises
msgspec.ValidationError, whose text names the field and never its value.
"""

import json
import re
from typing import Any, TypeAlias

import msgspec
from msgspec import ValidationError

Json: TypeAlias = dict[str, Any]

_FLAG_WORDS = {"true": True, "1": True, "false": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]+")


def decode(body: bytes) -> Json:
    """The JSON object in a body; raises ValueError when there is none.

    NUL is replaced, as no SQL text can hold it, and so is half an emoji, which a name that was cut short may end with.
    """
    if b"\\u0000" in body:
        body = body.replace(b"\\u0000", b"\\ufffd")
    try:
        return as_object(_lenient(body), "answer")
    except RecursionError:
        raise ValueError("nested too deep") from None


def _lenient(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        lenient = json.dumps(json.loads(body.decode("utf-8-sig", "replace")), ensure_ascii=False)
        return msgspec.json.decode(lenient.encode("utf-8", "replace"))


def text_of(answer: Json, field: str) -> str:
    """A field as text, "" where it is absent: codes and messages come as strings or numbers."""
    return as_text(answer.get(field), field) or ""


def result_of(answer: Json) -> Json:
    return as_object(answer["result"], "result") if "result" in answer else answer


def pick(item: Json, *names: str) -> Any:
    return next((item[name] for name in names if name in item), None)


def _parsed(value: Any, field: str) -> Any:
    """JSON text where a list or an object is meant."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise ValidationError(f"{field} is no JSON") from None


def as_object(value: Any, field: str) -> Json:
    value = _parsed(value, field)
    if not isinstance(value, dict):
        raise ValidationError(f"{field} is no object")
    return value


def as_list(value: Any, field: str) -> list[Any]:
    value = _parsed(value, field)
    if isinstance(value, list):
        return value
    return [] if value in (None, "", {}) else [value]


def as_objects(value: Any, field: str) -> list[Json]:
    return [as_object(item, field) for item in as_list(value, field)]


def as_dept_ids(value: Any, field: str) -> list[int]:
    ids = dict.fromkeys(as_int(item, field) for item in as_list(value, field))
    return [dept_id for dept_id in ids if dept_id > 0]


def as_userids(value: Any, field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(as_userid(item, field) for item in as_list(value, field)))


def as_userid(value: Any, field: str) -> str:
    if isinstance(value, str) and value:
        return value
    if type(value) is int:
        return str(value)
    raise ValidationError(f"{field} is no id")


def as_text(value: Any, field: str) -> str | None:
    if isinstance(value, str):
        return value or None
    if value in (None, {}, []):
        return None
    return msgspec.json.encode(value).decode()


def as_optional_int(value: Any, field: str) -> int | None:
    return None if value in (None, "") else as_int(value, field)


def as_int(value: Any, field: str) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValidationError(f"{field} is no whole number")


def says_yes(value: Any) -> bool:
    """Whether this is a true flag; what is none at all says no."""
    return _FLAG_WORDS.get(str(value).lower(), False)


def as_optional_flag(value: Any, field: str) -> bool:
    return value not in (None, "") and as_flag(value, field)


def as_flag(value: Any, field: str) -> bool:
    if isinstance(value, bool):
        return value
    word = _FLAG_WORDS.get(str(value).lower())
    if word is None:
        raise ValidationError(f"{field} is neither true nor false")
    return word
