"""The configuration: the shipped file is its manual, every fault shows at once, and no secret shows at all."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from bridge import config as configuration
from bridge.config import AppConfig, Config, KeyPair, load, port, read_file, references
from bridge.errors import ConfigError, UnknownApp
from tests.installation import AES_KEY, CORP, settings

SHIPPED = Path(__file__).parent.parent.parent / "config.yaml"
ENVIRONMENT = {
    "BRIDGE_CONFIG": str(SHIPPED),
    "CONSOLE_PASSWORD": "pa55word",
    "ACME_TOKEN": "tok3nForTests",
    "ACME_AES_KEY": AES_KEY,
    "ACME_APP_KEY": "dingtestappkey00001",
    "ACME_CORP_ID": CORP,
    "ACME_APP_SECRET": "s3cretForTests",
}
PAIR = {"token": "tok3nForTests", "aes_key": AES_KEY}


class Files:
    """Writes a configuration and loads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.yaml"

    def load(self, content: dict[str, Any] | str, **environ: str) -> Config:
        text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
        self.path.write_text(text, "utf-8")
        return load({"BRIDGE_CONFIG": str(self.path), **environ})

    def faults(self, content: dict[str, Any] | str, **environ: str) -> list[str]:
        """The faults, without the file's name in front of each."""
        with pytest.raises(ConfigError) as error:
            self.load(content, **environ)
        front = f"{self.path}: "
        assert str(error.value) == "\n".join(error.value.faults)
        assert all(fault.startswith(front) and "\n" not in fault for fault in error.value.faults)
        return [fault.removeprefix(front) for fault in error.value.faults]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def app(**changed: Any) -> dict[str, Any]:
    return {"name": "acme", "kind": "internal", "keys": [PAIR], "owner_keys": ["owner"]} | changed


def suite(**changed: Any) -> dict[str, Any]:
    return app(name="suite", kind="suite") | changed


def models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models(inner)]


def every_field(model: type[BaseModel] = Config, path: str = "") -> Iterator[str]:
    """The path of each field that a file can set, sections and leaves."""
    for name, field in model.model_fields.items():
        yield path + name
        for inner in models(field.annotation):
            yield from every_field(inner, f"{path}{name}.")


#: A field that is shown, but not set.
COMMENTED_OUT = re.compile(rf"^( *)# (({'|'.join({path.split('.')[-1] for path in every_field()})}): .*)$")


def positions(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    """The path of each key below `node`, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield path + key.value, key.start_mark.line
            yield from positions(value, f"{path}{key.value}.")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from positions(item, path)


class TestShippedFile:
    def test_it_loads_and_equals_the_defaults(self) -> None:
        config = load(ENVIRONMENT)
        set_by_hand = {"apps", "console"}
        assert config.model_dump(exclude=set_by_hand) == Config(apps=config.apps).model_dump(exclude=set_by_hand)
        (acme,) = config.apps
        required = {name: getattr(acme, name) for name, field in AppConfig.model_fields.items() if field.is_required()}
        own = {"corp_id", "app_key", "app_secret"}
        assert acme.model_dump(exclude=own) == AppConfig(**required).model_dump(exclude=own)
        assert (acme.name, acme.kind, acme.corp_id) == ("acme", "internal", CORP)
        assert config.console.users == {"admin": SecretStr("pa55word")}

    def test_each_variable_that_it_names_is_needed(self) -> None:
        named = {name for _, name in references(read_file(SHIPPED))}
        assert named == set(ENVIRONMENT) - {"BRIDGE_CONFIG"}
        for name in named:
            with pytest.raises(ConfigError) as error:
                load({key: value for key, value in ENVIRONMENT.items() if key != name})
            assert error.value.faults
            assert all(f"the environment variable {name} is not set" in fault for fault in error.value.faults)

    @pytest.mark.parametrize("path", list(every_field()))
    def test_each_field_stands_there_with_a_comment(self, path: str) -> None:
        """Commented-out fields count; fields of one section or in a row may share a comment."""
        lines = SHIPPED.read_text("utf-8").splitlines()
        shown = [COMMENTED_OUT.sub(r"\1\2", line) for line in lines]
        places = dict(positions(yaml.compose("\n".join(shown))))
        assert path in places, f"{path} is not in config.yaml"
        at = places[path]
        near = range(max(0, at - 3), min(at + 2, len(lines)))
        assert any(lines[number].strip().startswith("# ") and lines[number] == shown[number] for number in near)


class TestFaults:
    def test_all_at_once_each_with_its_path(self, files: Files) -> None:
        faults = files.faults(
            {
                "listne": "0.0.0.0",
                "trusted_proxies": -1,
                "redis": {"url": "http://host", "usr": 1},
                "datastore": {"url": "mysql://host"},
                "encryption_key": "short",
                "dingtalk": {"api": "oapi.dingtalk.com", "calls_per_second": "many", "settle_seconds": 0.5},
                "clock": {"nightly": "24:00", "timezone": "Mars/Olympus"},
                "heal": {"max_share": 2, "max_removals": -1},
                "retention": {"events": -1},
                "console": {"users": {"admin": ""}},
                "jobs": [""],
                "apps": [
                    {"name": "a/b", "kind": "external", "keys": [], "owner_keys": []},
                    app(keys=[PAIR, {"token": "", "aes_key": "short"}], secret="x"),
                    {"name": "third"},
                ],
            }
        )
        paths = [fault.split(": ")[0] for fault in faults]
        assert sorted(paths) == sorted(
            [
                "listne", "trusted_proxies", "redis.url", "redis.usr", "datastore.url", "encryption_key",
                "dingtalk.api", "dingtalk.calls_per_second", "dingtalk.settle_seconds", "clock.nightly",
                "clock.timezone", "heal.max_share", "heal.max_removals", "retention.events", "console.users.admin",
                "jobs[0]", "apps[0].name", "apps[0].kind", "apps[0].keys", "apps[0].owner_keys",
                "apps[1].keys[1].token", "apps[1].keys[1].aes_key", "apps[1].secret",
                "apps[2].kind", "apps[2].keys", "apps[2].owner_keys",
            ]
        )  # fmt: skip
        assert "listne: is no known key" in faults and "apps[2].kind: is missing" in faults

    def test_days_before_which_there_is_no_date(self, files: Files) -> None:
        assert files.load(settings(retention={"events": 36_500, "changes": 36_500})).retention.events == 36_500
        faults = files.faults(settings(retention={"events": 999_999, "changes": 36_501}))
        assert [fault.split(": ")[0] for fault in faults] == ["retention.events", "retention.changes"]

    @pytest.mark.parametrize("content", ["", "- a\n", "text"])
    def test_no_mapping(self, files: Files, content: str) -> None:
        assert files.faults(content) == ["is no mapping of names to values"]

    def test_no_yaml(self, files: Files) -> None:
        assert files.faults("apps:\n  - name: {token: tok3n\n") == ["is no YAML at line 3"]

    @pytest.mark.parametrize(
        "value", ["2024-13-45", "!!int x", "!!int ''", "!!bool x", "!!timestamp x", "9" * 5000, "!!float ''"]
    )
    def test_a_value_that_is_none_of_its_kind(self, files: Files, value: str) -> None:
        (fault,) = files.faults(f"listen: {value}\n")
        assert fault.startswith("has a value that is none of its kind")

    @pytest.mark.parametrize("value", ["&a [*a]", "&a {b: *a}", "[" * 500, "&a [{b: [*a]}]"])
    def test_a_value_that_holds_itself(self, files: Files, value: str) -> None:
        assert files.faults(f"listen: {value}\n") == ["holds itself, or is nested too deep"]

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file; name yours in BRIDGE_CONFIG"):
            load({"BRIDGE_CONFIG": str(tmp_path / "none.yaml")})
        with pytest.raises(ConfigError, match="cannot be read"):
            load({"BRIDGE_CONFIG": str(tmp_path)})
        latin = tmp_path / "latin.yaml"
        latin.write_bytes("name: é".encode("latin-1"))
        with pytest.raises(ConfigError, match="cannot be read"):
            load({"BRIDGE_CONFIG": str(latin)})

    def test_without_a_name_it_is_config_yaml_here(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        files.load(settings())
        monkeypatch.chdir(files.path.parent)
        assert load({}) == load({"BRIDGE_CONFIG": ""}) == files.load(settings())

    def test_apps_are_needed(self, files: Files) -> None:
        assert files.faults({"listen": "::"}) == ["apps: is missing"]
        assert len(files.faults({"apps": []})) == 1

    def test_two_apps_of_one_name(self, files: Files) -> None:
        (fault,) = files.faults({"apps": [app(), app(), app(name="other")]})
        assert fault == "apps: two apps are named acme"

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (app(suite_key="k"), "suite_key and suite_secret do not belong to an app of kind internal"),
            (suite(app_secret="s"), "app_key and app_secret do not belong to an app of kind suite"),
            (app(app_key="k"), "app_key and app_secret go together"),
            (app(app_secret="s"), "app_key and app_secret go together"),
            (suite(suite_key="k"), "suite_key and suite_secret go together"),
        ],
    )
    def test_credentials_that_do_not_fit(self, files: Files, given: dict[str, Any], says: str) -> None:
        (fault,) = files.faults({"apps": [given], "encryption_key": "k" * 32})
        assert fault.startswith("apps[0]: ") and says in fault

    def test_suites_need_a_key_to_seal_with(self, files: Files) -> None:
        given = {"apps": [suite(suite_key="k", suite_secret="s")]}
        (fault,) = files.faults(given)
        assert fault.startswith("encryption_key: is missing")
        assert files.load(given | {"encryption_key": "k" * 32}).encryption_key == SecretStr("k" * 32)

    def test_a_missing_key_to_seal_with_is_told_with_other_faults(self, files: Files) -> None:
        given = {"listen": "", "apps": [suite(suite_key="k", suite_secret="s")]}
        assert sorted(fault.split(": ")[0] for fault in files.faults(given)) == ["encryption_key", "listen"]
        wrong = {**given, "encryption_key": "short"}
        assert sorted(fault.split(": ")[0] for fault in files.faults(wrong)) == ["encryption_key", "listen"]
        unset = {**given, "encryption_key": "${BRIDGE_KEY}"}
        told = "encryption_key: the environment variable BRIDGE_KEY is not set"
        assert told in files.faults(unset) and len(files.faults(unset)) == 2

    @pytest.mark.parametrize(
        "other", [app(name="b", app_key="b", app_secret="s"), app(name="b", corp_id="c"), suite(), app(name="b")]
    )
    def test_beside_others_an_app_that_reads_names_its_corp(self, files: Files, other: dict[str, Any]) -> None:
        """Its token is of one organisation; it would read the corps that nobody else reads, as if they were that."""
        reader = app(app_key="k", app_secret="s")
        (fault,) = files.faults({"apps": [other, reader]})
        assert fault.startswith("apps: corp_id is missing in an app with an app_key")
        assert fault in files.faults({"listen": "", "apps": [reader, other]})
        assert files.load({"apps": [reader]}).reader("any") is not None


class TestReferences:
    def test_variables_and_files(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s3cret\n")
        given = settings(listen="${HOST_A}.${HOST_B}")
        given["apps"][0]["app_secret"] = "${file:%s}" % (tmp_path / "secret")
        config = files.load(given, HOST_A="10.0", HOST_B="0.1")
        assert config.listen == "10.0.0.1"
        assert config.apps[0].app_secret == SecretStr("s3cret")

    def test_what_is_missing_is_told_once_with_its_path(self, files: Files, tmp_path: Path) -> None:
        given = settings(clock={"nightly": "${NIGHTLY}"}, trusted_proxies="${PROXIES}")
        given["apps"][0]["keys"] = [{"token": "${TOKEN}", "aes_key": "${AES_KEY}"}]
        given["apps"][0]["owner_keys"] = ["${file:%s}" % (tmp_path / "none")]
        assert sorted(files.faults(given)) == [
            "apps[0].keys[0].aes_key: the environment variable AES_KEY is not set",
            "apps[0].keys[0].token: the environment variable TOKEN is not set",
            f"apps[0].owner_keys[0]: the file {tmp_path / 'none'} cannot be read",
            "clock.nightly: the environment variable NIGHTLY is not set",
            "trusted_proxies: the environment variable PROXIES is not set",
        ]

    def test_a_missing_variable_hides_no_other_fault(self, files: Files) -> None:
        given = settings(listen="${HOST}", clock={"nightly": "25:00"})
        assert [fault.split(": ")[0] for fault in files.faults(given)] == ["listen", "clock.nightly"]

    def test_an_empty_variable_is_set_but_no_secret(self, files: Files) -> None:
        given = settings(console={"users": {"admin": "${PASSWORD}"}})
        assert files.faults(given, PASSWORD="") == ["console.users.admin: is empty"]

    def test_a_value_is_not_expanded_twice(self, files: Files) -> None:
        given = settings(console={"users": {"admin": "${PASSWORD}"}})
        assert files.load(given, PASSWORD="${X}").console.users["admin"] == SecretStr("${X}")

    def test_listing_them(self) -> None:
        assert list(references({"a": ["${X}", {"b": "${Y}-${file:z}"}], "c": 1})) == [
            ("a[0]", "X"),
            ("a[1].b", "Y"),
            ("a[1].b", "file:z"),
        ]


class TestSecrets:
    secrets = ("tok3nForTests", AES_KEY, "s3cretForTests", "pa55word", "redisPassw0rd", "sqlPassw0rd", "k" * 40)

    def given(self) -> dict[str, Any]:
        return settings(
            redis={"url": "redis://:redisPassw0rd@host"},
            datastore={"url": "postgresql://bridge:sqlPassw0rd@host/db"},
            encryption_key="k" * 40,
            console={"users": {"admin": "pa55word"}},
        )

    def test_repr_shows_none(self, files: Files) -> None:
        config = files.load(self.given())
        shown = repr(config) + str(config) + repr(config.apps[0].keys[0].key())
        assert not [secret for secret in self.secrets if secret in shown]

    def test_no_fault_repeats_one(self, files: Files) -> None:
        """Each secret is wrong by itself, and something next to it is wrong as well."""
        given = self.given()
        given["redis"] = {"url": "redsi://:redisPassw0rd@host", "x": "redisPassw0rd"}
        given["datastore"] = {"url": "mysql://bridge:sqlPassw0rd@host/db"}
        given["encryption_key"] = ["k" * 40]
        given["console"] = {"users": {"admin": {"pa55word": "pa55word"}}, "user": {"admin": "pa55word"}}
        given["apps"][0] |= {"app_secret": ["s3cretForTests"], "kind": "s3cretForTests", "suite_key": "s3cretForTests"}
        given["apps"][0]["keys"] = [
            {"token": "tok3nForTests" * 6, "aes_key": AES_KEY + "x"},
            {"token": ["tok3nForTests"], "aes_key": AES_KEY[:-1], "key": AES_KEY},
        ]
        text = "\n".join(files.faults(given))
        assert text.count("\n") >= 9
        assert not [secret for secret in self.secrets if secret in text or secret[:-1] in text]

    def test_a_file_that_is_no_yaml_is_not_quoted(self, files: Files) -> None:
        (fault,) = files.faults("apps:\n - {token: tok3nForTests: x}\n")
        assert "tok3n" not in fault


class TestEnvironmentWins:
    def test_over_the_file(self, files: Files) -> None:
        config = files.load(
            settings(redis={"url": "redis://file"}, var="file", dingtalk={"calls_per_second": 3}),
            REDIS_URL="redis://environment",
            DATABASE_URL="sqlite:///environment.db",
            BRIDGE_VAR="environment",
            DINGTALK_API="http://environment",
        )
        assert config.redis.url == "redis://environment" and config.datastore.url == "sqlite:///environment.db"
        assert config.var == Path("environment")
        assert (config.dingtalk.api, config.dingtalk.calls_per_second) == ("http://environment", 3)

    def test_an_empty_one_does_not(self, files: Files) -> None:
        assert files.load(settings(redis={"url": "redis://file"}), REDIS_URL="").redis.url == "redis://file"

    def test_it_is_checked_as_well(self, files: Files) -> None:
        assert [fault.split(":")[0] for fault in files.faults(settings(), REDIS_URL="nowhere")] == ["redis.url"]

    def test_a_section_that_is_no_section(self, files: Files) -> None:
        assert [fault.split(":")[0] for fault in files.faults(settings(redis="x"), REDIS_URL="redis://y")] == ["redis"]

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_what_platforms_call_a_database(self, files: Files, scheme: str) -> None:
        config = files.load(settings(), DATABASE_URL=f"{scheme}://user:word@host/db")
        assert config.datastore.url == "postgresql+psycopg://user:word@host/db"

    def test_port(self) -> None:
        assert [port(role, {}) for role in ("serve", "console", "simulate")] == [8000, 8001, 8002]
        assert port("serve", {"PORT": "1"}) == 1 and port("console", {"PORT": "65535"}) == 65535
        assert port("serve", {"PORT": ""}) == 8000

    @pytest.mark.parametrize("text", ["0", "65536", "-1", "80a", " 80", "8.0", "²"])
    def test_no_port(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"PORT: .* is no port"):
            port("serve", {"PORT": text})

    def test_no_other_module_reads_it(self) -> None:
        """metrics.py asks only whether prometheus_client's own variable is there."""
        folder = Path(configuration.__file__).parent
        readers = {path.name for path in folder.glob("*.py") if "os.environ" in path.read_text("utf-8")}
        assert readers == {"config.py", "metrics.py"}


class TestApps:
    def config(self, *apps: dict[str, Any]) -> Config:
        return Config.model_validate({"apps": list(apps), "encryption_key": "k" * 32})

    def test_by_name(self) -> None:
        config = self.config(app(), app(name="beta"))
        assert config.app("beta").name == "beta"
        with pytest.raises(UnknownApp):
            config.app("Acme")

    def test_the_first_with_credentials_reads_a_corp(self) -> None:
        secret = {"app_secret": "s"}
        config = self.config(
            app(name="blind", corp_id="c1"),
            app(name="first", corp_id="c1", app_key="k1", **secret),
            app(name="second", corp_id="c1", app_key="k2", **secret),
            app(name="other", corp_id="c2", app_key="k3", **secret),
        )
        found = {corp: reader.name for corp in ("c1", "c2", "c3") if (reader := config.reader(corp))}
        assert found == {"c1": "first", "c2": "other"}

    def test_of_suites_those_that_are_let_in_read(self) -> None:
        config = self.config(
            suite(name="s1", suite_key="k1", suite_secret="s"),
            app(corp_id="c1", app_key="k", app_secret="s"),
            suite(name="s2", suite_key="k2", suite_secret="s"),
        )
        reader = config.reader("c2", {"k2"})
        assert reader is not None and reader.name == "s2"
        assert config.reader("c2") is None
        assert config.reader("c1", {"k1", "k2"}) is config.app("s1")
        assert config.reader("c1", {"k2"}) is config.app("acme")

    def test_without_credentials_nobody_reads(self) -> None:
        assert self.config(app(corp_id="c1"), suite()).reader("c1") is None
        assert self.config(app(corp_id="c1", app_key="k", app_secret="s")).reader("c2") is None

    @pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "é", "a\n", "a" * 64, "."])
    def test_a_name_fits_into_a_url(self, name: str) -> None:
        with pytest.raises(ValueError, match="name"):
            AppConfig.model_validate(app(name=name))

    def test_a_pair_becomes_a_key(self) -> None:
        key = KeyPair.model_validate(PAIR).key()
        assert (key.token, key.aes_key) == (PAIR["token"], AES_KEY)

    def test_nothing_can_be_changed_afterwards(self) -> None:
        config = self.config(app())
        with pytest.raises(ValueError, match="frozen"):
            config.listen = "0.0.0.0"  # type: ignore[misc]


def test_what_is_overridden_need_not_be_set(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(redis={"url": "${NOWHERE}"}, datastore=None)))
    given = {"BRIDGE_CONFIG": str(path), "REDIS_URL": "redis://there", "DATABASE_URL": "sqlite:///d.db"}
    found = load(given)
    assert (found.redis.url, found.datastore.url) == ("redis://there", "sqlite:///d.db")


def test_a_port_that_is_none_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(redis={"url": "redis://there:99999"})))
    with pytest.raises(ConfigError, match=r"redis\.url: has a port"):
        load({"BRIDGE_CONFIG": str(path)})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://there/first", "names a database"),
        ("redis://there/0?colour=blue", "has an option"),
        ("redis+sentinel://one:26379,two:port/main/0", "has a port"),
        ("redis+sentinel://one:26379/main/first", "names a database"),
        ("redis+sentinel://one:26379/main?colour=blue", "has an option"),
        ("redis+sentinel://one:26379/main?health_check_interval=often", "has an option"),
        ("redis://there?decode_responses=true", "has an option"),
        ("redis://there?socket_keepalive_options=1", "has an option"),
        ("redis://there?redis_connect_func=os.system", "has an option"),
        ("redis://there?maint_notifications_config=1", "has an option"),
        ("redis://there?cache_config=1", "has an option"),
        ("redis://there?protocol=9", "has an option"),
        ("redis://there?ssl_cert_reqs=none", "has an option"),
        ("rediss://there?ssl_cert_reqs=maybe", "has an option"),
    ],
)
def test_a_redis_url_that_cannot_work_is_told_at_once(files: Files, url: str, says: str) -> None:
    (fault,) = files.faults(settings(redis={"url": url}))
    assert fault.startswith(f"redis.url: {says}")


@pytest.mark.parametrize(
    "url", ["unix:///run/redis.sock?db=1", "unix://:word@/r.sock", "redis://h", "rediss://u:w@h:1/2?ssl_cert_reqs=none",
            "redis+sentinel://:w@a:1,b/main/0", "redis+sentinel://a", "redis://[::1]:6379/0",
            "redis+sentinel://a/main?db=1&health_check_interval=30", "redis://h?client_name=us&protocol=3"],
)  # fmt: skip
def test_a_redis_url_that_can(files: Files, url: str) -> None:
    assert files.load(settings(redis={"url": url})).redis.url == url


def test_faults_between_fields_are_told_with_those_of_single_ones(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    app = settings()["apps"][0]
    lonely = {name: value for name, value in app.items() if name != "app_secret"}
    path.write_text(yaml.safe_dump({"trusted_proxies": -1, "apps": [app, lonely]}))
    with pytest.raises(ConfigError) as raised:
        load({"BRIDGE_CONFIG": str(path)})
    told = "\n".join(raised.value.faults)
    assert len(raised.value.faults) == 3
    for fault in ("trusted_proxies", "apps[1]: app_key and app_secret", "two apps are named acme"):
        assert fault in told
