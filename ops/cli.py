"""The command line: each verb is a door to what does the work."""

import os
from importlib import import_module

import click

from ops import logs, supervisor
from ops.verbs.base import guarded

#: Where each verb stands. It is loaded when it is called: all of them together take a second.
VERBS = {
    "run": "ops.verbs.web:run",
    "serve": "ops.verbs.web:serve_command",
    "work": "ops.verbs.labour:work",
    "jobs": "ops.verbs.labour:jobs_command",
    "clock": "ops.verbs.labour:clock",
    "console": "ops.verbs.web:console",
    "simulate": "ops.verbs.web:simulate",
    "doctor": "ops.verbs.setup:doctor",
    "register": "ops.verbs.setup:register",
    "change": "ops.verbs.trials:change",
    "send": "ops.verbs.trials:send",
    "sync": "ops.verbs.repairs:sync",
    "recover": "ops.verbs.repairs:recover",
    "drift": "ops.verbs.repairs:drift",
    "heal": "ops.verbs.repairs:heal",
    "migrate": "ops.verbs.records:migrate_command",
    "drain": "ops.verbs.records:drain",
    "status": "ops.verbs.records:status",
    "replay": "ops.verbs.records:replay_command",
    "forget": "ops.verbs.records:forget_command",
}


class Verbs(click.Group):
    """Finds the verbs by their names."""

    @guarded
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        " ".join(args).encode()  # gunicorn, which some verbs import, would end with a traceback
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = VERBS.get(cmd_name, "").partition(":")
        verb: click.Command | None = getattr(import_module(module), name) if module else None
        return verb


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dingbridge")
@click.option("--demo", "of_demo", is_flag=True, help="Speak to what `dingbridge run --demo` runs in this folder.")
@click.pass_context
@guarded
def main(ctx: click.Context, of_demo: bool) -> None:
    """Keep a local copy of a company's DingTalk organisation true, and hand every change to your jobs."""
    logs.configure(ctx.invoked_subcommand or "")
    supervisor.end_with_supervisor()
    if of_demo:
        from ops import demo

        os.environ.update(demo.environment(os.environ))
