"""What every verb shares: faults as clear lines, exit codes, examples, and the corps that are meant."""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import click
import redis
from sqlalchemy.exc import DBAPIError

from bridge.errors import BridgeError, ConfigError, UnknownApp

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: Exit codes: wrong usage or configuration, and an operation that failed.
USAGE, FAILED = 2, 1

#: An option of most verbs.
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def example(text: str) -> str:
    """The help's last paragraph."""
    return f"Example: {text}"


def guarded(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Faults as one clear line each, and the exit code that fits."""

    @wraps(verb)
    def door(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return verb(*args, **kwargs)
        except ConfigError as error:
            for fault in error.faults:
                click.echo(fault, err=True)
            sys.exit(USAGE)
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":
                raise  # what cannot be shown here; the others were given by whoever calls
            click.echo("a value that was given is no text: it holds what UTF-8 cannot tell", err=True)
            sys.exit(USAGE)
        except UnknownApp as error:
            click.echo(f"{error} in config.yaml", err=True)
            sys.exit(USAGE)
        except BridgeError as error:
            click.echo(str(error), err=True)
        except redis.RedisError as error:
            # Behind the colon of a sentinel's error stands how its connections are made.
            line = str(error).partition("\n")[0].partition(" : ")[0]
            click.echo(f"Redis cannot be used: {line}; see redis.url in config.yaml", err=True)
        except DBAPIError as error:
            line = str(error.orig).partition("\n")[0]
            click.echo(f"the datastore cannot be used: {line}; see datastore.url in config.yaml", err=True)
        except BrokenPipeError:
            raise  # click ends quietly where nobody reads its output any more
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            click.echo(f"this host does not let us go on: {error.strerror or error}{where}", err=True)
        sys.exit(FAILED)

    return door


def complain(faults: Sequence[str]) -> None:
    """Say each of them on standard error, and fail where there is one."""
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(FAILED)
