"""The whole way: from an encrypted callback to rows that equal DingTalk's truth."""

import json
from pathlib import Path

import sqlalchemy as sa

from bridge import messages
from bridge.accept import Acceptor
from bridge.events import CONTACT_EVENTS
from tests.installation import CORP, Installation, installed
from tests.truth import differences
from workers.copy import Copy
from workers.store import tables


def copy(installation: Installation) -> None:
    client = installation.parts.readers.client(CORP)
    assert client is not None
    parts = installation.parts
    for progress in Copy(parts.store, parts.clock, parts.folder, client, CORP).run():
        assert not progress.faults


def test_each_contact_event_makes_every_table_true(redis_url: str, datastore_url: str, tmp_path: Path) -> None:
    with installed(redis_url, datastore_url, tmp_path) as installation, installation.receiving():
        copy(installation)
        assert differences(installation) == []
        for event in [*CONTACT_EVENTS.keys() - {"org_remove"}, "org_remove"]:
            for generation in ("A", "B") if event != "org_remove" else ("B",):
                sent = installation.simulator.change("acme", event, generation=generation)
                assert event in {row["event"] for row in sent}
            assert installation.simulator.deliveries.wait_idle(20)
            installation.work_off()
            assert differences(installation) == [], event
        corp = installation.rows(tables.corps)[0]
        assert (corp["status"], corp["deleted_at"] is None) == ("dissolved", False)
        assert {row["status"] for row in installation.rows(tables.events)} <= {"applied", "folded"}
        assert {row["type"] for row in installation.rows(tables.events)} == set(CONTACT_EVENTS)


def test_a_random_run_in_order_ends_true(redis_url: str, datastore_url: str, tmp_path: Path) -> None:
    with installed(redis_url, datastore_url, tmp_path, users=60) as installation:
        copy(installation)
        acceptor = Acceptor(installation.parts.connection)
        for number in range(500):
            for made in installation.simulator.change("acme", deliver=False):
                message = json.dumps(made["payload"]).encode()
                acceptor.accept(messages.parse(message, "acme", CORP).events)
            if number % 7 == 0:
                installation.worker.turn()
        installation.work_off()
        assert differences(installation) == []
        with installation.parts.store.reading() as connection:
            statuses = set(connection.scalars(sa.select(tables.events.c.status)))
        assert statuses == {"applied", "folded"}
