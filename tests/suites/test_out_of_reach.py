"""Where DingTalk's API cannot be asked: pushed rows speak for themselves."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.events import CONTACT_EVENTS
from simulator.apps import PERMISSIONS
from tests.installation import installed
from tests.servers import wait_until
from tests.suites.stage import CORPS, TABLES, Stage, a_millisecond_passes, a_stage, a_suite, turns
from workers.store import tables


class TestOutOfReach:
    """DingTalk refuses the suite's calls for good: pushed rows speak for themselves until it lets us read again."""

    @pytest.fixture
    def barred(self, redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Stage]:
        with a_stage(redis_url, datastore_url, tmp_path, True) as stage:
            stage.begin()
            stage.app.access.permissions = frozenset()
            yield stage

    def allow(self, stage: Stage) -> None:
        stage.app.access.permissions = PERMISSIONS

    def test_rows_are_written_and_marked_and_replaced_by_the_next_read(self, barred: Stage) -> None:
        # A row does not tell of which level an admin is, nor of groups, nor whom a role that is gone was taken from.
        untold = {"org_remove", "org_admin_add", "org_admin_remove", "label_conf_modify", "label_conf_del"}
        for event in sorted(CONTACT_EVENTS.keys() - untold):
            barred.change(event)
        turns(barred)
        assert barred.statuses() == {"applied", "folded"}
        assert [line for line in barred.differences() if not line.startswith("role_groups")] == []
        marked = [row for name in ("users", "departments", "roles") for row in barred.place.rows(TABLES[name])]
        assert any(row["pushed_at"] for row in marked)
        self.allow(barred)
        barred.due_now()
        barred.settle()
        assert barred.differences() == []
        for name in ("users", "departments"):
            assert {row["pushed_at"] for row in barred.place.rows(TABLES[name]) if row["deleted_at"] is None} == {None}

    def test_a_row_that_was_taken_late_is_replaced_too(self, barred: Stage) -> None:
        """An event that has settled needs no echo; one whose row was taken has not been read."""
        barred.change("user_modify_org")
        settled = time.monotonic() + barred.place.config.dingtalk.settle_seconds
        wait_until(lambda: time.monotonic() > settled)
        turns(barred)
        self.allow(barred)
        barred.due_now()
        barred.place.work_off()
        assert [row["pushed_at"] for row in barred.place.rows(tables.users) if row["pushed_order"]] == [None]

    def test_an_older_row_takes_nothing_back(self, barred: Stage) -> None:
        userid = barred.place.simulator.truth("shop")["users"][0]["userid"]
        older = barred.made("user_modify_org", userid)
        a_millisecond_passes()
        newer = barred.made("user_modify_org", userid)
        barred.accept(*newer)
        turns(barred)
        barred.accept(*older)
        turns(barred)
        assert barred.differences() == []

    def test_a_role_that_is_gone(self, barred: Stage) -> None:
        barred.change("label_conf_del")
        turns(barred)
        here = {row["role_id"] for row in barred.place.rows(tables.roles) if row["deleted_at"] is None}
        assert here == {row["role_id"] for row in barred.place.simulator.truth("shop")["roles"]}

    def test_a_code_in_the_row_means_hidden(self, barred: Stage) -> None:
        user = barred.place.simulator.truth("shop")["users"][0]["userid"]
        barred.app.access.authed_dept = ()
        barred.change("user_modify_org", entity=user)
        turns(barred)
        row = barred.row(tables.users, userid=user)
        assert (row["visible"], row["deleted_at"], row["name"] is None) == (False, None, False)

    def test_one_that_left(self, barred: Stage) -> None:
        barred.change("user_leave_org")
        turns(barred)
        assert barred.differences() == []
        assert sum(row["deleted_at"] is not None for row in barred.place.rows(tables.users)) == 1


def test_a_suite_without_credentials_writes_what_rows_say(redis_url: str, tmp_path: Path) -> None:
    bare = a_suite()
    del bare["suite_key"], bare["suite_secret"]
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path, users=20, apps=[bare]) as place:
        stage = Stage(place, True)
        stage.app.corps[CORPS[0]].close = 1
        stage.change("user_modify_org")
        place.work_off()
        row = place.rows(tables.users)[0]
        assert (row["fetched_at"], row["name"] is None, row["pushed_at"] is None) == (None, False, False)
