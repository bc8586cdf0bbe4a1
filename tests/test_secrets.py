"""No secret of the configuration is told: by no error, no log, no metric, no result."""

import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3
import yaml
from click.testing import CliRunner

from bridge.config import Config
from ops import envelopes
from ops.cli import main
from tests.installation import CORP, Installation, answers, installed, settings
from tests.servers import free_port, redis_process, wait_until
from workers.store import migrate, tables
from workers.store.engine import open_store

TOKEN, OLD_TOKEN, SUITE_TOKEN = "tokenThatNobodySees", "oldTokenThatNobodySees", "suiteTokenThatNobodySees"
AES_KEY, OLD_KEY = (
    "sEcReT01234567890123456789012345678901234567"[:43],
    "oLdKeY01234567890123456789012345678901234567"[:43],
)
APP_SECRET, SUITE_SECRET = "appSecretThatNobodySees", "suiteSecretThatNobodySees"
PASSWORD, REDIS_PASSWORD, SQL_PASSWORD = "consoleP4ssword", "redisP4ssword", "sqlP4ssword"
SEALING_KEY = "encryptionKeyThatNobodySees012345"
SECRETS = (TOKEN, OLD_TOKEN, SUITE_TOKEN, AES_KEY, OLD_KEY, APP_SECRET, SUITE_SECRET, PASSWORD, REDIS_PASSWORD,
           SQL_PASSWORD, SEALING_KEY)  # fmt: skip


def sections(**changed: Any) -> dict[str, Any]:
    """Every section that holds a secret."""
    app = settings()["apps"][0]
    pairs = [{"token": TOKEN, "aes_key": AES_KEY}, {"token": OLD_TOKEN, "aes_key": OLD_KEY}]
    suite: dict[str, Any] = {"name": "suite", "kind": "suite", "owner_keys": ["suitekey01"], "suite_key": "suitekey01"}
    suite |= {"suite_secret": SUITE_SECRET, "keys": [{"token": SUITE_TOKEN, "aes_key": AES_KEY}]}
    apps = [app | {"keys": pairs, "app_secret": APP_SECRET}, suite]
    return {"apps": apps, "console": {"users": {"admin": PASSWORD}}, "encryption_key": SEALING_KEY, **changed}


def told(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def run(folder: Path, *verb: str, **changed: Any) -> str:
    """What a verb that fails prints; a traceback, were there one, would count as well."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections(**{"var": str(folder / "var"), **changed})))
    result = CliRunner().invoke(main, verb, env={"BRIDGE_CONFIG": str(path), "PORT": str(free_port())})
    assert result.exit_code in (1, 2)
    if not isinstance(result.exception, SystemExit):
        return result.output + "".join(traceback.format_exception(result.exception))
    return result.output


def one_line(text: str) -> None:
    assert (text.count("\n"), told(text)) == (1, []), text


def test_neither_repr_nor_str_of_the_configuration() -> None:
    urls = {"redis": {"url": f"redis://:{REDIS_PASSWORD}@h"}, "datastore": {"url": f"postgres://u:{SQL_PASSWORD}@h/d"}}
    config = Config.model_validate(sections(**urls))
    parts = [config, config.redis, config.datastore, config.console, *config.apps, *config.apps[0].keys]
    assert told("".join(f"{part!r}{part!s}" for part in [*parts, config.apps[0].keys[0].key()])) == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@127.0.0.1:1/0",
        "rediss://user:{}@127.0.0.1:1",
        "redis+sentinel://:{}@127.0.0.1:1/main/0",
        "unix://:{}@/nowhere/redis.sock",
        "redis://:{}#x@127.0.0.1:1",
        "redis://:{}@[::1/0",
        "redis://:x@127.0.0.1:1/{}",
        "redis://:x@127.0.0.1:1/0?socket_timeout={}",
        "redis://:x@127.0.0.1:1/0?{}={}",
        "unix://:x@/nowhere?db={}",
        "redis+sentinel://:{}@127.0.0.1:port/main/0",
        "redis+sentinel://:x@127.0.0.1:1/main/{}",
        "redi://:{}@127.0.0.1:1/0",
    ],
)
def test_no_error_about_redis(tmp_path: Path, url: str) -> None:
    datastore = f"sqlite:///{tmp_path}/d.db"
    store = open_store(datastore)
    migrate.migrate(store)
    store.close()
    given = {"redis": {"url": url.replace("{}", REDIS_PASSWORD)}, "datastore": {"url": datastore}}
    text = run(tmp_path, "status", "anything", **given)
    one_line(text)
    assert "redis.url" in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:{}@127.0.0.1:1/d",
        "postgresql+psycopg://u:{}@127.0.0.1:port/d",
        "postgresql+psycopg://u:{}@[::1/d",
        "postgresql+psycopg://u:{}@nowhere.invalid/d",
        "mysql://u:{}@127.0.0.1/d",
    ],
)
def test_no_error_about_the_datastore(tmp_path: Path, url: str) -> None:
    text = run(tmp_path, "migrate", datastore={"url": url.format(SQL_PASSWORD)})
    one_line(text)
    assert "datastore.url" in text


def test_no_error_about_a_secret_itself(tmp_path: Path) -> None:
    given = sections()
    given["apps"][0]["keys"][0]["aes_key"] = AES_KEY + "="
    given["apps"][0]["keys"][1]["token"] = OLD_TOKEN * 10
    given["encryption_key"] = [SEALING_KEY]
    given["apps"][1] |= {"app_secret": APP_SECRET}
    text = run(tmp_path, "serve", **given)
    assert text.count("\n") == 4
    assert told(text) == []


@contextmanager
def processes(place: Installation, ports: dict[str, int], log: Path) -> Iterator[None]:
    """All that run for long, with what they print in one file."""
    with log.open("wb") as output, ExitStack() as stack:
        for verb in ("serve", "work", "jobs", "clock", "console"):
            environment = place.environment() | {"PORT": str(ports.get(verb, 0))}
            command = [sys.executable, "-m", "ops", verb]
            process = subprocess.Popen(command, env=environment, cwd=place.folder, stdout=output, stderr=output)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        yield


def test_no_log_metric_or_result(tmp_path: Path) -> None:
    ports = {"serve": free_port(), "console": free_port()}
    log, seen = tmp_path / "log", ""
    with redis_process() as server:
        admin = redis.Redis.from_url(server.url)
        admin.config_set("requirepass", REDIS_PASSWORD)
        url = f"unix://:{REDIS_PASSWORD}@{server.path}"
        with installed(url, f"sqlite:///{tmp_path}/d.db", tmp_path, **sections()) as place:
            app, suite = place.config.apps
            callback = f"http://127.0.0.1:{ports['serve']}/callback"
            with processes(place, ports, log):
                for verb, path in (("serve", "readyz"), ("console", "healthz")):
                    wait_until(lambda v=verb, p=path: answers(f"http://127.0.0.1:{ports[v]}/{p}"), 90, verb)  # type: ignore[misc]
                wait_until(lambda: place.parts.connection.scard("rq:workers") == 2, 90, "both workers")
                userid = place.simulator.truth("acme")["users"][0]["userid"]
                message = envelopes.payload("user_modify_org", CORP, [userid])
                assert envelopes.post(f"{callback}/acme", app, message).status == 200
                assert envelopes.post(f"{callback}/acme", suite, message).status == 403
                assert envelopes.post(f"{callback}/suite", suite, {"no": "type"}).status == 400
                wait_until(lambda: place.rows(tables.events), 60, "the event")
                for port in ports.values():
                    seen += urllib3.request("GET", f"http://127.0.0.1:{port}/metrics").data.decode()
                given = place.environment() | {"PORT": str(ports["serve"])}
                asked: tuple[tuple[str, ...], ...] = (("send", "check_url"), ("status", message["eventId"]), ("sync",))
                for words in asked:
                    command = [sys.executable, "-m", "ops", *words, "--json"]
                    result = subprocess.run(command, env=given, cwd=place.folder, capture_output=True, text=True)
                    assert result.returncode == 0, result.stderr
                    seen += result.stdout + result.stderr
                # Whatever is said when Redis goes away.
                server.kill()
                assert envelopes.post(f"{callback}/acme", app, message | {"eventId": "e2"}).status == 200
                wait_until(lambda: log.read_text().count("away=Redis") >= 2, 30, "the workers to miss Redis")
                server.start()
        seen += log.read_text()
    assert "refused" in seen and "dingbridge_events_total" in seen
    assert told(seen) == []
