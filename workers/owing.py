"""Notes changes, and the jobs that users' functions are owed for them, in the transaction of the rows."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from workers.registry import Registry
from workers.store import ledger
from workers.store.draft import Change
from workers.store.ledger import Owed


def owe_changes(tx: Connection, registry: Registry, changes: Sequence[Change], at: datetime) -> set[str]:
    """Log these changes and note what is owed for them; the lanes of the outbox in which jobs now wait."""
    seqs = ledger.log_changes(tx, changes, at)
    owed = [
        Owed(job.name, job.queue, _lane(change), change.event_id, seq)
        for change, seq in zip(changes, seqs, strict=True)
        if not change.quiet
        for job in registry.for_change(change.entity)
    ]
    ledger.owe(tx, owed)
    return {job.lane for job in owed}


def _lane(change: Change) -> str:
    return f"{change.corp_id} {change.entity} {change.entity_id}"
