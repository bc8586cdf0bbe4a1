"""Guards of third-party apps: no older word takes a ticket, an authorisation or a row away."""

from tests.guards.guard import Guard

SUITES, TABLES, FOLD = "workers/suites.py", "workers/store/suites.py", "workers/fold.py"
DRAFT, REFRESH, MESSAGES = "workers/store/draft.py", "workers/refresh.py", "bridge/messages.py"

T_LIFE = "tests/suites/test_authorisation.py::TestTheLifeOfAnAuthorisation::"
T_TICKET, T_REACH = (
    "tests/suites/test_tickets.py::TestTheTicket::",
    "tests/suites/test_out_of_reach.py::TestOutOfReach::",
)
T_CORPS = "tests/workers/test_store_corps.py::"

SUITE_GUARDS: tuple[Guard, ...] = (
    Guard(
        "an older ticket replaces none",
        "a suite reads nothing with a ticket that is dead",
        TABLES,
        "        where=sa.or_(old.ticket_at.is_(None), old.ticket_at <= new.ticket_at),\n",
        "",
        (T_TICKET + "test_the_newest_wins_however_they_arrive",),
    ),
    Guard(
        "an older withdrawal takes nothing away",
        "a corp that has just authorised the suite anew is left",
        SUITES,
        'known.status != "revoked" and known.told_at > told.at:',
        "False:",
        (T_LIFE + "test_an_older_withdrawal_takes_nothing_away",),
    ),
    Guard(
        "an authorisation is asked for again where others wrote meanwhile",
        "what was asked before a withdrawal undoes it",
        SUITES,
        "            if comparisons.fence_of(tx, corp_id) != fence + 1:\n                raise Overtaken\n",
        "",
        (T_LIFE + "test_a_withdrawal_while_it_is_asked_for_stands",),
    ),
    Guard(
        "no work is done for a corp that has withdrawn",
        "events of a corp that has left are read, and fail",
        FOLD,
        'course.halted = halted.get(course.waiting.event.corp_id or "")',
        "course.halted = None",
        (T_LIFE + "test_a_withdrawal_stops_the_corp_at_once",),
    ),
    Guard(
        "an older row replaces no newer one",
        "a row that comes late takes back what a newer one told",
        DRAFT,
        'taken < (row["pushed_order"] or "")',
        "False",
        (T_REACH + "test_an_older_row_takes_nothing_back",),
    ),
    Guard(
        "what a row told is read once that is possible",
        "a row that was taken late stands until the nightly comparison",
        FOLD,
        " and not by_row\n",
        "\n",
        (T_REACH + "test_a_row_that_was_taken_late_is_replaced_too",),
    ),
    Guard(
        "permanent codes are taken out of messages",
        "they lie in clear in Redis and the datastore",
        MESSAGES,
        "    message = without_codes(_mend(message))\n",
        "    message = _mend(message)\n",
        ("tests/suites/test_codes.py::TestTheCode::test_it_lies_sealed_and_nowhere_else",),
    ),
    Guard(
        "nobody comes to life in a dissolved corp",
        "an answer that lags revives a department of a corp that is gone",
        REFRESH,
        "        standing = _bury(draft, standing)\n",
        "",
        (T_CORPS + "test_nobody_comes_to_life_in_a_dissolved_corp",),
    ),
)
