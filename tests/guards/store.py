"""Guards of the datastore (rule 4): the stale never overwrites the newer, and an event is done only when it is."""

from tests.guards.guard import Guard

REFRESH, FOLD, READS = "workers/refresh.py", "workers/fold.py", "workers/store/reads.py"
DRAFT, LEDGER = "workers/store/draft.py", "workers/store/ledger.py"
USERS, DEPARTMENTS, ROLES = "workers/store/users.py", "workers/store/departments.py", "workers/store/roles.py"

T_REFRESH, T_FOLD, T_READS = (f"tests/workers/test_{name}.py::" for name in ("refresh", "fold", "reads"))
T_OWING, T_ECHOES, T_DUE = (f"tests/workers/test_{name}.py::" for name in ("owing", "echoes", "due_reads"))
T_LEDGER, T_CORPS, T_STATEMENTS = (
    f"tests/workers/test_{name}.py::" for name in ("ledger", "store_corps", "statements")
)
T_USERS, T_DEPARTMENTS, T_ROLES = (
    f"tests/workers/test_store_{name}.py::" for name in ("users", "departments", "roles")
)

STORE: tuple[Guard, ...] = (
    # swap only what you saw
    Guard(
        "a row is written only under the version that was noted",
        "a stale answer overwrites a newer one",
        DRAFT,
        'if row is None or row["version"] != draft.versions[entity]:',
        "if row is None:",
        (T_REFRESH + "test_an_answer_noted_before_a_newer_committed_read_is_refused",),
    ),
    Guard(
        "an id that nobody ever saw gets a row",
        "the first answers for an entity are not guarded",
        DRAFT,
        "    insert_ignoring(draft.tx, table, unseen)\n",
        "    insert_ignoring(draft.tx, table, [])\n",
        (T_REFRESH + "test_the_first_answer_for_an_entity_is_guarded_too",),
    ),
    Guard(
        "the version is raised also when nothing changed",
        "an answer from before a read that found nothing new is written after it",
        DRAFT,
        '{"version": self.versions[entity] + 1, ',
        '{"version": self.versions[entity], ',
        (T_REFRESH + "test_a_read_that_finds_nothing_new_leaves_its_mark",),
    ),
    Guard(
        "a committed read leaves its moment",
        "nothing ever covers an event",
        DRAFT,
        '"read_begun": self.begun, ',
        "",
        (T_REFRESH + "test_a_note_tells_the_moment_of_the_last_committed_read",),
    ),
    Guard(
        "a committed read leaves the life it came from",
        "times of two lives of Redis are compared",
        DRAFT,
        ' "read_life": self.life,',
        "",
        (T_REFRESH + "test_the_life_of_another_redis_is_kept_with_the_read",),
    ),
    # the fence
    Guard(
        "an answer is written only under the fence that was noted",
        "a comparison is overtaken by reads that it has not seen",
        REFRESH,
        " if held[e.corp_id] == noted.fences[e.corp_id]}",
        "}",
        (T_REFRESH + "test_a_fence_raised_after_the_note_refuses",),
    ),
    Guard(
        "a comparison raises the fence",
        "who read before its lists writes after it has compared",
        "workers/comparison.py",
        "            comparisons.raise_fence(connection, corp_id)\n",
        "            pass\n",
        (
            "tests/workers/test_reconcile.py::test_whoever_read_before_must_read_again",
            "tests/workers/test_reconcile.py::test_while_it_compares_others_write_but_nobody_who_read_before",
        ),
    ),
    Guard(
        "a writer holds the fence until it has committed",
        "a comparison that raises it in between misses the write",
        REFRESH,
        ".with_for_update(read=True)\n",
        "\n",
        (T_REFRESH + "test_a_writer_holds_the_fence_until_it_has_committed",),
    ),
    Guard(
        "writers share the fence",
        "a corp's workers wait for each other",
        REFRESH,
        ".with_for_update(read=True)\n",
        ".with_for_update()\n",
        (T_REFRESH + "test_two_writers_share_the_fence",),
    ),
    Guard(
        "a burial raises the fence",
        "a read from before a dissolution brings the dissolved back to life",
        REFRESH,
        "    if buried:\n",
        "    if False:\n",
        (
            T_REFRESH + "test_an_id_never_seen_is_fenced_off_by_a_burial",
            T_CORPS + "test_a_burial_overtakes_whoever_noted_before",
        ),
    ),
    Guard(
        "the time is taken after the versions",
        "a read committed in between seems to be older than the one that did not see it",
        REFRESH,
        "        return Noted(versions, committed, made_for, held, self._clock.now(), time.monotonic())\n",
        "        moment = self._clock.now()\n"
        "        with self.store.reading() as connection:\n"
        "            for kind, (table, key_of) in GUARDED.items():\n"
        "                keys = {key_of(entity): entity for entity in wanted if entity.kind == kind}\n"
        "                versions |= {row[0]: row[1] for row in _guards(connection, table, keys)}\n"
        "        return Noted(versions, committed, made_for, held, moment, time.monotonic())\n",
        (T_REFRESH + "test_a_note_takes_the_time_after_what_the_datastore_held",),
    ),
    Guard(
        "a lost race for locks is run again",
        "two workers that meet cost their events an attempt",
        REFRESH,
        "not in LOST_RACES:",
        "not in ():",
        (T_REFRESH + "test_a_lost_race_for_locks_is_run_again",),
    ),
    # a committed read covers what waited for it
    Guard(
        "a read covers only what was accepted before it began",
        "an event is folded into an answer from before it",
        FOLD,
        "committed.micros > accepted.micros",
        "committed.micros >= accepted.micros",
        (T_FOLD + "TestFolding::test_one_that_began_no_later_does_not",),
    ),
    Guard(
        "a read covers only what was accepted in the same life of Redis",
        "after a restore of Redis events are folded into answers from before them",
        FOLD,
        "committed.life == accepted.life and ",
        "",
        (T_FOLD + "TestFolding::test_one_of_another_life_of_redis_does_not",),
    ),
    Guard(
        "whether a corp was dissolved is asked anew",
        "a dissolution is folded away",
        FOLD,
        "            if covers and committed and not course.dissolves:",
        "            if covers and committed:",
        (T_FOLD + "TestOrgRemove::test_whether_it_is_dissolved_is_asked_anew",),
    ),
    Guard(
        "an event is final only when all of its entities are covered",
        "an event is applied though one of its users was never read",
        FOLD,
        "            if not lost:",
        "            if True:",
        (T_FOLD + "TestErrors::test_an_error_stands_against_its_event_alone",),
    ),
    Guard(
        "what was overtaken is read again",
        "an event is given up to an answer from before it",
        FOLD,
        "newly = self.uncovered() & written\n",
        "newly = self.uncovered() & causes.keys()\n",
        (T_FOLD + "TestOvertaken::test_an_entity_that_was_overtaken_is_read_again_and_ends_true",),
    ),
    Guard(
        "one entity that is refused leaves none of the others unread",
        "an event fails at its first id, and those after it stay as they were",
        FOLD,
        "            if (stuck or not course.left()) and (obstacle := course.obstacle()) is not None:",
        "            if (obstacle := course.obstacle()) is not None:",
        (T_FOLD + "TestErrors::test_one_that_is_refused_leaves_none_of_the_others_unread",),
    ),
    Guard(
        "roles that an event names are no read of the list",
        "the next event of an app that can read nothing is folded, and its role has no row",
        FOLD,
        'answers[entity], taken[entity] = rows.named_roles(happened), ""',
        "answers[entity] = rows.named_roles(happened)",
        (T_FOLD + "test_roles_known_by_their_ids_alone_cover_no_others",),
    ),
    Guard(
        "nothing outlives a burial in its own transaction",
        "somebody lives in a dissolved corp for ever",
        REFRESH,
        "    draft.moved |= alive\n",
        "    alive = set()\n",
        (T_FOLD + "TestOrgRemove::test_nothing_comes_to_life_with_the_event_that_ends_its_corp",),
    ),
    Guard(
        "an event that is settled is not applied again",
        "every return of a job costs a call, and its row is told anew",
        FOLD,
        '        outcome.final |= dict.fromkeys(known, "applied")\n',
        "        known = set()\n",
        (T_FOLD + "TestFolding::test_an_event_that_came_before_needs_nothing",),
    ),
    Guard(
        "an event that two workers apply owes one job",
        "users' functions run twice for one event",
        FOLD,
        "            if verdict.event.id in new or verdict.event.replayed\n",
        "",
        (T_OWING + "TestOwedJobs::test_an_event_that_two_workers_apply_at_once_owes_one_job",),
    ),
    Guard(
        "a replay owes no jobs",
        "whoever replays a month runs a month of users' functions",
        FOLD,
        " and not verdict.event.quiet",
        "",
        (T_OWING + "TestOwedJobs::test_what_a_copy_or_a_replay_finds_on_its_way_owes_nothing_either",),
    ),
    Guard(
        "a read that a replay shares is the live event's",
        "users' functions never hear of what changed while somebody replayed",
        FOLD,
        " or (owner.quiet and not course.quiet)",
        "",
        (T_OWING + "TestOwedJobs::test_a_replay_does_not_silence_what_happens_beside_it",),
    ),
    Guard(
        "a copy and a replay are quiet",
        "a first copy runs users' functions for everybody in the company",
        "workers/owing.py",
        "        if not change.quiet\n",
        "",
        (T_OWING + "TestOwedJobs::test_a_copy_owes_nothing",),
    ),
    # echo
    Guard(
        "an event leaves an echo",
        "an answer that lagged behind its event stays",
        FOLD,
        "                due += self._echoes(course, covered, able)\n",
        "                pass\n",
        (T_ECHOES + "TestEcho::test_what_an_event_names_is_read_once_more_when_it_has_settled",),
    ),
    Guard(
        "an echo waits until its event has settled",
        "it is read before the answer has caught up, and nothing comes after it",
        FOLD,
        " else moment.micros) + self._settle\n",
        " else moment.micros)\n",
        (T_ECHOES + "TestEcho::test_what_an_event_names_is_read_once_more_when_it_has_settled",),
    ),
    Guard(
        "an echo of an event of another life counts from the read",
        "its due time means nothing",
        FOLD,
        "            due = (accepted.micros if same_life else moment.micros)",
        "            due = (accepted.micros)",
        (T_ECHOES + "TestEcho::test_for_an_event_of_another_life_the_read_itself_is_the_beginning",),
    ),
    Guard(
        "of two due times the later wins",
        "the echo of the last event comes before it has settled",
        READS,
        '            "due_at": sa.case((later, new.due_at), else_=old.due_at),\n',
        '            "due_at": new.due_at,\n',
        (T_READS + "test_of_two_due_times_the_later_wins",),
    ),
    # reads
    Guard(
        "a read is deleted only if it is as it was taken",
        "a read that was asked for meanwhile is never made",
        READS,
        "having(dialect, _TAKEN)",
        "matching(dialect, reads)",
        (
            T_READS + "test_a_read_that_was_asked_for_anew_stays_when_the_old_one_is_finished",
            T_STATEMENTS + "test_a_finished_read_that_is_asked_for_anew_meanwhile_stays",
        ),
    ),
    Guard(
        "a read is put off only if it is as it was taken",
        "a read that was asked for meanwhile waits for the other's error",
        READS,
        '    reads.c.version == sa.bindparam("key_version"),\n',
        '    reads.c.version >= sa.bindparam("key_version"),\n',
        (T_READS + "test_a_read_that_was_asked_for_anew_is_not_put_off_by_the_old_one",),
    ),
    Guard(
        "asking anew moves a read",
        "a read that was asked for meanwhile is never made",
        READS,
        '            "version": old.version + 1,\n',
        "",
        (T_READS + "test_a_read_that_was_asked_for_anew_stays_when_the_old_one_is_finished",),
    ),
    Guard(
        "a read that was taken is left to its worker",
        "all workers make the same reads",
        READS,
        "reads.c.taken_until <= now, ",
        "",
        (T_READS + "test_a_taken_read_comes_back_when_its_worker_died",),
    ),
    Guard(
        "a read that was taken comes back",
        "a worker that dies takes its reads with it",
        READS,
        '"until": now + TAKEN_MICROSECONDS',
        '"until": 2**62',
        (T_READS + "test_a_taken_read_comes_back_when_its_worker_died",),
    ),
    Guard(
        "a read is deleted with the write",
        "it is made again and again",
        FOLD,
        "        reads.finish(draft.tx, [read for entity, read in taken.items() if entity in written])\n",
        "",
        (T_ECHOES + "TestEcho::test_an_echo_leaves_no_echo",),
    ),
    # final rows
    Guard(
        "a final row stays",
        "an event that was applied ends as failed",
        LEDGER,
        '        where=events.c.status == "failed",\n',
        "",
        (
            T_LEDGER + "test_a_final_row_stays",
            T_FOLD + "TestFolding::test_failing_an_event_that_was_applied_changes_nothing",
        ),
    ),
    Guard(
        "a failed row gives way",
        "an event that was requeued is never applied",
        LEDGER,
        ', events.c.status != "failed")\n',
        ")\n",
        (T_LEDGER + "test_what_is_settled_is_whatever_has_not_failed",),
    ),
    # lists only mark
    Guard(
        "a role that is gone marks its members",
        "people keep a role that there is no more",
        ROLES,
        '    draft.mark(entity, users, "its role is gone", settling=True)\n',
        "",
        (T_ROLES + "test_a_role_that_is_gone_asks_for_its_members",),
    ),
    Guard(
        "a department that is gone marks its members",
        "people stay in a department that there is no more",
        DEPARTMENTS,
        '    draft.mark(entity, users, "its department is gone", settling=True)\n',
        "",
        (T_DEPARTMENTS + "test_a_department_that_is_gone_asks_for_its_members_and_children",),
    ),
    Guard(
        "a department that is gone marks those below it",
        "departments hang below one that there is no more",
        DEPARTMENTS,
        '    draft.mark(entity, children, "its parent department is gone", settling=True)\n',
        "",
        (T_DEPARTMENTS + "test_a_department_that_is_gone_asks_for_its_members_and_children",),
    ),
    Guard(
        "a parent that is not there is marked",
        "a department hangs below nothing",
        DEPARTMENTS,
        '            draft.mark(entity, [unknown], "a department lies under it")\n',
        "            pass\n",
        (T_DEPARTMENTS + "test_a_child_before_its_parent_asks_for_the_parent",),
    ),
    Guard(
        "what a user belongs to is marked where it is not there",
        "a user is a member of nothing that has a row",
        USERS,
        '            draft.mark(entity, unknown, "a user belongs to it")\n',
        "            pass\n",
        (T_USERS + "test_a_user_before_its_department_or_role_asks_for_them",),
    ),
    Guard(
        "whoever had what is gone is read once its absence has settled",
        "an answer that lags brings the membership back, and no echo corrects it",
        FOLD,
        "                due = moment.micros + (self._settle if settling else 0)\n",
        "                due = moment.micros\n",
        (T_DUE + "TestTakenReads::test_whoever_had_what_is_gone_is_read_once_that_has_settled",),
    ),
    Guard(
        "marks become reads",
        "what an answer asks for is never read",
        FOLD,
        "        for entity, (reason, cause, settling) in draft.marks.items():\n",
        "        for entity, (reason, cause, settling) in ():\n",
        (T_DUE + "TestTakenReads::test_a_department_that_is_gone_has_its_members_read",),
    ),
)
