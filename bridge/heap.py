"""Python's garbage collector in a process that runs for long."""

import gc

#: Objects that are made, above those let go of, until it looks through the new ones; Python's own 700 are a few events.
YOUNG = 20_000


def settle() -> None:
    """To call when all is loaded: the collector never looks through what is there now, and looks less often."""
    gc.freeze()
    gc.set_threshold(YOUNG)
