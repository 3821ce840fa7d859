"""`rocktok detect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rocktok.cli.job import Job, job_options
from rocktok.cli.rocks import rock_options

if TYPE_CHECKING:
    from rocktok.analyses.detect.result import DetectResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("detect")
@rock_options
@click.option("--all", "all_types", is_flag=True, help="Every type seen, not only the rocks.")
@click.option("--lifts", is_flag=True, help="Whether the loss singles the contexts out; slower.")
@job_options()
def detect_command(job: Job, **parameters: Any) -> None:
    """Find the tokens of LOG whose loss persists in recurring contexts.

    Ranks token types by context Rock Score: the loss a type carries, times the share of its
    occurrences that are hard at both steps in contexts that recur in other prompts.
    """
    from rocktok.analyses.detect.passes import detect

    def analyse(log: Log, engine: Engine) -> DetectResult:
        return detect(log, engine=engine, **parameters)

    job.run(analyse)
