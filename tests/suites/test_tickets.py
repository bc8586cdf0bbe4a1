"""A suite's tickets: what comes is kept, and the newest wins."""

from tests.servers import wait_until
from tests.suites.stage import Stage, a_millisecond_passes
from workers import tickets
from workers.store import tables
from workers.tickets import TicketWatch


class TestTheTicket:
    def tickets(self, stage: Stage) -> tuple[str, bool]:
        row = stage.row(tables.suites)
        return row["ticket"], row["ticket_at"] is not None

    def test_it_is_stored(self, stage: Stage) -> None:
        stage.tell("suite_ticket")
        stage.place.worker.turn()
        assert self.tickets(stage) == (stage.app.ticket, True)
        assert stage.statuses() == {"applied"}

    def test_the_newest_wins_however_they_arrive(self, stage: Stage) -> None:
        older = stage.place.simulator.push("shop", "suite_ticket", stage.rows)["payload"]
        a_millisecond_passes()
        newer = stage.place.simulator.push("shop", "suite_ticket", not stage.rows)["payload"]
        stage.accept(newer)
        stage.place.work_off()
        stage.accept(older)
        stage.place.work_off()
        assert self.tickets(stage) == (stage.app.ticket, True)

    def test_a_stale_one_is_waited_out(self, one_stage: Stage) -> None:
        one_stage.begin()
        one_stage.place.simulator.expire_tokens()
        one_stage.place.simulator.push("shop", "suite_ticket")
        one_stage.change("user_modify_org")
        one_stage.place.worker.turn()
        assert one_stage.place.rows(tables.events)[-1]["type"] != "user_modify_org"
        one_stage.tell("suite_ticket")
        one_stage.place.work_off()
        assert one_stage.differences() == []


class TestTheTicketWatch:
    def test_a_ticket_is_stored_while_nobody_works(self, stage: Stage) -> None:
        watch = TicketWatch(stage.place.parts.connection, stage.place.parts.suites)
        watch.start()
        stage.tell("suite_ticket")
        # Looks are this far apart; how long one takes beside other tests says nothing of the second that is promised.
        assert tickets.LOOK_SECONDS <= 0.25
        wait_until(lambda: stage.place.rows(tables.suites), what="the ticket")
        watch.stop()
        assert stage.row(tables.suites)["ticket"] == stage.app.ticket
        assert stage.place.rows(tables.events) == []
        stage.place.work_off()
        assert stage.statuses() == {"applied"}

    def test_it_looks_at_each_once(self, one_stage: Stage) -> None:
        watch = TicketWatch(one_stage.place.parts.connection, one_stage.place.parts.suites)
        one_stage.tell("suite_ticket")
        assert [watch.look(), watch.look()] == [1, 0]
        one_stage.tell("suite_ticket")
        assert watch.look() == 1
        one_stage.place.work_off()
        assert one_stage.row(tables.suites)["ticket"] == one_stage.app.ticket
