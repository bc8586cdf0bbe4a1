from tests.guards.guard import Guard

WORKERS: tuple[Guard, ...] = ()
