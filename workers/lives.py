"""Whether Redis is still the one it was: another may have lost events, so everything is compared once (rule 4)."""

import sqlalchemy as sa
import structlog

from workers.moment import SECOND, Moment
from workers.store import comparisons
from workers.store.comparisons import at
from workers.store.engine import Store
from workers.store.statements import insert_ignoring
from workers.store.tables import lives

log = structlog.get_logger()


class Lives:
    """One process' look at the life of Redis; asks the datastore only when it changes."""

    def __init__(self, store: Store, settle_seconds: float) -> None:
        self._store = store
        self._settle = round(settle_seconds * SECOND)
        self._known: str | None = None

    def see(self, moment: Moment) -> None:
        """Remember this life; where another was remembered, a comparison of every corp is due."""
        if moment.life == self._known:
            return
        with self._store.writing() as connection:
            first = {"id": 1, "run_id": moment.life, "seen_at": at(moment.micros)}
            insert_ignoring(connection, lives, [first])
            # Of several that see it, the one whose row count is 1 makes the comparisons due.
            another = sa.update(lives).where(lives.c.id == 1, lives.c.run_id != moment.life).values(first)
            if connection.execute(another).rowcount:
                due = comparisons.all_due(connection, moment.micros, moment.micros + self._settle)
                log.warning("Redis is another than before, so events may be lost: comparing everything", corps=due)
        self._known = moment.life
