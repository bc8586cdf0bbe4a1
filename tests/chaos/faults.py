"""What is done to an installation while callbacks come in. Each fault returns once it is over."""

import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from bridge.config import Config
from bridge.spool import RESERVE_BYTES
from ops import envelopes
from tests.chaos.client import Sender
from tests.chaos.jobs import POISON
from tests.chaos.site import START_SECONDS, Site
from tests.installation import answers
from tests.servers import wait_until

#: How often each kind of process is killed, and Redis.
KILLS, REDIS_KILLS = 10, 5
#: Seconds that Redis is paused or cut off, and that a lesser fault lasts.
LONG, SHORT = 60, 20
#: Rolling restarts of both receivers.
ROLLS = 3


def processes_killed(site: Site) -> None:
    """A gunicorn worker, its master, sync workers and workers of users' jobs, in any order, at random moments."""
    victims = [["gunicorn"], ["serve"], ["work-1", "work-2"], ["jobs-1", "jobs-2"]] * KILLS
    random.shuffle(victims)
    for names in victims:
        time.sleep(random.uniform(0.2, 3.0))
        wait_until(lambda names=names: site.kill(random.choice(names)), START_SECONDS, " or ".join(names))  # type: ignore[misc]


def redis_killed(site: Site) -> None:
    """kill -9, and a start from its append-only file."""
    for _ in range(REDIS_KILLS):
        time.sleep(random.uniform(1.0, 4.0))
        site.redis.kill()
        time.sleep(random.uniform(0.1, 3.0))
        site.redis.start()


def redis_paused(site: Site) -> None:
    """Its connections stand, and nothing comes back."""
    time.sleep(3)
    site.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(LONG)
    site.redis.process.send_signal(signal.SIGCONT)
    time.sleep(3)


def redis_unreachable(site: Site) -> None:
    """What is sent to it vanishes; needs root and iptables."""
    time.sleep(3)
    with _dropped(site.redis_port):
        time.sleep(LONG)
    time.sleep(3)


@contextmanager
def _dropped(port: int) -> Iterator[None]:
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
    iptables = shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin:/bin") or "iptables"
    subprocess.run([iptables, "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run([iptables, "-D", *rule], check=True)


def memory_full(site: Site) -> None:
    """Redis refuses every write."""
    time.sleep(3)
    with _memory_full(site):
        time.sleep(SHORT)
    time.sleep(3)


def disk_full(site: Site) -> None:
    """The spool has no room, Redis has."""
    time.sleep(3)
    with _disk_full(site):
        time.sleep(SHORT)
    time.sleep(3)


def memory_and_disk_full(site: Site) -> None:
    """Nothing can take an event."""
    time.sleep(3)
    with _disk_full(site), _memory_full(site):
        time.sleep(SHORT)
    time.sleep(3)


@contextmanager
def _memory_full(site: Site) -> Iterator[None]:
    with site.redis.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def _disk_full(site: Site) -> Iterator[None]:
    ballast = site.spool.parent / "ballast"
    block = bytes(1 << 16)
    with ballast.open("wb", buffering=0) as file:
        while shutil.disk_usage(site.spool.parent).free > len(block):
            file.write(block)
    yield
    ballast.unlink()
    assert shutil.disk_usage(site.spool.parent).free > RESERVE_BYTES


def datastore_away(site: Site) -> None:
    """PostgreSQL crashes and comes back; SQLite's file is locked by another process."""
    time.sleep(3)
    if site.postgresql is not None:
        site.postgresql.stop()
        time.sleep(SHORT / 4)
        site.postgresql.start()
    else:
        file = sa.make_url(site.datastore_url).database
        assert file
        connection = sqlite3.connect(file, timeout=60, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(SHORT)
        connection.execute("ROLLBACK")
        connection.close()
    time.sleep(3)


def rolling_restarts(site: Site) -> None:
    """One receiver after the other ends and begins again, behind nginx."""
    for _ in range(ROLLS):
        for name, port in (("serve", site.port), ("serve-2", site.second_port)):
            time.sleep(random.uniform(0.5, 2.0))
            before = site.pid(name)
            running = site.process(name).running
            assert before and running
            running.terminate()
            wait_until(lambda name=name, before=before: site.pid(name) not in (None, before), START_SECONDS, name)  # type: ignore[misc]
            wait_until(lambda port=port: answers(f"http://127.0.0.1:{port}/readyz"), START_SECONDS, name)  # type: ignore[misc]


def poison(site: Site) -> None:
    """One event among all the others ends every worker that applies it."""
    time.sleep(3)
    app = Config.model_validate(site.settings).apps[0]
    message = envelopes.payload("user_modify_org", app.corp_id, [POISON], extra={"eventId": POISON})
    assert Sender(app, f"http://127.0.0.1:{site.port}").send(message, time.monotonic()).acknowledged
    time.sleep(3)
