"""The whole simulator without its HTTP face: organisations, apps, tokens, faults, deliveries, traffic."""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from bridge.crypto import SUITE_CREATION_OWNER
from simulator.apps import App, SimApp, Subscription, authorization
from simulator.changes import Changes
from simulator.deliveries import Deliveries
from simulator.edit import ImpossibleChange
from simulator.events import Event, Generation, Payload, payload
from simulator.faults import CallLog, Faults
from simulator.rows import MEDIUM, RowMaker, envelope
from simulator.seed import organisation
from simulator.suites import SUITE_EVENTS, Push
from simulator.tenant import Tenant
from simulator.tokens import Tokens
from simulator.traffic import Traffic
from simulator.truth import truth

Mix = Literal["A", "B", "mixed"]


class UnknownApp(ValueError):
    """No app of that name is played here."""


class World:
    """Everything that DingTalk would know. Alone it changes nothing and sends nothing."""

    def __init__(self, apps: Sequence[SimApp], users: int, seed: int) -> None:
        self.apps = {config.name: App(config) for config in apps}
        if len(self.apps) != len(apps):
            raise ValueError("two apps have the same name: give each its own")
        self.faults = Faults()
        self.calls = CallLog()
        self.tokens = Tokens()
        self.deliveries = Deliveries(self.faults, f"deliveries {seed}")
        self.traffic = Traffic()
        self.rng = random.Random(f"faults {seed}")  # noqa: S311 - repeatable, not secret
        self._users, self._seed = users, seed
        self.tenants: dict[str, Tenant] = {}
        self._changes: dict[str, Changes] = {}
        self._rows = RowMaker()
        for corp_id in dict.fromkeys(key for app in self.apps.values() for key in app.corps):
            self.found(corp_id)

    def app(self, name: str) -> App:
        """Raises UnknownApp."""
        if name not in self.apps:
            raise UnknownApp(f"no app is called {name}; there are {', '.join(self.apps)}")
        return self.apps[name]

    def found(self, corp_id: str, users: int | None = None) -> Tenant:
        """A new organisation, or the one of this id: the first depends on users and seed alone, each further one is
        another."""
        if corp_id not in self.tenants:
            number = len(self.tenants)
            self.tenants[corp_id] = organisation(corp_id, users or self._users, f"{self._seed} {number}")
            self._changes[corp_id] = Changes(self.tenants[corp_id], f"changes {self._seed} {number}")
        return self.tenants[corp_id]

    def truth(self, app: str, corp: str | None = None) -> dict[str, Any]:
        """The whole organisation of an app (see `simulator.truth`), its first or the one named. Raises UnknownApp."""
        return truth(self.tenant(app, corp))

    def tenant(self, app: str, corp: str | None = None) -> Tenant:
        """An organisation that the app works for, its first or the one named. Raises UnknownApp, ImpossibleChange."""
        found = self.app(app)
        if corp is not None and corp not in found.corps:
            raise ImpossibleChange(f"{app} does not work for {corp}; it does for {', '.join(found.corps)}")
        return self.tenants[corp or found.corp_id]

    def change(
        self,
        app: str,
        event: str | None = None,
        entity: str | int | None = None,
        generation: Mix = "mixed",
        deliver: bool = True,
        corp: str | None = None,
    ) -> list[dict[str, Any]]:
        """Change the app's organisation once, its first or the one named, and send the callbacks to every subscriber.

        `event` is one of CONTACT_EVENTS, None for any but org_remove; `entity` the userid, department, role or role
        group that it happens to. Each callback made is {app, event, generation, payload, delivery}; generation is
        "rows" for a suite, delivery a number or None. Raises UnknownApp, ImpossibleChange.
        """
        asked = self.app(app)
        tenant = self.tenant(app, corp)
        with tenant.lock:
            events = self._changes[tenant.corp_id].make(event, entity)
            made = [row for happened in events for row in self._callbacks(asked, tenant, happened, generation)]
        return [self._sent(*row, deliver) for row in made]

    def push(self, app: str, event: str, rows: bool = False, corp: str | None = None) -> dict[str, Any]:
        """Tell a suite something about itself: one of SUITE_EVENTS, plain or (rows) as SyncHTTP.

        It is about the suite's first corp or the one named, which is founded where it authorises the suite.
        The callback made, as `change` returns them. Raises UnknownApp; ImpossibleChange for another event or no suite.
        """
        suite = self.app(app)
        if not suite.is_suite or event not in SUITE_EVENTS:
            raise ImpossibleChange(f"{app} is no suite, or {event} none of {', '.join(SUITE_EVENTS)}")
        if corp is not None and event == "tmp_auth_code" and corp not in suite.corps:
            self.found(corp)
            suite.corps[corp] = authorization(corp)
        tenant = self.tenant(app, corp)
        granted = suite.corps[tenant.corp_id]
        with tenant.lock:
            message = SUITE_EVENTS[event](Push(suite, granted, tenant, self._rows), rows)
        if granted.revoked:
            self.tokens.revoke(suite, granted.corp_id)
        to = suite.console
        if to and event == "check_create_suite_url":
            to = replace(to, owner=SUITE_CREATION_OWNER)
        born = time.time_ns() // 1_000_000
        return self._sent(suite, to, granted.corp_id, "rows" if rows else "A", message, born, True)

    def start_traffic(self, per_second: float, app: str | None = None) -> None:
        """Random changes from now on, in the app's organisation or in all; 0 stops. Raises UnknownApp."""
        asked = None if app is None else self.app(app)
        self.traffic.start(per_second, lambda: self._random_change(asked))

    def stop_traffic(self) -> None:
        self.traffic.stop()

    def expire_tokens(self) -> None:
        """All tokens die at once."""
        self.tokens.expire_all()

    def resume(self) -> None:
        """Go on after a fork, which threads do not survive."""
        self.traffic.resume()

    def close(self) -> None:
        """Stop traffic and deliveries; what still waits is dropped."""
        self.traffic.stop()
        self.deliveries.close()

    def _random_change(self, asked: App | None) -> None:
        """In an organisation of this app or of any, each as often as another."""
        apps = list(self.apps.values()) if asked is None else [asked]
        served = {corp_id: app.config.name for app in apps for corp_id in list(app.corps) if app.authorization(corp_id)}
        open_corps = [corp_id for corp_id in served if not self.tenants[corp_id].dissolved]
        if open_corps:
            corp_id = self.rng.choice(open_corps)
            # The one refusal that is left is an organisation dissolved just now.
            with suppress(ImpossibleChange):
                self.change(served[corp_id], corp=corp_id)

    def _callbacks(
        self, asked: App, tenant: Tenant, event: Event, mix: Mix
    ) -> list[tuple[App, Subscription | None, str, str, Payload, int]]:
        """(app, subscription, corp, generation, payload, born) for every subscriber; `asked` also without one."""
        made: list[tuple[App, Subscription | None, str, str, Payload, int]] = []
        for app in self.apps.values():
            granted = app.authorization(tenant.corp_id)
            if granted is None or granted.close == 0:
                continue
            found = [to for to in (app.console, app.registration) if to and _wants(to, event.type)]
            nobody: list[Subscription | None] = [None] if app is asked else []
            for to in found or nobody:
                kind, message = self._message(app, tenant, event, mix, to)
                made.append((app, to, tenant.corp_id, kind, message, event.born))
        return made

    def _message(
        self, app: App, tenant: Tenant, event: Event, mix: Mix, to: Subscription | None
    ) -> tuple[str, Payload]:
        if app.is_suite:
            return "rows", envelope(MEDIUM, self._rows.contact_rows(event, tenant, app))
        kind: Generation
        if mix != "mixed":
            kind = mix
        elif to is not None and to.tags is not None:
            # Registrations by API have kept the first generation (events.md §0).
            kind = "A"
        else:
            kind = "A" if self.rng.random() < 0.5 else "B"
        return kind, payload(event, tenant.corp_id, kind)

    def _sent(
        self,
        app: App,
        to: Subscription | None,
        corp_id: str,
        generation: str,
        message: Payload,
        born: int,
        deliver: bool,
    ) -> dict[str, Any]:
        empty = message.get("bizData") == []
        number = None
        if to is not None and deliver and not empty:
            number = self.deliveries.send(app, to, corp_id, born, message)
        event = message["EventType"]
        return {
            "app": app.config.name,
            "event": event,
            "generation": generation,
            "payload": message,
            "delivery": number,
        }


def _wants(to: Subscription, event: str) -> bool:
    return to.tags is None or event in to.tags
