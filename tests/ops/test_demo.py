"""What the demonstration takes from its folder and its environment, and what it makes up."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import config as configuration
from bridge.errors import ConfigError
from ops import demo
from tests.installation import settings


def environ(folder: Path, *, given: Mapping[str, str] | None = None, **changed: Any) -> dict[str, str]:
    """Of the demonstration with this configuration."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(**changed)))
    return demo.environment({"BRIDGE_CONFIG": str(path), **(given or {})})


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_its_stores_are_its_own_whatever_is_set(tmp_path: Path) -> None:
    production = {"REDIS_URL": "redis://prod", "DATABASE_URL": "postgresql://prod/d", "DINGTALK_API": "https://prod"}
    stores = {"redis": {"url": "redis://prod"}, "datastore": {"url": "postgresql://prod/d"}}
    for found in (environ(tmp_path, given=production), environ(tmp_path, **stores)):
        config = configuration.load(found)
        assert (config.redis.url, config.datastore.url) == ("embedded", "sqlite:///var/dingbridge.db")
        assert config.dingtalk.api == "http://127.0.0.1:8002"


@pytest.mark.parametrize(
    ("listen", "api"),
    [
        ("127.0.0.2", "http://127.0.0.2:18422"),
        ("0.0.0.0", "http://127.0.0.1:18422"),
        ("::", "http://[::1]:18422"),
    ],
)
def test_the_simulator_is_looked_for_where_it_listens(tmp_path: Path, listen: str, api: str) -> None:
    assert environ(tmp_path, given={"PORT": "18420"}, listen=listen)["DINGTALK_API"] == api


def test_addresses_and_folders_that_are_not_set_are_no_secrets(tmp_path: Path) -> None:
    unset: dict[str, Any] = {"redis": {"url": "${REDIS_URL}"}, "datastore": {"url": "${DATABASE_URL}"}}
    found = environ(tmp_path, var="${MY_VAR}", encryption_key="${BRIDGE_KEY}", **unset)
    assert configuration.load(found).var == Path("var")
    assert json.loads((tmp_path / "var" / "demo-secrets.json").read_text()) == {"BRIDGE_KEY": found["BRIDGE_KEY"]}
    found = environ(tmp_path, given={"MY_VAR": "there"}, var="${MY_VAR}/var")
    assert configuration.load(found).datastore.url == "sqlite:///there/var/dingbridge.db"
    with pytest.raises(ConfigError, match="listen: the environment variable LISTEN is not set"):
        environ(tmp_path, listen="${LISTEN}")


def test_secrets_are_kept_for_the_next_time(tmp_path: Path) -> None:
    first = environ(tmp_path, encryption_key="${BRIDGE_KEY}")["BRIDGE_KEY"]
    users = {"users": {"admin": "${CONSOLE_PASSWORD}"}}
    second = environ(tmp_path, encryption_key="${BRIDGE_KEY}", console=users)
    assert second["BRIDGE_KEY"] == first
    kept = tmp_path / "var" / "demo-secrets.json"
    assert json.loads(kept.read_text()) == {name: second[name] for name in ("BRIDGE_KEY", "CONSOLE_PASSWORD")}
    assert (kept.stat().st_mode & 0o777, [path.name for path in kept.parent.iterdir()]) == (0o600, [kept.name])


@pytest.mark.parametrize("text", ["", '{"BRIDGE_KEY": "x', "[]"])
def test_secrets_that_cannot_be_read_are_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "demo-secrets.json").write_text(text)
    with pytest.raises(ConfigError, match=r"demo-secrets\.json: cannot be read; delete it"):
        environ(tmp_path, encryption_key="${BRIDGE_KEY}")
