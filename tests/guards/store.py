from tests.guards.guard import Guard

STORE: tuple[Guard, ...] = ()
