"""The command line: each verb is a door to what does the work."""

import os

import click

from ops import demo
from ops.verbs import processes, records, repairs, trials
from ops.verbs.base import guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dingbridge")
@click.option("--demo", "of_demo", is_flag=True, help="Speak to what `dingbridge run --demo` runs in this folder.")
@guarded
def main(of_demo: bool) -> None:
    """Keep a local copy of a company's DingTalk organisation true, and hand every change to your jobs."""
    if of_demo:
        os.environ.update(demo.environment(os.environ))


for verb in (
    processes.run,
    processes.serve_command,
    processes.work,
    processes.jobs_command,
    processes.clock,
    processes.console,
    processes.simulate,
    trials.change,
    trials.send,
    repairs.sync,
    repairs.recover,
    repairs.drift,
    repairs.heal,
    records.migrate_command,
    records.drain,
    records.status,
    records.replay_command,
    records.forget_command,
):
    main.add_command(verb)
