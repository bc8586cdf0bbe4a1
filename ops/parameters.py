"""What verbs take on the command line beyond click's own kinds: times, and names of entities."""

from datetime import UTC, datetime

import click

from ops.registering import is_address
from workers.replay import Named

#: Ids beyond this are none: they are 64-bit numbers.
_MAX_ID = 2**63


class Time(click.ParamType[datetime]):
    """A date or a time in ISO 8601; UTC where it names no offset."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = datetime.fromisoformat(str(value))
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            fault = f"{value} is no time: write 2026-01-31 or 2026-01-31T08:30, with +08:00 if it is not UTC"
            raise click.BadParameter(fault, ctx, param) from None


class Address(click.ParamType[str]):
    """Where something of ours answers: `http://host:port`, or with https and a path."""

    name = "url"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_address(str(value)):
            # It may hold a password.
            raise click.BadParameter("it is no address: write http://host:port, or https://host", ctx, param)
        return str(value)


class EntityName(click.ParamType[Named]):
    """`user:ID`, `department:ID` or `role:ID`."""

    name = "entity"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Named:
        kind, _, identifier = str(value).partition(":")
        if kind == "user" and identifier:
            return Named(kind, identifier)
        if kind in ("department", "role") and identifier.isdecimal() and int(identifier) < _MAX_ID:
            return Named(kind, int(identifier))
        raise click.BadParameter(
            f"{value} names no entity: write user:ID, department:NUMBER or role:NUMBER", ctx, param
        )
