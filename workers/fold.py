"""Events become reads: one read serves all events that wait for it, and each event gets its final row with it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import NamedTuple

from sqlalchemy.engine import Connection

from bridge import events
from bridge.events import ROOT_DEPARTMENT, Entity, Event
from workers import rows
from workers.errors import ApiError, Throttled
from workers.lives import Lives
from workers.moment import SECOND, Moment
from workers.owing import owe_changes
from workers.readers import Answer
from workers.refresh import Noted, Refresher
from workers.registry import Registry
from workers.store import ledger, reads
from workers.store.draft import Absence, Cause, Draft, Pushed
from workers.store.ledger import Owed, Status, Verdict
from workers.store.reads import Due, Priority, Taken
from workers.suites import Done, Suites

#: Rounds without avail after which what is always overtaken is left to a later attempt.
MAX_ROUNDS = 10
#: Seconds until a read that DingTalk did not answer is tried again, doubled with each attempt up to the second.
RETRY_SECONDS = (2.0, 900.0)
#: Why an event that names nothing to read is ignored.
_NOTHING = "it names nothing that is read"
_UNKNOWN = "its type is not in the catalogue"
_NO_CORP = "it names no corp, and its app has none"
_STANDS = "DingTalk still answers for the root department: the corp was not dissolved"


class Waiting(NamedTuple):
    """An event that was claimed, and Redis' moment at which it was accepted."""

    event: Event
    accepted: Moment


@dataclass
class Outcome:
    """What became of the events: those that have their final row, and what stands against the others."""

    final: dict[str, Status] = field(default_factory=dict)
    errors: dict[str, ApiError] = field(default_factory=dict)
    #: What stands against the reads that were put off.
    late: dict[Entity, ApiError] = field(default_factory=dict)
    #: Lanes of the outbox in which jobs now wait.
    lanes: set[str] = field(default_factory=set)
    #: When (Redis' microseconds) the first of the reads comes due that were noted.
    next_due: int | None = None


class _Cover(NamedTuple):
    """A committed read that covers an entity, and the event it was made for."""

    moment: Moment
    event_id: str | None
    #: Whether a pushed row took the answer's place.
    by_row: bool = False


@dataclass
class _Course:
    """One event on its way to its final row."""

    waiting: Waiting
    entities: tuple[Entity, ...]
    #: The committed read that covers each entity that is done.
    covered: dict[Entity, _Cover] = field(default_factory=dict)
    #: What stands against those that were asked for in vain.
    refused: dict[Entity, ApiError] = field(default_factory=dict)
    #: Whether a read was made for this event.
    read: bool = False
    #: Why no work is done for its corp, if none is.
    halted: str | None = None

    @property
    def id(self) -> str:
        return self.waiting.event.id

    @property
    def quiet(self) -> bool:
        return self.waiting.event.quiet

    @property
    def dissolves(self) -> bool:
        return self.waiting.event.type == "org_remove"

    def uncovered(self) -> set[Entity]:
        return set(self.entities) - self.covered.keys()

    def left(self) -> set[Entity]:
        """What is still to be asked for."""
        return self.uncovered() - self.refused.keys()

    def obstacle(self) -> ApiError | None:
        """What stands against it; as long as anything of that may pass, it is tried again."""
        standing = [error for entity, error in self.refused.items() if entity not in self.covered]
        return min(standing, key=lambda error: error.permanent, default=None)

    def covered_with(
        self, written: set[Entity], moment: Moment, causes: Mapping[Entity, Cause], pushed: Pushed
    ) -> dict[Entity, _Cover]:
        """What covers it once these entities, read at that moment, are committed."""
        newly = self.uncovered() & written
        return self.covered | {
            entity: _Cover(moment, causes[entity].event_id, entity in pushed.taken) for entity in newly
        }


class Folder:
    """Applies batches of events and of reads that are due."""

    def __init__(
        self,
        refresher: Refresher,
        registry: Registry,
        suites: Suites,
        settle_seconds: float,
        at_once: int | None = None,
    ) -> None:
        """`at_once`: how many are read before what was read is committed; None for all.

        More than the budget grants soon would wait in vain, and a read counts from the time before that wait.
        """
        self._refresher = refresher
        self._registry = registry
        self._suites = suites
        self._settle = round(settle_seconds * SECOND)
        self._lives = Lives(refresher.store, settle_seconds)
        self.at_once = at_once

    def apply(self, batch: Sequence[Waiting], taken: Sequence[Taken] = ()) -> Outcome:
        """Read once what these events and reads need; commit it with the events' final rows.

        Raises RedisError and what the datastore raises; whatever was committed before stays true.
        """
        outcome = Outcome()
        with self._refresher.store.reading() as connection:
            known = ledger.settled(connection, [item.event.id for item in batch if not item.event.replayed])
        outcome.final |= dict.fromkeys(known, "applied")
        fresh = self._apply_suites([item for item in batch if item.event.id not in known], outcome)
        courses = [_Course(item, events.entities(item.event)) for item in fresh]
        open_reads = {read.entity: read for read in taken}
        in_vain, most = 0, _left(courses, open_reads)
        while in_vain < MAX_ROUNDS:
            if not courses and not open_reads:
                return outcome
            courses, open_reads = self._round(courses, open_reads, outcome)
            left = _left(courses, open_reads)
            in_vain = in_vain + 1 if left == most else 0
            most = left
        overtaken = Throttled("overtaken", "others write it all the time")
        outcome.errors |= {course.id: overtaken for course in courses}
        return outcome

    def _apply_suites(self, batch: Sequence[Waiting], outcome: Outcome) -> Sequence[Waiting]:
        """What suites' own events ask for, tickets first, as nothing can be read without them; then what is left."""
        if not self._suites:
            return batch
        own = [item for item in batch if self._suites.concerns(item.event)]
        for item in sorted(own, key=lambda item: item.event.type != events.URGENT):
            try:
                _merge(outcome, self._suites.perform(*item, partial(self._settle_suite, item)))
            except ApiError as error:
                outcome.errors[item.event.id] = error
        others = [item for item in batch if item not in own]
        for grant, happened in self._suites.to_renew(item.event for item in others).items():
            try:
                _merge(outcome, self._suites.renew(*grant, self._note_changes))
            except ApiError as error:
                if not error.permanent:  # else pushed rows speak for themselves
                    outcome.errors |= dict.fromkeys(happened, error)
        return [item for item in others if item.event.id not in outcome.errors]

    def _settle_suite(self, item: Waiting, tx: Connection, done: Done) -> Outcome:
        """The final row of a suite's own event, with what it changed."""
        verdict = Verdict(item.event, item.accepted.micros, "ignored" if done.ignored else "applied", done.ignored)
        said = self._note_changes(tx, done)
        owed = self._owed_events([verdict], ledger.record(tx, [verdict], datetime.now(UTC)))
        ledger.owe(tx, owed)
        said.lanes |= {job.lane for job in owed}
        said.final[item.event.id] = verdict.status
        return said

    def _note_changes(self, tx: Connection, done: Done) -> Outcome:
        return Outcome(lanes=owe_changes(tx, self._registry, done.changes, datetime.now(UTC)))

    def unread_since(self, moment: Moment, entities: Sequence[Entity]) -> list[Entity]:
        """Those of which no read is committed that began after that moment."""
        committed = self._refresher.note(entities).committed
        return [
            entity
            for entity in entities
            if not ((read := committed.get(entity)) and read.life == moment.life and read.micros > moment.micros)
        ]

    def fail(self, item: Waiting, reason: str) -> None:
        """Give an event up for good, with the reason; a final row that it has already stays."""
        now = datetime.now(UTC)
        with self._refresher.store.writing() as connection:
            ledger.record(connection, [Verdict(item.event, item.accepted.micros, "failed", reason)], now)

    def _round(
        self, courses: list[_Course], taken: dict[Entity, Taken], outcome: Outcome
    ) -> tuple[list[_Course], dict[Entity, Taken]]:
        """Note, read and write once; what was overtaken comes back for another round."""
        left = {entity for course in courses for entity in course.left()}
        noted = self._refresher.note(left | taken.keys())
        self._lives.see(noted.moment)
        # Asked after the note: what stops meanwhile raises the fence.
        halted = self._suites.standing({entity.corp_id for entity in noted.versions}).halted
        for course in courses:
            course.halted = halted.get(course.waiting.event.corp_id or "")
        dropped = [read for entity, read in taken.items() if entity.corp_id in halted]
        taken = {entity: read for entity, read in taken.items() if entity.corp_id not in halted}
        owners = _fold([course for course in courses if course.halted is None], noted)
        wanted = dict.fromkeys(owners, True)
        wanted |= {entity: entity in owners or read.priority < Priority.HEAL for entity, read in taken.items()}
        wanted = dict(islice(wanted.items(), self.at_once))
        answers, errors = self._refresher.read(wanted)
        pushed = _take_from_rows(courses, answers, errors)
        _judge_dissolution(courses, answers)
        causes = {entity: Cause(read.event_id, read.priority >= Priority.COPY) for entity, read in taken.items()}
        live = {entity for entity, cause in causes.items() if not cause.quiet}
        causes |= {entity: Cause(course.id, course.quiet and entity not in live) for entity, course in owners.items()}

        stuck = not answers and bool(errors) and not any(error.permanent for error in errors.values())
        for course in courses:
            course.refused |= {entity: errors[entity] for entity in course.left() & errors.keys()}
        able = self._refresher.readers.clients({entity.corp_id for course in courses for entity in course.entities})

        def conclude(draft: Draft, written: set[Entity]) -> Outcome:
            reads.finish(draft.tx, dropped)
            return self._conclude(draft, written, noted, courses, owners, answers, taken, errors, able)

        written, said = self._refresher.write(noted, answers, causes, conclude, pushed)
        _merge(outcome, said)
        outcome.late |= {entity: errors[entity] for entity in taken if entity in errors}
        for course in courses:
            course.covered = course.covered_with(written, noted.moment, causes, pushed)
        for entity in written & owners.keys():
            owners[entity].read = True
        for course in courses:
            # One that cannot be read leaves none of the others unread, but for where nothing can be read.
            if (stuck or not course.left()) and (obstacle := course.obstacle()) is not None:
                outcome.errors[course.id] = obstacle
        again = [course for course in courses if course.id not in outcome.final and course.id not in outcome.errors]
        return again, {e: read for e, read in taken.items() if e not in written and e not in errors}

    def _conclude(
        self,
        draft: Draft,
        written: set[Entity],
        noted: Noted,
        courses: Iterable[_Course],
        owners: Mapping[Entity, _Course],
        answers: Mapping[Entity, Answer],
        taken: Mapping[Entity, Taken],
        errors: Mapping[Entity, ApiError],
        able: Collection[str],
    ) -> Outcome:
        """In the transaction of the rows: final statuses, changes, jobs owed, and the reads still to come."""
        served = {course.id for entity, course in owners.items() if entity in written}
        verdicts: list[Verdict] = []
        due: list[Due] = []
        for course in courses:
            if course.halted is not None:
                verdicts.append(Verdict(course.waiting.event, course.waiting.accepted.micros, "ignored", course.halted))
                continue
            covered = course.covered_with(written, noted.moment, draft.causes, draft.pushed)
            lost = set(course.entities) - covered.keys()
            if not lost:
                verdicts.append(_verdict(course, course.read or course.id in served, covered, answers))
            # Also where something stands against it: what could be read may lag all the same.
            if lost <= course.refused.keys():
                due += self._echoes(course, covered, able)
        reads.finish(draft.tx, [read for entity, read in taken.items() if entity in written])
        late = {read: errors[entity] for entity, read in taken.items() if entity in errors}
        due += self._marked(draft, written, noted.moment)
        reads.schedule(draft.tx, due)
        postponed = _postpone(draft, late, noted.moment.micros)
        now = datetime.fromtimestamp(noted.micros_now() / SECOND, UTC)
        new = ledger.record(draft.tx, verdicts, now)
        lanes = owe_changes(draft.tx, self._registry, draft.changes, now)
        owed = self._owed_events(verdicts, new)
        ledger.owe(draft.tx, owed)
        times = [item.due_at for item in due] + postponed
        return Outcome(
            {verdict.event.id: verdict.status for verdict in verdicts},
            lanes=lanes | {job.lane for job in owed},
            next_due=min(times, default=None),
        )

    def _echoes(self, course: _Course, covered: Mapping[Entity, _Cover], able: Collection[str]) -> Iterable[Due]:
        """Answers can lag behind events: read once more what was not read late enough (rule 4, echo).

        What a row told is read whenever that is possible again. `able`: the corps that can be read.
        """
        accepted = course.waiting.accepted
        for entity, (moment, _, by_row) in covered.items():
            same_life = moment.life == accepted.life
            due = (accepted.micros if same_life else moment.micros) + self._settle
            late_enough = same_life and moment.micros > due and not by_row
            if not late_enough and entity.corp_id in able:
                yield Due(entity, due, "echo", course.id)

    def _marked(self, draft: Draft, written: set[Entity], moment: Moment) -> Iterable[Due]:
        """What the answers ask for; where answers lag, once they have settled, as the mark has no echo."""
        for entity, (reason, cause, settling) in draft.marks.items():
            if settling or entity not in written:
                due = moment.micros + (self._settle if settling else 0)
                yield Due(entity, due, reason, cause.event_id, Priority.COPY if cause.quiet else Priority.EVENT)

    def _owed_events(self, verdicts: Iterable[Verdict], new: set[str]) -> list[Owed]:
        return [
            Owed(job.name, job.queue, f"event {verdict.event.id}", verdict.event.id)
            for verdict in verdicts
            if verdict.status != "failed" and not verdict.event.quiet
            if verdict.event.id in new or verdict.event.replayed
            for job in self._registry.for_event(verdict.event.type)
        ]


def _fold(courses: Iterable[_Course], noted: Noted) -> dict[Entity, _Course]:
    """Cover what a committed read covers already; for the rest, the one event that each read is made for.

    That is the first, or the first that is not quiet.
    """
    owners: dict[Entity, _Course] = {}
    for course in courses:
        accepted = course.waiting.accepted
        for entity in course.entities:
            if entity not in course.left():
                continue
            committed = noted.committed.get(entity)
            covers = committed and committed.life == accepted.life and committed.micros > accepted.micros
            # Whether a corp was dissolved is asked anew: a tombstone must be this event's own.
            if covers and committed and not course.dissolves:
                course.covered[entity] = _Cover(committed, noted.made_for[entity])
            elif (owner := owners.get(entity)) is None or (owner.quiet and not course.quiet):
                owners[entity] = course
    return owners


def _left(courses: Iterable[_Course], taken: Mapping[Entity, Taken]) -> int:
    """How much is still to be done: nothing less after a round that was in vain."""
    return sum(1 + len(course.left()) for course in courses) + len(taken)


def _take_from_rows(
    courses: Iterable[_Course], answers: dict[Entity, Answer], errors: dict[Entity, ApiError]
) -> Pushed:
    """Where DingTalk cannot be asked for good, what pushed rows say of the entity takes the place of its answer."""
    courses = list(courses)
    barred = {entity for entity, error in errors.items() if error.permanent}
    barred |= {entity for entity, answer in answers.items() if answer is Absence.UNREAD}
    taken: dict[Entity, str] = {}
    for entity in barred:
        happened = [course.waiting.event for course in courses if entity in course.entities]
        found = rows.content(happened, entity)
        if found is not None:
            answers[entity], taken[entity] = found
            errors.pop(entity, None)
        elif entity.kind == "roles" and entity in answers:
            # No read: it covers nobody who names others.
            answers[entity], taken[entity] = rows.named_roles(happened), ""
    return Pushed(taken, rows.orders(course.waiting.event for course in courses))


def _judge_dissolution(courses: Iterable[_Course], answers: dict[Entity, Answer]) -> None:
    """An org_remove is true unless the root department still answers."""
    for course in courses:
        for entity in course.entities if course.dissolves else ():
            if answers.get(entity) in (Absence.GONE, Absence.UNREAD):
                answers[entity] = Absence.DISSOLVED


def _verdict(
    course: _Course, read: bool, covered: Mapping[Entity, _Cover], answers: Mapping[Entity, Answer]
) -> Verdict:
    event, stamp = course.waiting.event, course.waiting.accepted.micros
    if not course.entities:
        reason = _NOTHING if event.corp_id else _NO_CORP
        return Verdict(event, stamp, "ignored", reason if event.type in events.CATALOGUE else _UNKNOWN)
    root = Entity(event.corp_id or "", "department", str(ROOT_DEPARTMENT))
    if course.dissolves and answers[root] is not Absence.DISSOLVED:
        return Verdict(event, stamp, "ignored", _STANDS)
    if read:
        return Verdict(event, stamp, "applied")
    others = dict.fromkeys(event_id for entity in course.entities if (event_id := covered[entity].event_id))
    return Verdict(event, stamp, "folded", folded_into=tuple(others))


def _postpone(draft: Draft, late: Mapping[Taken, ApiError], now: int) -> list[int]:
    """Put off the reads that DingTalk did not answer; a throttle is no attempt.

    What it refuses for good is tried on, as an app's rights may come back, but in nobody's way.
    """
    first, most = RETRY_SECONDS
    times = {}
    for read, error in late.items():
        wait = error.wait if isinstance(error, Throttled) else min(most, first * 2 ** min(read.attempts, 20))
        times[read] = now + round(wait * SECOND)
    for charged, lowered in ((False, False), (True, False), (True, True)):
        group = {
            read: str(error)
            for read, error in late.items()
            if isinstance(error, Throttled) is not charged and error.permanent is lowered
        }
        reads.postpone(draft.tx, group, times, charged, lowered)
    return list(times.values())


def _merge(outcome: Outcome, said: Outcome) -> None:
    outcome.final |= said.final
    outcome.lanes |= said.lanes
    outcome.next_due = min((due for due in (outcome.next_due, said.next_due) if due is not None), default=None)
