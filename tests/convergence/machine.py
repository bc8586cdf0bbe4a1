"""The state machine: changes, callbacks and workers in any order, all that can go wrong, and what must be true then."""

import json
import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bridge import events, messages
from bridge.events import Event
from simulator.edit import ImpossibleChange
from simulator.events import CONTACT_EVENTS, payload
from simulator.model import ROOT
from tests.convergence.actors import POINTS
from tests.convergence.dingtalk import FAULTS, HANDLERS, Handler
from tests.convergence.house import DATASTORE_AWAY, REDIS_AWAY, SETTLE_SECONDS, House, of
from tests.installation import CORP
from workers.moment import SECOND

#: Seconds by which answers are stale, at most, and by which Redis' clock steps in one example, at most.
MOST_STALE, MOST_STEPPED = 5, 4
assert MOST_STALE + MOST_STEPPED < SETTLE_SECONDS
#: What goes wrong in one example, at most: with more of it little else happens, and an event that ends five workers is
#: given up.
MOST_MISCHIEF = 4

#: Where the late worker sleeps: it has DingTalk's answer and has not written it.
SLEEPS_AT = "read"
HOUR = 3600 * SECOND

#: What happens, and how often; `toggle` is taken back by the next one.
_OFTEN = (
    "user_modify_org",
    "toggle",
    "toggle",
    "label_user_change",
    "org_dept_modify",
    "user_add_org",
    "user_leave_org",
)
KINDS = st.sampled_from([*(kind for kind in CONTACT_EVENTS if kind != "org_remove"), *_OFTEN * 2, "org_remove"])
WORKERS = st.sampled_from(["a", "b"])
ACTORS = st.sampled_from([*"aaabbb", "copy", "comparison"])
#: Mostly the first, so that one thing meets another.
FEW = st.sampled_from([0, 0, 0, 1, 2, 3])


@dataclass
class Callback:
    """An event on its way: which change it tells of, counted from the first."""

    event: Event
    change: int


class Convergence(RuleBasedStateMachine):
    """One example: an installation, an organisation, and what happens to both."""

    house: ClassVar[House]
    #: Examples that ended, by what they were about.
    counts: ClassVar[Counter[str]] = Counter()

    @initialize(
        seed=st.integers(0, 999),
        lossless=st.sampled_from([True, True, False]),
        late=st.sampled_from(["", "a", "b"]),
        lapses=st.booleans(),
        mischief=st.sampled_from([0, 2, MOST_MISCHIEF]),
    )
    def begin(self, seed: int, lossless: bool, late: str, lapses: bool, mischief: int) -> None:
        """`late` sleeps until everybody else has ended, and its lease may run out meanwhile; `mischief` bounds it."""
        self.house.begin(str(seed))
        self.random = random.Random(seed)
        self.lossless, self.late, self.lapses, self.mischief = lossless, late, lapses, mischief
        #: Whether an event was lost, and whether answers or clocks were ever wrong.
        self.lost = self.disturbed = False
        self.under_way: list[Callback] = []
        self.accepted: list[Callback] = []
        self.serial = self.stepped = 0
        #: What each table had to hold after each change, the state before the first included.
        self.truths = [self.house.facts()]
        self.checked: set[str] = set()
        self.commits = self.house.commits
        self.kept: list[tuple[bytes, bytes | None]] = []

    # The organisation and its callbacks

    @rule(changes=st.lists(st.tuples(KINDS, FEW), min_size=1, max_size=2), delivered=st.booleans())
    def happen(self, changes: list[tuple[str, int]], delivered: bool) -> None:
        for kind, who in changes:
            self._change(kind, self._named(kind, who))
        if delivered:
            self.deliver(0, len(self.under_way))

    @precondition(lambda self: self.under_way)
    @rule(first=FEW, count=st.integers(1, 3))
    def deliver(self, first: int, count: int) -> None:
        """Callbacks come in, in any order."""
        for _ in range(min(count, len(self.under_way))):
            callback = self.under_way.pop(first % len(self.under_way))
            self.accepted.append(callback)
            self.house.acceptor.accept([callback.event])

    @precondition(lambda self: self.accepted)
    @rule(which=FEW, how=st.sampled_from(["again", "under another id", "replayed"]))
    def repeat(self, which: int, how: str) -> None:
        callback = self.accepted[-1 - which % len(self.accepted)]
        event = callback.event
        if how == "under another id":
            self.under_way.append(Callback(msgspec.structs.replace(event, id=self._new_id()), callback.change))
            self.deliver(len(self.under_way) - 1, 1)
        elif how == "replayed":
            self.house.acceptor.accept([msgspec.structs.replace(event, via="replay")], again=True)
        else:
            self.house.acceptor.accept([event])

    @precondition(lambda self: self.under_way and not self.lossless)
    @rule(which=FEW)
    def drop(self, which: int) -> None:
        self.under_way.pop(which % len(self.under_way))
        self.lost = True

    # Workers

    @rule(steps=st.lists(st.tuples(ACTORS, st.sampled_from(["", "", *POINTS])), min_size=1, max_size=3))
    def step(self, steps: list[tuple[str, str]]) -> None:
        """To a point, or to the end of a turn.

        The late one begins when everything has settled, so that its reads leave no echo, and sleeps until the end.
        """
        for name, point in steps:
            actor = self.house.actors.get(name)
            if actor is None or self._sleeps(name):
                continue
            if name == self.late and not actor.at:
                self.house.times.pass_by((SETTLE_SECONDS + 1) * SECOND)
            actor.run_to(SLEEPS_AT if name == self.late else point)
            self._check_final()

    @precondition(lambda self: self.mischief)
    @rule(name=WORKERS, kind=st.sampled_from(["crash", "lapse", "take back"]))
    def trouble(self, name: str, kind: str) -> None:
        """It is killed; or it lives, and yet others take its claims."""
        self.mischief -= 1
        if kind == "crash" and not self._sleeps(name):
            self.house.kill(name)
            self.house.hire(name)
        elif kind == "lapse":
            self.house.lapse(name)
        else:
            self.house.take_back()

    @precondition(lambda self: self.mischief)
    @rule(name=ACTORS, error=st.sampled_from([REDIS_AWAY, DATASTORE_AWAY]))
    def break_down(self, name: str, error: Exception) -> None:
        """A call of Redis or of the datastore fails under it."""
        self.mischief -= 1
        actor = self.house.actors.get(name)
        if actor and actor.at and not self._sleeps(name):
            actor.throw(error)

    @precondition(lambda self: "copy" not in self.house.actors)
    @rule()
    def copy(self) -> None:
        self.house.start_copy()

    @precondition(lambda self: "comparison" not in self.house.actors)
    @rule()
    def compare(self) -> None:
        self.house.start_comparison()

    # DingTalk, time, Redis

    @rule(handlers=st.sets(st.sampled_from(HANDLERS), min_size=1), seconds=st.sampled_from([0, 2, MOST_STALE]))
    def be_stale(self, handlers: set[Handler], seconds: int) -> None:
        """Answers of one kind may lag more than those of another."""
        self.disturbed |= seconds > 0
        self.house.client.lags |= dict.fromkeys(handlers, float(seconds))

    @precondition(lambda self: self.mischief)
    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3))
    def refuse(self, faults: list[Any]) -> None:
        self.mischief -= 1
        self.house.client.faults += faults

    @rule(micros=st.sampled_from([1, SECOND, (SETTLE_SECONDS + 1) * SECOND, 2 * SETTLE_SECONDS * SECOND]))
    def pass_time(self, micros: int) -> None:
        self.house.times.pass_by(micros)

    @precondition(lambda self: self.mischief)
    @rule(micros=st.sampled_from([-2 * SECOND, -1, 0, 1, 2 * SECOND]))
    def restart_redis(self, micros: int) -> None:
        """Its clock steps; or it begins another life and loses nothing."""
        self.mischief -= 1
        if micros == 0:
            self.house.times.restart()
        elif self.stepped + abs(micros) <= MOST_STEPPED * SECOND:
            self.stepped += abs(micros)
            self.disturbed = True
            self.house.times.step(micros)

    @precondition(lambda self: self.mischief and not self.lossless)
    @rule(how=st.sampled_from(["kept", "set back", "emptied", "replaced"]), micros=st.sampled_from([-HOUR, 0, HOUR]))
    def lose_redis(self, how: str, micros: int) -> None:
        """By hand, by its own file of earlier, or by another that takes its place with a clock of its own."""
        house = self.house
        self.mischief -= 1
        if how == "kept":
            # Leases have run out until it is read again.
            keys = [key for key in house.connection.scan_iter() if not key.startswith((b"test:", b"bridge:lease:"))]
            self.kept = [(key, house.connection.dump(key)) for key in keys]
            return
        self.lost = True
        house.connection.flushall()
        for key, dump in self.kept if how == "set back" else ():
            house.connection.restore(key, 0, dump)
        if how == "emptied":
            house.times.show()
        else:
            house.times.ahead += micros if how == "replaced" else 0
            house.times.restart()

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self._end()
        finally:
            self.house.end()

    # The end

    def _end(self) -> None:
        """No more disorder: everything is delivered and worked off, and then every table is true."""
        house = self.house
        house.client.lags.clear()
        house.client.faults.clear()
        while self.under_way:
            self.deliver(self.random.randrange(4), 1)
        late = self.late if self._sleeps(self.late) else ""
        if late and self.lapses:
            house.lapse(late)
        awake = [name for name in house.actors if name != late]
        house.work_off(*awake)
        if late:
            house.times.pass_by(2 * SETTLE_SECONDS * SECOND)
            house.work_off(late, *awake)
        self._check_final()
        if self.lost:
            house.repair()
        assert house.differences() == []
        if not self.lost:
            unended = {callback.event.id for callback in self.accepted} - house.final().keys()
            assert not unended, f"without a final row: {unended}"
        self.counts["lost" if self.lost else "disturbed" if self.disturbed else "in order"] += 1

    def _sleeps(self, name: str) -> bool:
        return name != "" and name == self.late and self.house.actors[name].at == SLEEPS_AT

    def _check_final(self) -> None:
        """An event is final once its entities are at least as new as it is; where answers and clocks were right."""
        if self.house.commits == self.commits:
            return
        self.commits = self.house.commits
        final = self.house.final()
        new = [item for item in self.accepted if item.event.id in final.keys() - self.checked]
        self.checked |= {item.event.id for item in new}
        if self.disturbed or not new or self.house.tenant.dissolved:
            return
        here = self.house.here()
        for callback in new:
            assert final[callback.event.id] in ("applied", "folded"), final[callback.event.id]
            for entity in events.entities(callback.event):
                later = [of(entity, truth) for truth in self.truths[callback.change :]]
                assert of(entity, here) in later, f"{callback.event.id} is final, and {entity.kind} older than it"

    def _change(self, kind: str, named: str | int | None) -> None:
        if kind == "toggle" and named is not None:
            kind = "org_admin_remove" if self.house.tenant.users.rows[named].admin_level else "org_admin_add"  # type: ignore[index]
        try:
            made = self.house.changes.make(kind, named)
        except ImpossibleChange:
            return
        self.truths.append(self.house.facts())
        for happened in made:
            message = payload(happened, CORP, "B") | {"eventId": self._new_id()}
            (event,) = messages.parse(json.dumps(message).encode(), "acme", CORP).events
            self.under_way.append(Callback(event, len(self.truths) - 1))

    def _new_id(self) -> str:
        self.serial += 1
        return f"e{self.serial}"

    def _named(self, kind: str, who: int) -> Any:
        """One of the first few that it can happen to; None leaves it to chance."""
        tenant = self.house.tenant
        if kind == "user_add_org":
            names: list[Any] = list(tenant.leavers)
        elif kind in ("toggle", "user_modify_org", "user_leave_org"):
            names = [user.userid for user in tenant.users.rows.values() if user.admin_level != 1]
        elif kind in ("org_dept_modify", "org_dept_remove"):
            names = [dept_id for dept_id in tenant.departments.rows if dept_id != ROOT]
        elif kind in ("label_user_change", "label_conf_del"):
            names = list(tenant.roles.rows)
        else:
            names = []
        return names[who] if who < len(names) else None
