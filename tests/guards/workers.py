"""The guards of what is done with claims: events in batches, users' jobs, their dispatch, the clock."""

from tests.guards.guard import Guard

BATCH = "workers/batch.py"
JOBWORKER = "workers/jobworker.py"
JOBS = "workers/jobs.py"
CLOCK = "workers/clock.py"
T_BATCH = "tests/workers/test_batch.py::"
T_JOBWORKER = "tests/workers/test_jobworker.py::"
T_DISPATCHER = "tests/workers/test_dispatcher.py::"
T_CLOCK = "tests/workers/test_clock.py::"

WORKERS: tuple[Guard, ...] = (
    # batch
    Guard(
        "Redis is told after the commit",
        "a kill before the commit loses the whole batch",
        BATCH,
        "        try:\n            outcome = self._folder.apply(",
        "        self.claims.finish([claim for claim, _ in batch.values()])\n"
        "        try:\n            outcome = self._folder.apply(",
        (T_BATCH + "TestApplying::test_redis_is_told_only_after_the_commit",),
    ),
    Guard(
        "only what has its final row is finished",
        "an event that DingTalk did not answer for is lost",
        BATCH,
        " if event_id in outcome.final])",
        "])",
        (T_BATCH + "TestFaults::test_what_may_pass_is_put_off_and_tried_again",),
    ),
    Guard(
        "a failure is told to Redis after its row",
        "an event is failed in Redis and unknown to the datastore",
        BATCH,
        "        try:\n            self._folder.fail(waiting, reason)\n",
        "        self.fail(claim, reason)\n        try:\n            self._folder.fail(waiting, reason)\n",
        (T_BATCH + "TestFaults::test_a_datastore_that_is_away_costs_no_attempt_and_decides_nothing[fail]",),
    ),
    Guard(
        "a failure has its row with the reason",
        "an event disappears from the datastore's view",
        BATCH,
        "            self._folder.fail(waiting, reason)\n",
        "            pass\n",
        (T_BATCH + "TestFaults::test_a_job_that_ended_five_workers_alone_is_given_up",),
    ),
    Guard(
        "an event whose row is refused fails all the same",
        "one event that the datastore cannot hold ends every worker that takes it",
        BATCH,
        "            # The row itself is what",
        "            raise\n            # The row itself is what",
        (T_BATCH + "TestFaults::test_an_event_whose_own_row_is_refused_ends_no_worker",),
    ),
    Guard(
        "an outage is no attempt",
        "a night without a datastore gives up all events",
        BATCH,
        "            if away(error):\n                raise\n            # One bad event",
        "            # One bad event",
        (T_BATCH + "TestFaults::test_a_datastore_that_is_away_costs_no_attempt_and_decides_nothing[apply]",),
    ),
    Guard(
        "an outage gives up nothing",
        "an event is failed in Redis and unknown to the datastore",
        BATCH,
        "            if away(error):\n                raise\n            # The row itself",
        "            # The row itself",
        (T_BATCH + "TestFaults::test_a_datastore_that_is_away_costs_no_attempt_and_decides_nothing[fail]",),
    ),
    Guard(
        "one bad event fails alone",
        "its neighbours are put off with it, and given up with it",
        BATCH,
        "            if len(batch) + len(taken) > 1:\n",
        "            if False:\n",
        (T_BATCH + "TestFaults::test_an_answer_that_the_datastore_refuses_fails_alone",),
    ),
    Guard(
        "a throttle is no attempt",
        "a busy hour at DingTalk gives up events",
        BATCH,
        "random.uniform(1.0, 1.5), claim.attempts)",
        "random.uniform(1.0, 1.5), claim.attempts + 1)",
        (T_BATCH + "TestFaults::test_a_throttle_is_no_attempt",),
    ),
    Guard(
        "attempts are counted",
        "what never passes is tried for ever, and nobody is told",
        BATCH,
        "        attempts = claim.attempts + 1\n",
        "        attempts = claim.attempts\n",
        (T_BATCH + "TestFaults::test_what_may_pass_is_put_off_and_tried_again",),
    ),
    Guard(
        "attempts have an end",
        "what never passes is tried for ever, and nobody is told",
        BATCH,
        "        if attempts >= MAX_ATTEMPTS:\n",
        "        if False:\n",
        (T_BATCH + "TestFaults::test_what_never_passes_is_given_up_in_the_end",),
    ),
    Guard(
        "a job that ended five workers alone is given up",
        "one poison event ends workers for ever",
        BATCH,
        "            if claim.lone_deaths >= MAX_LONE_DEATHS:\n",
        "            if False:\n",
        (T_BATCH + "TestFaults::test_a_job_that_ended_five_workers_alone_is_given_up",),
    ),
    Guard(
        "a job that is none of ours fails with the reason",
        "junk in a queue ends every worker that takes it",
        BATCH,
        "            except ValueError as error:\n",
        "            except ZeroDivisionError as error:\n",
        (T_BATCH + "TestForeignJobs::test_a_foreign_function_is_refused_and_never_called",),
    ),
    Guard(
        "what users' functions are owed is enqueued with the commit",
        "they run seconds later, when the clock finds what is owed",
        BATCH,
        "        self._dispatcher.dispatch(outcome.lanes)\n",
        "",
        ("tests/workers/test_jobs.py::test_an_event_runs_its_functions_once_the_datastore_has_caught_up[sqlite]",),
    ),
    # jobworker
    Guard(
        "a job is owed until its function has ended",
        "a worker that is killed in a function loses the job",
        JOBWORKER,
        "                job.function(argument, directory)\n",
        "                with self._store.writing() as connection:\n"
        "                    connection.execute(sa.delete(outbox).where(outbox.c.id == outbox_id))\n"
        "                job.function(argument, directory)\n",
        (T_JOBWORKER + "TestEnding::test_one_that_raises_is_tried_again",),
    ),
    Guard(
        "the datastore knows first that a job is done",
        "a kill in between runs the function twice",
        JOBWORKER,
        "        with self._store.writing() as connection:\n"
        "            ledger.finish_jobs(connection, [owed.outbox_id for owed in done], datetime.now(UTC))\n"
        "        self.claims.finish([owed.claim for owed in done])\n",
        "        self.claims.finish([owed.claim for owed in done])\n"
        "        with self._store.writing() as connection:\n"
        "            ledger.finish_jobs(connection, [owed.outbox_id for owed in done], datetime.now(UTC))\n",
        (T_JOBWORKER + "TestEnding::test_the_datastore_knows_that_it_is_done_before_redis_does",),
    ),
    Guard(
        "a job that is done is owed no more",
        "the clock enqueues it again for ever",
        JOBWORKER,
        "            ledger.finish_jobs(connection, [owed.outbox_id for owed in done], datetime.now(UTC))\n",
        "            pass\n",
        (T_JOBWORKER + "TestEnding::test_a_job_that_is_done_leaves_the_outbox",),
    ),
    Guard(
        "what waits behind a function is handed to others",
        "one function that hangs holds up thirty other jobs for ten minutes",
        JOBWORKER,
        "                self.claims.hand_back(owed.claim)\n",
        "                pass\n",
        (T_JOBWORKER + "TestTogether::test_behind_one_that_takes_long_others_go_on",),
    ),
    Guard(
        "what was done is remembered while the datastore is away",
        "up to thirty functions run again",
        JOBWORKER,
        "        self._note_done()\n        self.upkeep()\n",
        "        self.upkeep()\n",
        (T_JOBWORKER + "TestTogether::test_a_datastore_that_is_away_at_their_end_runs_none_again",),
    ),
    Guard(
        "a worker that is told to stop begins no other job",
        "it ends only after all that it has taken, or is killed before",
        JOBWORKER,
        "        while not self.stopping.is_set() and (owed := self._next()):\n",
        "        while owed := self._next():\n",
        (T_JOBWORKER + "TestTogether::test_told_to_stop_it_begins_no_other",),
    ),
    Guard(
        "what was done before is not done again",
        "a job's second coming ends the worker",
        JOBWORKER,
        "            if (row := rows.get(outbox_id)) is None:\n                self.claims.finish([claim])",
        "            if (row := rows.get(outbox_id)) is None:\n                raise LookupError([claim])",
        (T_JOBWORKER + "TestEnding::test_its_second_coming_does_nothing",),
    ),
    Guard(
        "a job that is given up is left to people",
        "the clock enqueues it again when Redis has forgotten it",
        JOBWORKER,
        ".values(failed_at=datetime.now(UTC))",
        ".values(failed_at=None)",
        (T_JOBWORKER + "TestEnding::test_one_that_always_raises_is_given_up_and_can_be_requeued",),
    ),
    Guard(
        "a function has a number of retries",
        "one that always raises is tried for ever",
        JOBWORKER,
        "            if attempts > job.retries:\n",
        "            if False:\n",
        (T_JOBWORKER + "TestEnding::test_one_that_always_raises_is_given_up_and_can_be_requeued",),
    ),
    Guard(
        "only what is registered is called",
        "whoever can write to the outbox has any code run",
        JOBWORKER,
        "        job = self._registry.find(owed.function)\n",
        '        job = UserJob("", __import__("pydoc").locate(owed.function), "jobs", 0)\n',
        (T_JOBWORKER + "TestEnding::test_a_function_that_is_no_longer_registered_is_named",),
    ),
    Guard(
        "a job that ended five workers is given up",
        "one poison function ends workers for ever",
        JOBWORKER,
        "        elif owed.claim.lone_deaths >= MAX_LONE_DEATHS:\n",
        "        elif False:\n",
        (T_JOBWORKER + "TestEnding::test_one_that_ends_its_workers_is_given_up",),
    ),
    Guard(
        "a function that hangs is interrupted",
        "one function holds up all others until its worker ends itself",
        JOBWORKER,
        "                JOB_TIMEOUT, JobTimeoutException, job_id=claim.job_id\n",
        "                0, JobTimeoutException, job_id=claim.job_id\n",
        (T_JOBWORKER + "TestEnding::test_one_that_hangs_is_interrupted",),
    ),
    Guard(
        "a function that exits ends no worker",
        "`sys.exit` in one function restarts the worker of all",
        JOBWORKER,
        "        except BaseException as error:",
        "        except Exception as error:",
        (T_JOBWORKER + "TestEnding::test_whatever_one_raises_holds_up_neither_the_sync_nor_another",),
    ),
    Guard(
        "a function that a forced stop breaks off is not charged for it",
        "a few restarts give up a job that did nothing wrong",
        JOBWORKER,
        "            if isinstance(error, SystemExit) and self.stopping.is_set():\n",
        "            if False:\n",
        (T_JOBWORKER + "TestEnding::test_one_that_a_forced_stop_breaks_off_is_given_back_uncharged",),
    ),
    *(
        Guard(
            f"a user's job is checked: its {what}",
            "whoever can write to Redis decides what is done",
            JOBWORKER,
            taken,
            "",
            (T_JOBWORKER + "TestForeignJobs::test_junk_fails_with_a_reason",),
        )
        for what, taken in (
            ("function", "function != JOB_FUNCTION or "),
            ("version", "arguments[1] != VERSION or "),
            ("row", " or not isinstance(arguments[0], int)"),
        )
    ),
    # jobs: dispatching
    Guard(
        "what was enqueued is not enqueued again",
        "every function runs as often as its lane is dispatched",
        JOBS,
        ", outbox.c.enqueued_at.is_(None))",
        ")",
        (T_DISPATCHER + "test_what_was_enqueued_is_not_enqueued_again",),
    ),
    Guard(
        "jobs of a lane are enqueued in their order",
        "a later change of an entity is told before an earlier one",
        JOBS,
        ".order_by(outbox.c.id)",
        ".order_by(outbox.c.id.desc())",
        (T_DISPATCHER + "test_two_dispatchers_enqueue_each_job_once_and_in_order",),
    ),
    Guard(
        "what is being dispatched is locked",
        "a later change of an entity overtakes an earlier one",
        JOBS,
        "    .with_for_update(of=outbox)\n",
        "",
        (T_DISPATCHER + "test_what_another_dispatcher_is_about_to_enqueue_is_left_to_it",),
    ),
    Guard(
        "what Redis did not take is still owed at once",
        "it waits for the clock, and later changes of its entity overtake it",
        JOBS,
        "            self._enqueue(rows)\n"
        '            for ids in chunks([row["id"] for row in rows]):\n'
        "                connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids))"
        ".values(enqueued_at=datetime.now(UTC)))\n",
        '            for ids in chunks([row["id"] for row in rows]):\n'
        "                connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids))"
        ".values(enqueued_at=datetime.now(UTC)))\n"
        "        self._enqueue(rows)\n",
        (T_DISPATCHER + "test_what_redis_did_not_take_is_still_owed",),
    ),
    Guard(
        "a statement names no more than the datastore takes",
        "after a long outage nothing that is owed is enqueued any more, nor anything pruned or compared",
        JOBS,
        "    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))\n",
        "    return iter([values] if values else [])\n",
        (
            T_DISPATCHER + "test_more_of_a_lane_than_a_statement_takes",
            T_CLOCK + "TestOwedJobs::test_more_of_it_than_a_statement_takes",
        ),
    ),
    Guard(
        "an enqueued job wakes a worker",
        "it waits until an idle worker looks by itself",
        JOBS,
        '                pipeline.rpush(WAKE_PREFIX + queue, *["1"] * min(len(ids), WAKE_LIMIT))\n',
        "",
        (T_DISPATCHER + "test_a_job_wakes_a_worker_that_waits_for_its_queue",),
    ),
    # clock
    Guard(
        "what an emptied Redis lost is enqueued again",
        "functions never run for what was committed",
        CLOCK,
        "sa.or_(outbox.c.enqueued_at.is_(None), outbox.c.enqueued_at < before)",
        "outbox.c.enqueued_at.is_(None)",
        (T_CLOCK + "TestOwedJobs::test_what_an_emptied_redis_lost_is_enqueued_again_in_order",),
    ),
    Guard(
        "what was never enqueued is enqueued",
        "functions never run for what a worker committed before it died",
        CLOCK,
        "sa.or_(outbox.c.enqueued_at.is_(None), outbox.c.enqueued_at < before)",
        "outbox.c.enqueued_at < before",
        (T_CLOCK + "TestOwedJobs::test_what_was_never_enqueued_is_enqueued",),
    ),
    Guard(
        "what Redis still has is left alone",
        "every function runs every few seconds until it has ended",
        CLOCK,
        "strict=True) if state is None]",
        "strict=True)]",
        (T_CLOCK + "TestOwedJobs::test_what_redis_still_has_is_left_alone",),
    ),
    Guard(
        "what failed for good is not enqueued again",
        "a job that was given up runs again when Redis has forgotten it",
        CLOCK,
        ".where(overdue, outbox.c.failed_at.is_(None))",
        ".where(overdue)",
        (T_CLOCK + "TestOwedJobs::test_what_failed_for_good_is_left_to_people",),
    ),
    Guard(
        "a failure that only Redis knows is noted",
        "a job whose worker was killed while it gave it up runs again",
        CLOCK,
        "            give_up(self._store, failed)  # killed in its last attempt\n",
        "            pass\n",
        (T_CLOCK + "TestOwedJobs::test_what_failed_for_good_is_left_to_people",),
    ),
    Guard(
        "what was committed just now has time",
        "a job on its way to Redis is enqueued twice",
        CLOCK,
        "timedelta(seconds=GRACE_SECONDS)",
        "timedelta(seconds=0)",
        (T_CLOCK + "TestOwedJobs::test_what_was_committed_just_now_has_time_to_get_there",),
    ),
    Guard(
        "what a job is owed for is not pruned",
        "a function that waits finds nothing to be called with",
        CLOCK,
        "column < before, key.not_in(wanted))",
        "column < before)",
        (T_CLOCK + "TestForgetting::test_what_a_job_is_owed_for_stays",),
    ),
    Guard(
        "one clock leads",
        "two clocks do everything twice",
        CLOCK,
        "if holder and holder ~= ARGV[1] then return 0 end\n",
        "",
        (T_CLOCK + "TestLeading::test_one_of_several_leads",),
    ),
    Guard(
        "a leader's time ends",
        "after a leader's death no clock leads any more",
        CLOCK,
        "ARGV[1], 'EX', ARGV[2])",
        "ARGV[1])",
        (T_CLOCK + "TestLeading::test_one_of_several_leads",),
    ),
    Guard(
        "an outage ends no clock",
        "after it nothing is swept, pruned or compared",
        CLOCK,
        "            except (redis.RedisError, DBAPIError) as error:\n"
        '                log.warning("upkeep waits", reason',
        '            except ZeroDivisionError as error:\n                log.warning("upkeep waits", reason',
        (T_CLOCK + "TestLeading::test_it_goes_on_when_redis_cannot_tell_who_leads",),
    ),
    Guard(
        "what fails in a round holds up nothing else",
        "one refused statement, and nothing is pruned, recovered or compared any more",
        CLOCK,
        '            except (redis.RedisError, DBAPIError) as error:\n                log.warning("upkeep waits", task',
        '            except ZeroDivisionError as error:\n                log.warning("upkeep waits", task',
        (T_CLOCK + "test_what_fails_in_a_round_holds_up_nothing_else",),
    ),
)
