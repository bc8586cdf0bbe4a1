"""The command line as a person meets it: help, one clear line for each fault, exit codes."""

import json
import os
import pty
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner

from bridge import messages
from bridge.accept import Acceptor
from bridge.spool import Spool
from ops import cli
from ops.console.backlog import observe
from ops.logs import SUPERVISED_VARIABLE
from ops.verbs import repairs
from tests.installation import CORP, Installation, installed, settings
from tests.servers import free_port, free_ports, running_redis, wait_until
from tests.truth import differences
from workers import jobs
from workers.store import tables

ROOT = Path(__file__).parent.parent.parent
VERBS = sorted(cli.VERBS)


def dingbridge(*arguments: str, environ: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ops", *arguments]
    return subprocess.run(command, env=dict(environ), cwd=folder, capture_output=True, text=True, timeout=60)


def environ(folder: Path, **changed: object) -> dict[str, str]:
    """An environment whose configuration is a file in `folder`."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(**{"var": str(folder / "var"), **changed})))
    return {**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_CONFIG": str(path)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example(verb: str, tmp_path: Path) -> None:
    shown = dingbridge(verb, "--help", environ=environ(tmp_path), folder=tmp_path)
    assert shown.returncode == 0
    assert "Example: " in shown.stdout


def test_the_readme_and_the_documents_name_no_verb_that_there_is_not() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "Procfile"):
        named = set(re.findall(r"dingbridge (?:--demo )?([a-z]+)", path.read_text()))
        assert named - {"keeps", "is", "has", "before"} <= set(VERBS), path.name


def test_all_faults_of_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    given = environ(tmp_path, listen="", colour="blue", redis={"url": "http://x"}, dingtalk={"settle_seconds": 0})
    shown = dingbridge("work", environ=given, folder=tmp_path)
    assert shown.returncode == 2
    lines = shown.stderr.strip().splitlines()
    assert len(lines) == 4
    for path in ("listen", "colour", "redis.url", "dingtalk.settle_seconds"):
        assert any(f"config.yaml: {path}: " in line for line in lines)
    assert "Traceback" not in shown.stderr


def test_missing_secrets_are_named(tmp_path: Path) -> None:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_CONFIG": str(ROOT / "config.yaml")}
    shown = dingbridge("serve", environ=given, folder=tmp_path)
    assert shown.returncode == 2
    assert "apps[0].keys[0].token: the environment variable ACME_TOKEN is not set" in shown.stderr


@pytest.mark.parametrize("verb", ["serve", "console", "simulate"])
def test_a_port_in_use_is_one_clear_line(verb: str, tmp_path: Path, redis_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = environ(tmp_path, redis={"url": redis_url}) | {"PORT": port}
        shown = dingbridge(verb, environ=given, folder=tmp_path)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.count("\n") == 1
    assert port in shown.stderr
    assert "in use" in shown.stderr


def test_a_redis_that_is_away_is_one_clear_line(tmp_path: Path) -> None:
    given = environ(tmp_path, redis={"url": f"redis://127.0.0.1:{free_port()}"})
    assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
    shown = dingbridge("clock", environ=given, folder=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.count("\n") == 1
    assert "redis.url" in shown.stderr


@pytest.mark.parametrize(
    "verb", [["serve"], ["work"], ["run"], ["drain", "spool"], ["replay", "some-event"]], ids=lambda verb: verb[0]
)
def test_a_redis_that_can_lose_events_is_refused_with_its_mend(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    with running_redis("--appendonly", "no") as url:
        given = environ(tmp_path, redis={"url": url}, datastore={"url": f"sqlite:///{tmp_path}/d.db"})
        assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
        shown = dingbridge(*verb, environ=given | {"PORT": str(free_ports(2))}, folder=tmp_path)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.count("\n") == 1
    assert "appendonly yes" in shown.stderr


def test_what_is_logged_never_stands_in_a_result(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('said by a module')")
    with running_redis("--appendonly", "no") as url:
        unsafe = {"url": url, "accept_unsafe": True}
        given = environ(tmp_path, redis=unsafe, datastore={"url": f"sqlite:///{tmp_path}/d.db"}, jobs=["mine"])
        assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
        shown = dingbridge("replay", "some-event", "--json", environ=given, folder=tmp_path)
        doctor = dingbridge("doctor", "--json", environ=given, folder=tmp_path)
    assert json.loads(shown.stdout)["events"] == 0
    assert "appendonly yes" in shown.stderr
    assert "module" in [finding["check"] for finding in json.loads(doctor.stdout)["findings"]]
    assert "said by a module" in doctor.stderr


def test_a_datastore_without_tables_says_what_to_do(tmp_path: Path, redis_url: str) -> None:
    given = environ(tmp_path, redis={"url": redis_url}, datastore={"url": f"sqlite:///{tmp_path}/d.db"})
    shown = dingbridge("work", environ=given, folder=tmp_path)
    assert shown.returncode == 1
    assert "dingbridge migrate" in shown.stderr


def test_a_datastore_of_a_newer_version_is_one_clear_line(tmp_path: Path) -> None:
    given = environ(tmp_path, datastore={"url": f"sqlite:///{tmp_path}/d.db"})
    assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
    with closing(sqlite3.connect(tmp_path / "d.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    shown = dingbridge("migrate", environ=given, folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert "not of a version that this program knows" in shown.stderr


def test_migrate_says_which_datastore_that_was(tmp_path: Path, datastore_url: str) -> None:
    given = environ(tmp_path, datastore={"url": datastore_url})
    shown = dingbridge("migrate", environ=given, folder=tmp_path)
    where = f"SQLite in {tmp_path}/dingbridge.db" if "sqlite" in datastore_url else "PostgreSQL, database test_"
    assert where in shown.stdout
    assert where in json.loads(dingbridge("migrate", "--json", environ=given, folder=tmp_path).stdout)["datastore"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = environ(tmp_path, var=str(tmp_path / "file" / "var"), redis={"url": "embedded"})
    shown = dingbridge("clock", environ=given, folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert "does not let us go on: Not a directory: " in shown.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (".mine", "", "TypeError: "),
        ("mine", "from workers import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("mine", "def", "SyntaxError: "),
        ("mine", "raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("mine", "raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_with_jobs_that_fails_is_one_clear_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    shown = dingbridge("jobs", environ=environ(tmp_path, jobs=[name]), folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert f"the module {name} cannot be imported: {said}" in shown.stderr


def test_everything_at_once_is_not_started_with_modules_that_fail(tmp_path: Path) -> None:
    given = environ(tmp_path, jobs=["no_such_module", "nor_this"]) | {"PORT": str(free_ports(2))}
    shown = dingbridge("run", environ=given, folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 2)
    assert "the module no_such_module cannot" in shown.stderr and "the module nor_this cannot" in shown.stderr
    assert not (tmp_path / "var").exists()


def test_a_port_with_no_room_above_it_is_one_clear_line(tmp_path: Path) -> None:
    shown = dingbridge("run", environ=environ(tmp_path) | {"PORT": "65535"}, folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert "PORT: 65535 is too high" in shown.stderr


def test_an_unknown_queue_is_wrong_usage(tmp_path: Path) -> None:
    shown = dingbridge("work", "user_ad_org", environ=environ(tmp_path), folder=tmp_path)
    assert shown.returncode == 2
    assert "user_ad_org" in shown.stderr


def test_a_queue_that_no_job_waits_on_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from workers import on\non('user_add_org', queue='slow')(print)\n")
    given = environ(tmp_path, jobs=["mine"])
    assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
    shown = dingbridge("jobs", "slow", "NOSUCHQUEUE", environ=given, folder=tmp_path)
    assert shown.returncode == 2
    assert "no function of yours waits on NOSUCHQUEUE; there are jobs, slow" in shown.stderr


@pytest.mark.parametrize("verb", [["send", "user_add_org"], ["change"]])
def test_an_address_where_nobody_answers_is_named(verb: list[str], tmp_path: Path) -> None:
    port = free_port()
    url = f"http://me:pa55word@127.0.0.1:{port}/x"
    shown = dingbridge(*verb, "--url", url, environ=environ(tmp_path), folder=tmp_path)
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    assert f"no answer from http://127.0.0.1:{port}: Connection refused" in shown.stderr
    assert "pa55word" not in shown.stderr


@pytest.mark.parametrize("url", ["foo", "http://", "http://[x", "http://me:pa55word@host:port"])
@pytest.mark.parametrize("verb", [["send", "user_add_org", "--url"], ["change", "--url"], ["register"]])
def test_what_is_no_address_is_named_without_a_traceback(verb: list[str], url: str, tmp_path: Path) -> None:
    shown = dingbridge(*verb, url, environ=environ(tmp_path), folder=tmp_path)
    assert shown.returncode == (1 if verb == ["register"] else 2)
    assert "no address: write http" in shown.stderr
    assert "Traceback" not in shown.stderr and "pa55word" not in shown.stderr


@pytest.mark.parametrize(
    "verb", [["send", "user_add_org", "--data", '{"x":"\\ud800"}'], ["send", "\udcff"], ["status", "\udcff"]]
)
def test_what_is_no_text_is_one_clear_line(verb: list[str], tmp_path: Path, redis_url: str) -> None:
    given = environ(tmp_path, redis={"url": redis_url})
    assert dingbridge("migrate", environ=given, folder=tmp_path).returncode == 0
    shown = dingbridge(*verb, environ=given, folder=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert "is no text" in shown.stderr


def test_a_change_is_asked_of_a_simulator_alone(place: Installation) -> None:
    given, folder = place.environment(), place.folder
    real = dingbridge("change", environ=given | {"DINGTALK_API": "https://oapi.dingtalk.com/"}, folder=folder)
    assert (real.returncode, real.stdout) == (2, "")
    assert "no simulator is named" in real.stderr
    for path in ("readyz", "healthz"):  # what answers with JSON of another kind, and with none
        with place.receiving() as url:
            other = dingbridge("change", "--url", f"{url}/{path}?", environ=given, folder=folder)
        assert (other.returncode, other.stdout, other.stderr.count("\n")) == (1, "", 1)
    made = dingbridge("change", "user_add_org", environ=given, folder=folder)
    assert made.stdout == "user_add_org called back at acme\n"


def test_jobs_that_wait_on_a_former_queue_are_run(place: Installation, tmp_path: Path) -> None:
    connection = place.parts.connection
    owed = {"function": "mine.print", "queue": "former", "event_id": "e1", "lane": "one"}
    with place.parts.store.writing() as sql:
        sql.execute(sa.insert(tables.outbox).values(owed))
    jobs.Dispatcher(place.parts.store, connection).dispatch(["one"])
    shown = dingbridge("doctor", environ=place.environment(), folder=place.folder)
    assert "1 jobs are owed on the queue former, which nobody serves → start `dingbridge jobs former`" in shown.stdout
    for arguments in (["former"], []):
        command = [sys.executable, "-m", "ops", "jobs", *arguments]
        with subprocess.Popen(command, env=place.environment(), cwd=place.folder) as process:
            try:
                served = [arguments[0]] if arguments else ["former", "jobs"]
                wait_until(lambda wanted=served: queues_served(place) == wanted, 30, "the workers")  # type: ignore[misc]
                wait_until(lambda: not connection.llen("rq:queue:former"), 10, "the job to be taken")
            finally:
                process.terminate()


def test_one_that_is_supervised_serves_a_queue_though_nothing_is_left_on_it(place: Installation) -> None:
    command = [sys.executable, "-m", "ops", "jobs", "former"]
    given = place.environment() | {SUPERVISED_VARIABLE: str(os.getpid())}
    with subprocess.Popen(command, env=given, cwd=place.folder) as process:
        try:
            wait_until(lambda: queues_served(place) == ["former"], 30, "the worker")
        finally:
            process.terminate()


def queues_served(place: Installation) -> list[str]:
    return sorted(queue for worker in observe(place.parts.connection).workers for queue in worker.queues)


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as installation:
        yield installation


def test_send_shows_the_reply_and_status_tells_the_rest(place: Installation) -> None:
    given = place.environment()
    userid = place.simulator.truth("acme")["users"][0]["userid"]
    with place.receiving() as url:
        arguments = ("send", "user_modify_org", "--user", userid, "--url", url, "--json")
        sent = json.loads(dingbridge(*arguments, environ=given, folder=place.folder).stdout)
        assert (sent["status"], sent["reply"]) == (200, "success")
        event_id = sent["event_id"]
        waiting = json.loads(dingbridge("status", event_id, "--json", environ=given, folder=place.folder).stdout)
        assert (waiting["status"], waiting["queue"]) == ("waiting", "user_modify_org")
        refused = dingbridge("send", "check_url", "--url", f"{url}/nowhere", environ=given, folder=place.folder)
        assert refused.returncode == 1
    place.work_off()
    applied = json.loads(dingbridge("status", event_id, "--json", environ=given, folder=place.folder).stdout)
    assert applied["status"] == "applied"
    assert "user create" in [change["what"] for change in applied["changes"]]
    shown = dingbridge("status", userid, environ=given, folder=place.folder)
    assert "user create" in shown.stdout
    assert dingbridge("status", "nobody-knows", environ=given, folder=place.folder).returncode == 1


def test_sync_copies_everything(place: Installation) -> None:
    shown = dingbridge("sync", "--corp", CORP, "--json", environ=place.environment(), folder=place.folder)
    assert shown.returncode == 0, shown.stderr
    truth = place.simulator.truth("acme")
    result = json.loads(shown.stdout)
    assert result["entities"] == len(truth["users"]) + len(truth["departments"]) + 1
    assert result["faults"] == []
    assert result["seconds"] > 0
    assert result["calls"] == place.simulator.calls.as_dict()["calls"]
    # Nobody looks at a terminal here.
    assert "\x1b" not in shown.stderr


def test_sync_shows_people_how_far_it_is(place: Installation) -> None:
    place.simulator.faults.latency_ms = 300
    ours, theirs = pty.openpty()
    given = place.environment() | {"TERM": "xterm", "COLUMNS": "140"}
    command = [sys.executable, "-m", "ops", "sync"]
    with subprocess.Popen(command, env=given, cwd=place.folder, stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        seen = "".join(iter(lambda: read_terminal(ours), ""))
        assert process.stdout is not None
        told = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0
    for words in (f"{CORP}: listing departments", f"{CORP}: reading", "/s", "left"):
        assert words in seen
    assert re.search(
        r"departments, people and role lists copied in \d+ s; calls made:\n +\d+ /topapi/v2/user/get", told
    )


def read_terminal(descriptor: int) -> str:
    """What comes next; "" at the end, which Linux tells as an error."""
    try:
        return os.read(descriptor, 65536).decode()
    except OSError:
        return ""


def test_what_sync_could_not_copy_is_named(place: Installation) -> None:
    access = place.simulator.app("acme").access
    access.permissions = access.permissions - {"qyapi_get_department_list"}
    shown = dingbridge("sync", environ=place.environment(), folder=place.folder)
    assert shown.returncode == 1
    assert "department 1 cannot be listed: " in shown.stderr
    assert "give the app this API permission" in shown.stderr


def test_recover_reads_the_failed_list_and_says_what_came(place: Installation) -> None:
    born = 1_700_000_000_000
    for userid in ("a", "b"):
        told = {"EventType": "user_modify_org", "UserId": [userid]}
        place.simulator.app("acme").give_up("user_modify_org", CORP, born, told)
    given = place.environment()
    shown = dingbridge("recover", "--app", "acme", "--json", environ=given, folder=place.folder)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == {"replies": 1, "new": 2, "repeats": 0, "unreadable": 0, "faults": []}
    again = dingbridge("recover", environ=given, folder=place.folder)
    assert again.stdout == ("1 replies of the failed list: 0 events were new, 0 known; 0 items could not be read\n")
    assert dingbridge("recover", "--app", "nobody", environ=given, folder=place.folder).returncode == 2
    place.simulator.faults.set({"ban": "html"})
    banned = dingbridge("recover", environ=given, folder=place.folder)
    assert banned.returncode == 1
    assert "acme: " in banned.stderr and "blocks this address" in banned.stderr


def test_recover_without_credentials_is_one_clear_line(place: Installation) -> None:
    for name in ("app_key", "app_secret"):
        del place.settings["apps"][0][name]
    for arguments in (("recover",), ("recover", "--app", "acme")):
        shown = dingbridge(*arguments, environ=place.environment(), folder=place.folder)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert "set app_key and app_secret" in shown.stderr


def test_a_spool_of_another_host_is_drained(place: Installation, tmp_path: Path) -> None:
    other = Spool(tmp_path / "other" / "spool")
    message = {"EventType": "user_modify_org", "eventId": "e1", "CorpId": CORP, "userId": ["u"]}
    other.add(messages.parse(json.dumps(message).encode(), "acme", CORP).events)
    other.close()
    arguments = ("drain", str(tmp_path / "other" / "spool"), "--json")
    shown = dingbridge(*arguments, environ=place.environment(), folder=place.folder)
    assert json.loads(shown.stdout) == {"events": 1}
    assert place.parts.connection.lrange("rq:queue:user_modify_org", 0, -1) == [b"e1"]


def test_a_spool_is_also_found_in_the_folder_above_it(place: Installation, tmp_path: Path) -> None:
    given, var = place.environment(), tmp_path / "other"
    (var / "metrics").mkdir(parents=True)
    for folder in (var, var / "metrics"):
        shown = dingbridge("drain", str(folder), environ=given, folder=place.folder)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert f"no spool segment lies in {folder}" in shown.stderr
    other = Spool(var / "spool")
    message = {"EventType": "user_modify_org", "eventId": "e1", "CorpId": CORP, "userId": ["u"]}
    other.add(messages.parse(json.dumps(message).encode(), "acme", CORP).events)
    other.close()
    # Also where that folder is called like a spool itself.
    var = var.rename(tmp_path / "spool")
    for left, folder in ((1, var), (0, var / "spool")):
        shown = dingbridge("drain", str(folder), "--json", environ=given, folder=place.folder)
        assert (shown.returncode, json.loads(shown.stdout)) == (0, {"events": left})


def test_segments_that_cannot_be_drained_are_a_fault_unless_somebody_writes_them(
    place: Installation, tmp_path: Path
) -> None:
    living = Spool(tmp_path / "other" / "spool")
    message = {"EventType": "user_modify_org", "eventId": "e1", "CorpId": CORP, "userId": ["u"]}
    living.add(messages.parse(json.dumps(message).encode(), "acme", CORP).events)
    arguments = ("drain", str(tmp_path / "other" / "spool"))
    assert dingbridge(*arguments, environ=place.environment(), folder=place.folder).returncode == 0
    (tmp_path / "other" / "spool" / "0.spool").mkdir()
    shown = dingbridge(*arguments, environ=place.environment(), folder=place.folder)
    living.close()
    assert shown.returncode == 1
    assert "1 segments in " in shown.stderr and "could not be read and stay" in shown.stderr


def test_only_who_left_can_be_forgotten(place: Installation) -> None:
    given = place.environment()
    person = next(row for row in place.simulator.truth("acme")["users"] if not row["admin"])
    forget = ("forget", CORP, person["userid"])
    dingbridge("sync", environ=given, folder=place.folder)
    refused = dingbridge(*forget, environ=given, folder=place.folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert "only who left can be forgotten" in refused.stderr
    place.simulator.change("acme", "user_leave_org", person["userid"], deliver=False)
    dingbridge("sync", environ=given, folder=place.folder)
    assert dingbridge(*forget, environ=given, folder=place.folder).returncode == 1
    message = {"EventType": "user_leave_org", "eventId": "e1", "CorpId": CORP, "userId": [person["userid"]]}
    Acceptor(place.parts.connection).accept(messages.parse(json.dumps(message).encode(), "acme", CORP).events)
    place.work_off()
    done = dingbridge(*forget, "--json", environ=given, folder=place.folder)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"changes": 2, "events": 0, "replies": 0})
    (row,) = (row for row in place.rows(tables.users) if row["userid"] == person["userid"])
    assert (row["name"], row["deleted_at"] is None) == (None, False)


def test_drift_tells_and_heal_mends(place: Installation) -> None:
    given, folder = place.environment(), place.folder
    assert dingbridge("sync", environ=given, folder=folder).returncode == 0
    equal = dingbridge("drift", environ=given, folder=folder)
    assert (equal.returncode, equal.stdout) == (0, "no difference\n")
    tenant = place.simulator.tenants[CORP]
    user = next(user for user in tenant.users.rows.values() if user.admin_level == 0)
    tenant.put_user(replace(user, title="ganz neu"))
    shown = dingbridge("drift", environ=given, folder=folder)
    assert shown.returncode == 1
    for words in (user.userid, "title", "ganz neu", "lost event", "1 difference: 1 lost event"):
        assert words in shown.stdout
    told = json.loads(dingbridge("drift", "--json", environ=given, folder=folder).stdout)
    (difference,) = told["differences"]
    assert (difference["id"], difference["field"], difference["dingtalk"]) == (user.userid, "title", "ganz neu")
    healed = dingbridge("heal", "--json", environ=given, folder=folder)
    assert healed.returncode == 0, healed.stderr
    assert json.loads(healed.stdout)["corps"][0]["mended"] == {"user update": 1}
    assert dingbridge("drift", environ=given, folder=folder).returncode == 0


def test_what_was_not_compared_is_not_called_equal(place: Installation) -> None:
    given = place.environment() | {"DINGTALK_API": f"http://127.0.0.1:{free_port()}"}
    for verb, said in (("drift", "not compared"), ("heal", "not mended")):
        shown = dingbridge(verb, environ=given, folder=place.folder)
        assert shown.returncode == 1
        assert f"{said}: {CORP}: " in shown.stderr
        assert "no difference" not in shown.stdout


def test_a_corp_that_cannot_be_compared_hides_no_other(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_corps", lambda *_: [CORP, "dingnobody"])
    env = place.environment()
    drift = CliRunner().invoke(cli.main, ["drift", "--json"], env=env)
    assert (drift.exit_code, len(json.loads(drift.stdout)["differences"]) > 10) == (1, True), drift.output
    heal = CliRunner().invoke(cli.main, ["heal", "--json"], env=env)
    assert (heal.exit_code, [corp["corp_id"] for corp in json.loads(heal.stdout)["corps"]]) == (1, [CORP])
    for shown in (drift, heal):
        assert "dingnobody: no app has the credentials to read dingnobody" in shown.stderr


def test_heal_that_would_remove_too_much_asks(place: Installation) -> None:
    given, folder = place.environment(), place.folder
    assert dingbridge("sync", environ=given, folder=folder).returncode == 0
    tenant = place.simulator.tenants[CORP]
    for user in list(tenant.users.rows.values())[2:]:
        tenant.drop_user(user.userid)
    stopped = dingbridge("heal", environ=given, folder=folder)
    assert stopped.returncode == 1
    assert "28 of 30 users" in stopped.stderr
    assert "would have removed or hidden 28 users" in stopped.stdout
    assert "28 of 30 users" in dingbridge("drift", environ=given, folder=folder).stderr
    allowed = dingbridge("heal", "--allow-removals", environ=given, folder=folder)
    assert allowed.returncode == 0, allowed.stderr
    assert differences(place) == []
