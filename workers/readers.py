"""An entity's present state at DingTalk: which app reads it, by which call, and what the answer means."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bridge.config import AppConfig, Config
from bridge.events import Entity, EntityKind
from workers.answers import Department, RoleGroup, User
from workers.dingtalk import DingTalk
from workers.errors import ApiError, Gone, Hidden, Transient
from workers.store.draft import Absence

Answer = User | Department | Sequence[RoleGroup] | Absence

#: The codes that say an entity of this kind is gone; another kind's code says nothing of it (api.md §7).
GONE_CODES: Mapping[EntityKind, frozenset[str]] = {
    "user": frozenset({"60121", "33012"}),
    "department": frozenset({"60003"}),
    "roles": frozenset(),
}
#: DingTalk's code for a corp that was dissolved; it comes in answer to any call.
ORG_DISSOLVED = "70001"


class Readers:
    """Reads entities, many at a time, each through the first app that has credentials for its corp."""

    def __init__(self, config: Config, connect: Callable[[AppConfig], DingTalk], threads: int) -> None:
        self._config = config
        self._clients = {app.name: connect(app) for app in config.apps if app.reads}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def client(self, corp_id: str) -> DingTalk | None:
        """The client for this corp; None where no app has the credentials."""
        app = self._config.reader(corp_id)
        return None if app is None else self._clients[app.name]

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, Answer], dict[Entity, ApiError]]:
        """The answers, and what stood against the others. The value of each tells whether somebody waits for it."""
        results = [self._try(*item) for item in wanted.items()] if len(wanted) == 1 else self._read_many(wanted)
        results = self._with_levels(wanted, results)
        answers: dict[Entity, Answer] = {}
        errors: dict[Entity, ApiError] = {}
        for entity, result in zip(wanted, results, strict=True):
            if isinstance(result, ApiError):
                errors[entity] = result
            else:
                answers[entity] = result
        return answers, errors

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _read_many(self, wanted: Mapping[Entity, bool]) -> list[Answer | ApiError]:
        return list(self._pool.map(self._try, wanted.keys(), wanted.values()))

    def _with_levels(self, wanted: Mapping[Entity, bool], results: list[Answer | ApiError]) -> list[Answer | ApiError]:
        """Who is an admin is told of which level: by one more call for each corp, where there is one at all."""
        live: dict[str, bool] = {}
        for (entity, waited_for), result in zip(wanted.items(), results, strict=True):
            if isinstance(result, User) and result.admin is True:
                live[entity.corp_id] = waited_for or live.get(entity.corp_id, False)
        levels = {corp_id: self._levels(corp_id, waited_for) for corp_id, waited_for in live.items()}
        return [
            _with_level(result, levels[entity.corp_id]) if isinstance(result, User) and result.admin is True else result
            for entity, result in zip(wanted, results, strict=True)
        ]

    def _levels(self, corp_id: str, live: bool) -> Mapping[str, int] | ApiError:
        client = self.client(corp_id)
        assert client is not None  # noqa: S101 - it has just answered
        try:
            return dict(client.admins(live=live))
        except (Gone, Hidden) as error:  # of the list, which says nothing of its people
            return Transient(error.code, error.message, error.call)
        except ApiError as error:
            return error

    def _try(self, entity: Entity, live: bool) -> Answer | ApiError:
        try:
            return self._ask(entity, live)
        except Hidden:
            return Absence.HIDDEN
        except Gone as error:
            if error.code == ORG_DISSOLVED:
                return Absence.DISSOLVED
            if error.code in GONE_CODES[entity.kind]:
                return Absence.GONE
            return Transient(error.code, error.message, error.call)
        except ApiError as error:
            return error

    def _ask(self, entity: Entity, live: bool) -> Answer:
        client = self.client(entity.corp_id)
        if client is None:
            return Absence.UNREAD
        if entity.kind == "user":
            return client.user(entity.id, live=live)
        if entity.kind == "department":
            return client.department(int(entity.id), live=live)
        return client.role_groups(live=live)


def _with_level(user: User, levels: Mapping[str, int] | ApiError) -> User | ApiError:
    if isinstance(levels, ApiError):
        return levels
    user.admin_level = levels.get(user.userid)
    return user
