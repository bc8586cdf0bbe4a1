"""config.yaml and the environment, checked; every fault at once. The one place that reads the environment."""

import os
import re
import zoneinfo
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import redis
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from redis.connection import URL_QUERY_ARGUMENT_PARSERS

from bridge.crypto import Key
from bridge.errors import ConfigError, UnknownApp

#: The file that is read when BRIDGE_CONFIG names none.
DEFAULT_FILE = "config.yaml"
#: Environment variables that win over the file, and the field each of them sets.
OVERRIDES: Mapping[str, tuple[str, str]] = {
    "REDIS_URL": ("redis", "url"),
    "DATABASE_URL": ("datastore", "url"),
    "BRIDGE_VAR": ("", "var"),
    "DINGTALK_API": ("dingtalk", "api"),
}
#: Ports of serve, console and simulate where PORT is not set.
DEFAULT_PORTS: Mapping[str, int] = {"serve": 8000, "console": 8001, "simulate": 8002}

_NO_ENCRYPTION_KEY = "encryption_key: is missing; suites need it to seal permanent codes at rest"
# A token is of one organisation; without its corp_id it would be taken for everybody's.
_NO_CORP_ID = "apps: corp_id is missing in an app with an app_key; it may be left out only where there is no other app"
_TOO_DEEP = "holds itself, or is nested too deep"

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
#: Options of a Redis URL that are texts; redis-py knows the type of others.
_TEXT_OPTION = re.compile("username|password|client_name|ssl_[a-z_]+")
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")
_DATASTORE_SCHEMES = ("sqlite:///", "postgresql+psycopg://")


def _aes_key(value: SecretStr) -> SecretStr:
    Key("", value.get_secret_value())
    return value


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("is empty")
    return value


Secret = Annotated[SecretStr, AfterValidator(_not_empty)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Text = Annotated[str, Field(min_length=1)]


def redis_urls(url: str) -> list[str]:
    """The URLs that there are to check: of sentinels one for each host."""
    if url == "embedded":
        return []
    if not url.startswith("redis+sentinel://"):
        return [url]
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    database = parts.path.strip("/").partition("/")[2]
    return [f"redis://{credentials}{at}{host}/{database}?{parts.query}" for host in hosts.split(",")]


def _check_redis_url(url: str) -> None:
    """Raises ValueError that does not repeat the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is read to be checked
    except ValueError:
        raise ValueError("has a port that is no number from 0 to 65535; a password's # is %23, its / is %2F") from None
    if not parts.scheme.startswith("unix") and not re.fullmatch("/?[0-9]*/?", parts.path):
        raise ValueError("names a database that is no number, as redis://host:6379/0")
    try:
        if not all(
            name in URL_QUERY_ARGUMENT_PARSERS or _TEXT_OPTION.fullmatch(name) for name in parse_qs(parts.query)
        ):
            raise ValueError  # redis-py would take its text as it stands, whatever it needs, and fail later
        redis.ConnectionPool.from_url(url).make_connection()  # it is not connected yet
    except (ValueError, TypeError, redis.RedisError):
        raise ValueError("has an option behind the ? that does not belong there, or one with a wrong value") from None


class _Section(BaseModel):
    # hide_input: a wrong secret must not be repeated in the message about it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RedisConfig(_Section):
    # Not in the repr: a URL may carry a password.
    url: Annotated[str, Field(repr=False)] = "embedded"
    accept_unsafe: bool = False

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if url != "embedded" and not url.startswith(_REDIS_SCHEMES):
            raise ValueError(f"is neither embedded nor one of {', '.join(_REDIS_SCHEMES)}…")
        for each in redis_urls(url):
            _check_redis_url(each)
        return url


class DatastoreConfig(_Section):
    url: Annotated[str, Field(repr=False)] = "sqlite:///var/dingbridge.db"

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        # Platforms hand out postgres:// and postgresql://; we speak psycopg.
        url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
        if not url.startswith(_DATASTORE_SCHEMES):
            raise ValueError(f"is none of {', '.join(_DATASTORE_SCHEMES)}…")
        return url


class DingTalkConfig(_Section):
    api: Annotated[str, Field(pattern=r"^https?://[^/]+(/.*)?$")] = "https://oapi.dingtalk.com"
    calls_per_second: Annotated[int, Field(ge=0, le=10_000)] = 15
    settle_seconds: Annotated[float, Field(ge=1, le=3600)] = 5


class ClockConfig(_Section):
    nightly: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "03:10"
    timezone: str = "Asia/Shanghai"

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in zoneinfo.available_timezones():
            raise ValueError("is no time zone of the IANA list, as Asia/Shanghai")
        return name


class HealConfig(_Section):
    max_removals: Annotated[int, Field(ge=0)] = 20
    max_share: Annotated[float, Field(ge=0, le=1)] = 0.05


class RetentionConfig(_Section):
    # A hundred years; beyond two thousand there is no date.
    events: Annotated[int, Field(ge=0, le=36_500)] = 30
    changes: Annotated[int, Field(ge=0, le=36_500)] = 0


class ConsoleConfig(_Section):
    users: dict[str, Secret] = {}


class KeyPair(_Section):
    token: Annotated[Secret, Field(max_length=64)]
    aes_key: Annotated[Secret, AfterValidator(_aes_key)]

    def key(self) -> Key:
        """The pair as the crypto wants it."""
        return Key(self.token.get_secret_value(), self.aes_key.get_secret_value())


class AppConfig(_Section):
    name: Name
    kind: Literal["internal", "suite"]
    keys: Annotated[list[KeyPair], Field(min_length=1)]
    owner_keys: Annotated[list[Text], Field(min_length=1)]
    corp_id: Text | None = None
    app_key: Text | None = None
    app_secret: Secret | None = None
    suite_key: Text | None = None
    suite_secret: Secret | None = None
    check_reply: Literal["auto", "random", "success"] = "auto"

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> Self:
        ours, theirs = ("app", "suite") if self.kind == "internal" else ("suite", "app")
        alien = [f"{theirs}_key", f"{theirs}_secret"]
        if any(getattr(self, name) for name in alien):
            raise ValueError(f"{' and '.join(alien)} do not belong to an app of kind {self.kind}")
        if bool(getattr(self, f"{ours}_key")) != bool(getattr(self, f"{ours}_secret")):
            raise ValueError(f"{ours}_key and {ours}_secret go together: set both or neither")
        return self

    @property
    def reads(self) -> bool:
        """Whether this internal app has the credentials to read its corp at DingTalk."""
        return self.kind == "internal" and self.app_key is not None


class Config(_Section):
    listen: Text = "127.0.0.1"
    trusted_proxies: Annotated[int, Field(ge=0)] = 0
    redis: RedisConfig = RedisConfig()
    datastore: DatastoreConfig = DatastoreConfig()
    var: Path = Path("var")
    encryption_key: Annotated[Secret, Field(min_length=32)] | None = None
    dingtalk: DingTalkConfig = DingTalkConfig()
    clock: ClockConfig = ClockConfig()
    heal: HealConfig = HealConfig()
    retention: RetentionConfig = RetentionConfig()
    console: ConsoleConfig = ConsoleConfig()
    jobs: list[Text] = []
    apps: Annotated[list[AppConfig], Field(min_length=1)]

    @model_validator(mode="after")
    def _apps_fit_together(self) -> Self:
        names = [app.name for app in self.apps]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"apps: two apps are named {', '.join(twice)}")
        if len(self.apps) > 1 and any(app.reads and not app.corp_id for app in self.apps):
            raise ValueError(_NO_CORP_ID)
        if self.encryption_key is None and any(app.kind == "suite" and app.suite_key for app in self.apps):
            raise ValueError(_NO_ENCRYPTION_KEY)
        return self

    def app(self, name: str) -> AppConfig:
        """The app of that name. Raises UnknownApp."""
        for app in self.apps:
            if app.name == name:
                return app
        raise UnknownApp

    @property
    def suites(self) -> list[AppConfig]:
        """The third-party apps that have their credentials."""
        return [app for app in self.apps if app.kind == "suite" and app.suite_key]

    def reader(self, corp_id: str, let_in: Collection[str] = ()) -> AppConfig | None:
        """The app that reads this corp: the first with credentials; None where no app can.

        `let_in`: the keys of the suites that the corp has authorised.
        """
        for app in self.apps:
            # Who names no corp is alone, and works for the one that it is in.
            if (app.reads and app.corp_id in (corp_id, None)) or app.suite_key in let_in:
                return app
        return None


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of this process. Raises ConfigError with every fault, each with its path."""
    path = Path(environ.get("BRIDGE_CONFIG") or DEFAULT_FILE)
    faults: list[str] = []
    data = read_file(path)
    overridden = {place: environ[name] for name, place in OVERRIDES.items() if environ.get(name)}
    for section, field in overridden:
        # What is overridden may refer to what is not there.
        _section(data, section).pop(field, None)
    try:
        data = _expand(data, environ, faults)
    except RecursionError:
        raise ConfigError([f"{path}: {_TOO_DEEP}"]) from None
    for (section, field), value in overridden.items():
        _section(data, section)[field] = value
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        found = [*_faults(error), *_faults_between(data)]
        faults += [fault for fault in dict.fromkeys(found) if not _reported(fault, faults)]
    if faults:
        raise ConfigError([f"{path}: {fault}" for fault in faults])
    return config


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A section to change, made where it is empty; one that is no section is a fault that is told elsewhere."""
    if not name:
        return data
    if data.get(name) is None:
        data[name] = {}
    return data[name] if isinstance(data[name], dict) else {}


def port(role: str, environ: Mapping[str, str] = os.environ) -> int:
    """The port that serve, console or simulate listens on. Raises ConfigError."""
    text = environ.get("PORT") or str(DEFAULT_PORTS[role])
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError([f"PORT: {text} is no port; it is a number from 1 to 65535"])
    return int(text)


def read_file(path: Path) -> dict[str, Any]:
    """The file as it stands, references unresolved. Raises ConfigError."""
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; name yours in BRIDGE_CONFIG"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}: is no YAML{where}"]) from None
    except (ValueError, LookupError, AttributeError):
        # What PyYAML makes of `2024-13-45` or `!!int x`; it does not tell where.
        raise ConfigError(
            [f"{path}: has a value that is none of its kind, as a 13th month; quote what is text"]
        ) from None
    except RecursionError:
        raise ConfigError([f"{path}: {_TOO_DEEP}"]) from None
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: is no mapping of names to values"])
    return data


def references(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every `${…}` below `value`, with the path where it stands."""
    if isinstance(value, str):
        yield from ((path, name) for name in _REFERENCE.findall(value))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from references(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from references(item, f"{path}[{index}]")


def _expand(value: Any, environ: Mapping[str, str], faults: list[str], path: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, environ, faults, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(item, environ, faults, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def resolve(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("file:"):
            try:
                return Path(name.removeprefix("file:")).read_text("utf-8").rstrip("\n")
            except (OSError, UnicodeDecodeError):
                faults.append(f"{path}: the file {name.removeprefix('file:')} cannot be read")
                return match[0]
        if name not in environ:
            faults.append(f"{path}: the environment variable {name} is not set")
            return match[0]
        return environ[name]

    return _REFERENCE.sub(resolve, value)


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        path = ""
        for part in fault["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        message = {
            "extra_forbidden": "is no known key",
            "missing": "is missing",
        }.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        yield f"{path}: {message}" if path else message


def _faults_between(data: Mapping[str, Any]) -> Iterator[str]:
    """Faults between fields: pydantic looks for them only once each field is right by itself."""
    apps = data.get("apps")
    apps = [app if isinstance(app, dict) else {} for app in apps] if isinstance(apps, list) else []
    for index, app in enumerate(apps):
        if app.get("kind") not in ("internal", "suite"):
            continue
        ours, theirs = ("suite", "app") if app["kind"] == "suite" else ("app", "suite")
        if app.get(f"{theirs}_key") or app.get(f"{theirs}_secret"):
            yield f"apps[{index}]: {theirs}_key and {theirs}_secret do not belong to an app of kind {app['kind']}"
        if bool(app.get(f"{ours}_key")) != bool(app.get(f"{ours}_secret")):
            yield f"apps[{index}]: {ours}_key and {ours}_secret go together: set both or neither"
    suites = [app for app in apps if app.get("kind") == "suite" and app.get("suite_key")]
    if suites and data.get("encryption_key") is None:
        yield _NO_ENCRYPTION_KEY
    reading = [app for app in apps if app.get("kind") == "internal" and app.get("app_key")]
    if len(apps) > 1 and not all(app.get("corp_id") for app in reading):
        yield _NO_CORP_ID
    names = [str(app["name"]) for app in apps if app.get("name")]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"apps: two apps are named {', '.join(twice)}"


def _reported(fault: str, faults: list[str]) -> bool:
    """Whether the value is wrong only because its reference could not be resolved."""
    return fault.split(":")[0] in {known.split(":")[0] for known in faults}
