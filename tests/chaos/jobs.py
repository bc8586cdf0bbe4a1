"""The user's job of a chaos run: it notes each event it is called for. And the event that kills its worker."""

import os
import signal
from collections.abc import Sequence
from typing import Any

from tests.chaos.client import TYPES
from workers import on
from workers.fold import Folder, Outcome, Waiting
from workers.store.reads import Taken

#: The userid of the event that kills every worker that applies it.
POISON = "poison"
#: The variable that names the file with one line for each call.
RAN_VARIABLE = "CHAOS_RAN"

_apply = Folder.apply


@on(*TYPES)
def note(event: Any, directory: Any) -> None:
    """One line, in one write, so that several workers may share the file."""
    file = os.open(os.environ[RAN_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{event.id}\n".encode())
    os.close(file)


def _apply_unless_poison(folder: Folder, waiting: Sequence[Waiting], taken: Sequence[Taken]) -> Outcome:
    if any(POISON in item.event.user_ids for item in waiting):
        os.kill(os.getpid(), signal.SIGKILL)
    return _apply(folder, waiting, taken)


Folder.apply = _apply_unless_poison  # type: ignore[assignment]
