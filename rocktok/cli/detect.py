"""`rocktok detect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from rocktok.cli.job import Job, job_options
from rocktok.cli.rocks import rock_options

if TYPE_CHECKING:
    from rocktok.analyses.detect.result import DetectResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("detect")
@rock_options
@click.option("--all", "all_types", is_flag=True, help="Show every token type, not only the rocks.")
@click.option(
    "--replication/--no-replication",
    default=None,
    help="Measure how many rocks of one half of the prompts are hard in the other. Default: in "
    "logs of up to 10 million positions.",
)
@click.option("--lifts", is_flag=True, help="Test whether the loss singles contexts out; slower.")
@job_options()
def detect_command(job: Job, replication: bool | None, **parameters: Any) -> None:
    """Find the tokens of LOG whose loss persists in recurring contexts, beyond chance.

    A rock is hard at both steps in more of its prompts than these and its places let expect, and
    in contexts that recur in other prompts; both are tested, at one false discovery rate.
    """
    from rocktok.analyses.detect.passes import detect

    def analyse(log: Log, engine: Engine) -> DetectResult:
        wanted: bool | Literal["auto"] = "auto" if replication is None else replication
        return detect(log, engine=engine, replication=wanted, **parameters)

    job.run(analyse)
