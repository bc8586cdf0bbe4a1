"""What verbs take as JSON and print, for people or as JSON."""

import json
from datetime import datetime
from typing import Any

import click


def json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise click.UsageError(f"--data is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError("--data is no JSON object")
    return value


def show(result: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(result, default=_iso, ensure_ascii=False) if as_json else text)


def _iso(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
