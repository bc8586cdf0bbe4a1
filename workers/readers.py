"""An entity's present state at DingTalk: which app reads it, by which call, and what the answer means."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bridge.config import AppConfig, Config
from bridge.events import Entity, EntityKind
from workers.dingtalk import DingTalk
from workers.errors import ApiError, Gone, Hidden, Transient
from workers.shapes import CorpName, Department, RoleGroup, SomeRoles, User
from workers.store.draft import Absence

#: The last two come of pushed rows alone.
Answer = User | Department | Sequence[RoleGroup] | Absence | SomeRoles | CorpName
#: Which suites each of these corps has let in, by their keys.
LettingIn = Callable[[Collection[str]], Mapping[str, Collection[str]]]

#: The codes that say an entity of this kind is gone; another kind's code says nothing of it (api.md §7).
GONE_CODES: Mapping[EntityKind, frozenset[str]] = {
    "user": frozenset({"60121", "33012"}),
    "department": frozenset({"60003"}),
    "roles": frozenset(),
}
#: Whom to ask for an entity, and whether somebody waits for it.
Asked = tuple[DingTalk | None, Entity, bool]
#: DingTalk's code for a corp that was dissolved; it comes in answer to any call.
ORG_DISSOLVED = "70001"


class Readers:
    """Reads entities, many at a time, each through the first app that has credentials for its corp."""

    def __init__(
        self, config: Config, connect: Callable[[AppConfig, str], DingTalk], threads: int, letting_in: LettingIn
    ) -> None:
        """`connect` gives the client of an app for a corp; `letting_in` is asked where there are suites."""
        self._config = config
        self._connect = connect
        self._letting_in = letting_in
        self._clients: dict[tuple[str, str], DingTalk] = {}
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def clients(self, corp_ids: Collection[str]) -> dict[str, DingTalk]:
        """The client for each of these corps that an app with credentials can read, as things stand now."""
        let_in = self._letting_in(corp_ids) if self._config.suites and corp_ids else {}
        found: dict[str, DingTalk] = {}
        for corp_id in corp_ids:
            if (app := self._config.reader(corp_id, let_in.get(corp_id, ()))) is not None:
                found[corp_id] = self._client(app, corp_id)
        return found

    def client(self, corp_id: str) -> DingTalk | None:
        """The client for this corp; None where no app has the credentials."""
        return self.clients([corp_id]).get(corp_id)

    def _client(self, app: AppConfig, corp_id: str) -> DingTalk:
        # An internal app has one token, whichever corp it is for.
        key = (app.name, corp_id if app.kind == "suite" else "")
        if (known := self._clients.get(key)) is None:
            known = self._clients.setdefault(key, self._connect(app, corp_id))
        return known

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, Answer], dict[Entity, ApiError]]:
        """The answers, and what stood against the others. The value of each tells whether somebody waits for it."""
        clients = self.clients({entity.corp_id for entity in wanted})
        asked = [(clients.get(entity.corp_id), entity, live) for entity, live in wanted.items()]
        results = [self._try(*item) for item in asked] if len(asked) == 1 else self._read_many(asked)
        results = self._with_levels(wanted, results, clients)
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

    def _read_many(self, asked: Sequence[Asked]) -> list[Answer | ApiError]:
        turns = iter(enumerate(asked))
        results: dict[int, Answer | ApiError] = {}

        # One future for each thread, which takes entities as it comes to them.
        def work(_thread: int) -> None:
            try:
                for number, item in turns:
                    results[number] = self._try(*item)
            except BaseException:
                deque(turns, maxlen=0)  # nobody waits for the rest
                raise

        list(self._pool.map(work, range(min(self._threads, len(asked)))))
        return [results[number] for number in range(len(asked))]

    def _with_levels(
        self, wanted: Mapping[Entity, bool], results: list[Answer | ApiError], clients: Mapping[str, DingTalk]
    ) -> list[Answer | ApiError]:
        """Who is an admin is told of which level: by one more call for each corp, where there is one at all."""
        live: dict[str, bool] = {}
        for (entity, waited_for), result in zip(wanted.items(), results, strict=True):
            if isinstance(result, User) and result.admin is True:
                live[entity.corp_id] = waited_for or live.get(entity.corp_id, False)
        levels = {corp_id: self._levels(clients[corp_id], waited_for) for corp_id, waited_for in live.items()}
        return [
            _with_level(result, levels[entity.corp_id]) if isinstance(result, User) and result.admin is True else result
            for entity, result in zip(wanted, results, strict=True)
        ]

    def _levels(self, client: DingTalk, live: bool) -> Mapping[str, int] | ApiError:
        try:
            return dict(client.admins(live=live))
        except (Gone, Hidden) as error:  # of the list, which says nothing of its people
            return Transient(error.code, error.message, error.call)
        except ApiError as error:
            return error

    def _try(self, client: DingTalk | None, entity: Entity, live: bool) -> Answer | ApiError:
        try:
            return Absence.UNREAD if client is None else _ask(client, entity, live)
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


def _ask(client: DingTalk, entity: Entity, live: bool) -> Answer:
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
