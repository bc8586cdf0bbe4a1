"""How a process of ours starts another one."""

import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """Python with a module of ours; a folder `workers` or `ops` where it is started never stands in for ours.

    Unless that folder is this code's own: where it is not installed, it is found in no other way.
    """
    aside = [] if Path.cwd() == Path(__file__).parents[1] else ["-P"]
    return [sys.executable, *aside, "-m", module, *arguments]
