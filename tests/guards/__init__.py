"""Every guard of the durable path, from the wire to the datastore."""

from tests.guards.bridge import BRIDGE
from tests.guards.claims import CLAIM_GUARDS
from tests.guards.guard import Guard
from tests.guards.store import STORE
from tests.guards.suites import SUITE_GUARDS
from tests.guards.workers import WORKERS

GUARDS: tuple[Guard, ...] = (*BRIDGE, *CLAIM_GUARDS, *WORKERS, *STORE, *SUITE_GUARDS)
