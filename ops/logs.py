"""How every process of ours writes what happens: one line each, to standard error."""

import contextlib
import logging
import os
import sys

import structlog

#: Set by `dingbridge run`, which puts time and process before each line itself.
SUPERVISED_VARIABLE = "DINGBRIDGE_SUPERVISED"


class Lines(structlog.PrintLogger):
    """A line that nobody takes, as a full disk or a closed pipe, is lost; what it tells of goes on."""

    def msg(self, message: str) -> None:
        """Print it where it can be."""
        with contextlib.suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warning = error = critical = exception = msg


def configure(process: str) -> None:
    """One line of key=value for each thing that happened, with the process's name; colours only for people."""
    supervised = SUPERVISED_VARIABLE in os.environ
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([] if supervised else [structlog.processors.TimeStamper(fmt="iso", utc=True)]),
            structlog.processors.add_log_level,
            # Plain: the usual traceback shows local variables, and these are people's data.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                pad_level=False,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    if not supervised:
        structlog.contextvars.bind_contextvars(process=process)
