"""The parameters of one API call, whichever way they came: JSON, form or query. Pure: no I/O."""

import json
from collections.abc import Mapping
from typing import Any

from simulator.errors import ApiError


class Params:
    """Reads parameters by name. Whatever is missing or wrong raises ApiError with the given errcode."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str, errcode: int = 400002, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value:
            raise ApiError(errcode)
        return value

    def optional(self, name: str) -> str:
        """The text, or an empty one."""
        value = self._values.get(name)
        return "" if value is None else str(value)

    def integer(self, name: str, errcode: int = 400002, default: int | None = None) -> int:
        """A number, also as digits in a string, as forms send it."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ApiError(errcode)
        try:
            return int(value)
        except ValueError:
            raise ApiError(errcode) from None

    def within(self, name: str, low: int, high: int, errcode: int, default: int | None = None) -> int:
        number = self.integer(name, errcode, default)
        if not low <= number <= high:
            raise ApiError(errcode)
        return number

    def flag(self, name: str) -> bool:
        return str(self._values.get(name, "false")).lower() == "true"

    def texts(self, name: str, errcode: int) -> list[str]:
        """A non-empty list of strings, also as JSON text, as forms send it."""
        value = self._values.get(name)
        if isinstance(value, str):
            value = parse_json(value, errcode)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise ApiError(errcode)
        return value

    def nested(self, name: str, errcode: int) -> "Params":
        """An object below `name`, also as JSON text; the parameters themselves where there is none."""
        value = self._values.get(name, self._values)
        if isinstance(value, str):
            value = parse_json(value, errcode)
        if not isinstance(value, Mapping):
            raise ApiError(errcode)
        return Params(value)


def parse_json(text: str, errcode: int) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError(errcode) from None
