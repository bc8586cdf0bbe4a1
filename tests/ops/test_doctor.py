"""`dingbridge doctor` names what is wrong, and the mend; `dingbridge register` speaks to DingTalk."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from bridge import queues
from bridge.config import Config
from bridge.events import CONTACT_EVENTS
from bridge.queues import Patience
from bridge.receiver import create_receiver
from bridge.verdicts import Verdicts
from ops.cli import main
from ops.doctoring import Finding, examine
from tests.installation import AES_KEY, CORP, Installation, installed, settings
from tests.servers import free_port, redis_process, wait_until
from tests.suites.stage import SEALING_KEY, Stage, a_suite
from workers.clock import LEADER_KEY
from workers.store import suites, tables
from workers.store.suites import Ticket

OTHER_KEY = AES_KEY[::-1]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An internal app and a suite, all as it should be: the ticket has come, a corp has authorised the suite."""
    apps = [*settings()["apps"], a_suite()]
    url = f"sqlite:///{tmp_path}/d.db"
    with installed(redis_url, url, tmp_path, users=20, apps=apps, encryption_key=SEALING_KEY) as made:
        Stage(made, False).begin()
        made.parts.connection.set(LEADER_KEY, "a clock")
        yield made


@contextmanager
def serving(place: Installation, given: dict[str, Any]) -> Iterator[str]:
    """A receiver of this configuration where DingTalk calls back."""
    config = Config.model_validate(given)
    server = make_server("127.0.0.1", place.port, create_receiver(config, queues.connect(config, Patience.RECEIVER)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def changed(place: Installation, change: Change) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(json.dumps(place.settings))
    change(given)
    return given


def noted(place: Installation, app: str) -> bool:
    return bool(Verdicts(place.parts.connection).read(app))


def looked(place: Installation, given: dict[str, Any], app: str, told: bool = True) -> list[Finding]:
    """What doctor finds once DingTalk has called back."""
    with serving(place, given) as url:
        if told:
            event: dict[str, Callable[[], object]] = {
                "acme": lambda: place.simulator.change("acme", "user_modify_org", generation="B")
            }
            event |= {"shop": lambda: place.simulator.push("shop", "change_auth")}
            event[app]()
            wait_until(lambda: noted(place, app), 20, "the note of a callback")
        return list(examine(Config.model_validate(given), url))


def faults(found: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.subject, finding.check) for finding in found if finding.state == "fault"}


def test_a_sound_installation_has_no_fault(place: Installation) -> None:
    found = looked(place, place.settings, "acme")
    assert faults(found) == set()
    checks = {(finding.subject, finding.check) for finding in found if finding.state == "ok"}
    for app in ("acme", "shop"):
        assert {(app, name) for name in ("owner key", "address", "credentials", "permission")} <= checks
    assert {("redis", "setting"), ("datastore", "tables"), ("acme", "callbacks"), ("shop", "ticket")} <= checks


@pytest.mark.parametrize(("number", "app"), [(0, "acme"), (1, "shop")])
@pytest.mark.parametrize(
    ("check", "change", "mend"),
    [
        ("token", lambda app: app["keys"][0].update(token="another"), "copy the token"),
        ("aes key", lambda app: app["keys"][0].update(aes_key=OTHER_KEY), "copy the EncodingAESKey"),
        ("owner key", lambda app: app.update(owner_keys=["another"]), "add "),
    ],
)
def test_keys(place: Installation, number: int, app: str, check: str, change: Change, mend: str) -> None:
    found = looked(place, changed(place, lambda given: change(given["apps"][number])), app)
    assert faults(found) == {(app, check)}
    assert all(finding.mend.startswith(mend) for finding in found if finding.state == "fault")


def test_a_key_that_was_mended_is_wrong_no_more(place: Installation) -> None:
    wrong = changed(place, lambda given: given["apps"][0]["keys"][0].update(token="another"))
    assert faults(looked(place, wrong, "acme")) == {("acme", "token")}
    with serving(place, place.settings) as url:
        place.simulator.change("acme", "user_modify_org", generation="B")
        wait_until(lambda: "good" in Verdicts(place.parts.connection).read("acme"), 20, "the note of an event")
        assert faults(list(examine(place.config, url))) == set()


@pytest.mark.parametrize(
    ("number", "app", "secret", "mend"),
    [(0, "acme", "app_secret", "app_key and app_secret"), (1, "shop", "suite_secret", "suite_key and suite_secret")],
)
def test_credentials(place: Installation, number: int, app: str, secret: str, mend: str) -> None:
    given = changed(place, lambda given: given["apps"][number].update({secret: "another"}))
    found = looked(place, given, app, told=False)
    assert faults(found) == {(app, "credentials")}
    (fault,) = (finding for finding in found if finding.state == "fault")
    assert mend in fault.mend


@pytest.mark.parametrize("app", ["acme", "shop"])
def test_permissions(place: Installation, app: str) -> None:
    place.simulator.app(app).access.permissions = frozenset({"qyapi_base", "qyapi_get_member"})
    found = looked(place, place.settings, app, told=False)
    assert faults(found) == {(app, "permission")}
    assert {"give the app this API permission in the developer console"} == {
        finding.mend for finding in found if finding.state == "fault"
    }


def test_the_address(place: Installation) -> None:
    found = list(examine(place.config, f"http://127.0.0.1:{free_port()}"))
    assert faults(found) == {("acme", "address"), ("shop", "address")}
    with serving(place, changed(place, lambda given: given["apps"][0].update(name="other"))) as url:
        (fault,) = (finding for finding in examine(place.config, url) if finding.state == "fault")
    assert (fault.subject, fault.check) == ("acme", "address")
    assert "404" in fault.text


@pytest.mark.parametrize("age", [None, timedelta(hours=6, minutes=1)])
def test_the_ticket(place: Installation, age: timedelta | None) -> None:
    key = place.settings["apps"][1]["suite_key"]
    with place.parts.store.writing() as sql:
        sql.execute(sa.delete(tables.suites))
        if age is not None:
            suites.keep_ticket(sql, key, Ticket(place.simulator.app("shop").ticket, datetime.now(UTC) - age))
    found = looked(place, place.settings, "shop", told=False)
    assert faults(found) == {("shop", "ticket")}
    (fault,) = (finding for finding in found if finding.state == "fault")
    assert "push it again in the developer console" in fault.mend


def test_a_ticket_that_dingtalk_has_replaced(place: Installation) -> None:
    place.simulator.app("shop").ticket = "a newer one"
    assert faults(looked(place, place.settings, "shop", told=False)) == {("shop", "ticket")}


def test_another_encryption_key(place: Installation) -> None:
    given = changed(place, lambda given: given.update(encryption_key="another one of thirty-two chars."))
    assert faults(looked(place, given, "shop", told=False)) == {("shop", "encryption key")}


def test_dingtalks_address(place: Installation) -> None:
    given = changed(place, lambda given: given["dingtalk"].update(api=f"http://127.0.0.1:{free_port()}"))
    found = looked(place, given, "acme", told=False)
    assert faults(found) == {("acme", "api"), ("shop", "api")}


def test_a_redis_that_forgets(tmp_path: Path) -> None:
    with redis_process("--appendonly", "no") as server:
        given = settings(redis={"url": server.url}, datastore={"url": f"sqlite:///{tmp_path}/d.db"}, var=str(tmp_path))
        found = list(examine(Config.model_validate(given), f"http://127.0.0.1:{free_port()}"))
    (fault,) = (finding for finding in found if finding.subject == "redis" and finding.state == "fault")
    assert (fault.check, fault.mend) == ("setting", "set appendonly yes")
    assert ("datastore", "tables") in faults(found)


def test_a_redis_that_is_away(tmp_path: Path) -> None:
    given = settings(redis={"url": f"redis://127.0.0.1:{free_port()}"}, var=str(tmp_path))
    given["datastore"] = {"url": f"sqlite:///{tmp_path}/d.db"}
    found = list(examine(Config.model_validate(given), f"http://127.0.0.1:{free_port()}"))
    assert ("redis", "address") in faults(found)
    assert [finding.state for finding in found if finding.check == "callbacks"] == ["skipped"]


def test_it_makes_nothing(tmp_path: Path) -> None:
    given = settings(var=str(tmp_path / "var"), datastore={"url": f"sqlite:///{tmp_path}/var/d.db"})
    found = list(examine(Config.model_validate(given), f"http://127.0.0.1:{free_port()}"))
    assert ("datastore", "tables") in faults(found)
    assert [(one.subject, one.check) for one in found if one.state == "skipped"] == [
        ("redis", "address"),
        ("acme", "callbacks"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_datastore_that_is_no_url(tmp_path: Path) -> None:
    given = settings(var=str(tmp_path / "var"), datastore={"url": "postgresql+psycopg://u@h:port/d"})
    found = list(examine(Config.model_validate(given), f"http://127.0.0.1:{free_port()}"))
    assert ("datastore", "address") in faults(found)
    assert found[-1].subject == "acme"


def test_modules_with_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_sound_module.py").touch()
    (tmp_path / "a_module_that_ends.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    names = ["a_sound_module", "a_module_that_ends", "no_such_module"]
    found = list(examine(Config.model_validate(settings(jobs=names)), f"http://127.0.0.1:{free_port()}"))
    told = [finding for finding in found if finding.check == "module"]
    assert [finding.state for finding in told] == ["ok", "fault", "fault"]
    assert all(name in finding.text for name, finding in zip(names, told, strict=True))


class TestTheVerbs:
    def run(self, place: Installation, *verb: str, **changed: Any) -> Result:
        path = place.folder / "doctor.yaml"
        path.write_text(yaml.safe_dump({**place.settings, **changed}))
        return CliRunner().invoke(main, verb, env={"BRIDGE_CONFIG": str(path), "PORT": str(place.port)})

    def test_doctor(self, place: Installation) -> None:
        with serving(place, place.settings):
            sound = self.run(place, "doctor", "--json")
            assert (sound.exit_code, json.loads(sound.stdout)["ok"]) == (0, True), sound.output
        broken = self.run(place, "doctor")
        assert broken.exit_code == 1
        assert "FAULT   acme: address: no answer" in broken.output and broken.output.endswith("2 faults\n")

    def test_register(self, place: Installation) -> None:
        assert self.run(place, "register").output == "no callback is registered by API\n"
        with serving(place, place.settings) as url:
            made = self.run(place, "register", url, "--json")
            assert made.exit_code == 0, made.output
            assert json.loads(made.stdout)["url"] == f"{url}/callback/acme"
            assert json.loads(self.run(place, "register", url, "--json").stdout)["updated"] is True
        found = place.simulator.app("acme").registration
        assert found is not None and (found.owner, set(found.tags or ())) == (CORP, set(CONTACT_EVENTS))
        shown = self.run(place, "register").output
        assert "under the keys of this configuration" in shown and AES_KEY not in shown
        wrong = self.run(place, "register", f"http://127.0.0.1:{free_port()}")
        assert wrong.exit_code == 1 and "DingTalk cannot reach the address" in wrong.output
        assert self.run(place, "register", "--remove").output == "the callback is removed\n"
        assert self.run(place, "register", "--remove").output == "no callback was registered\n"
        assert place.simulator.app("acme").registration is None

    def test_what_cannot_be_registered(self, place: Installation) -> None:
        suite = self.run(place, "register", "https://host", "--app", "shop")
        assert suite.exit_code == 1 and "set in the developer console" in suite.output
        app = {**place.settings["apps"][0], "owner_keys": ["dingtestappkey00001"]}
        alien = self.run(place, "register", "https://host", apps=[app])
        assert alien.exit_code == 1 and "add it to owner_keys" in alien.output
        assert self.run(place, "register", "host").exit_code == 1
        assert self.run(place, "register", "https://host", "--remove").exit_code == 2

    def test_a_registered_callback_with_other_keys(self, place: Installation) -> None:
        with serving(place, place.settings) as url:
            assert self.run(place, "register", url).exit_code == 0
        other = changed(place, lambda given: given["apps"][0]["keys"].insert(0, {"token": "x" * 9, "aes_key": AES_KEY}))
        del other["apps"][0]["keys"][1]
        with serving(place, other) as url:
            assert ("acme", "token") in faults(list(examine(Config.model_validate(other), url)))
