"""`rocktok stagnation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyse.stagnation import StagnationResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("stagnation")
@options.rocks_option("the largest Rock Scores at the first step")
@options.controls_options
@options.table_option
@click.option("--first", type=int, metavar="STEP", help="Default: first complete one.")
@click.option("--last", type=int, metavar="STEP", help="Default: last complete one.")
@click.option(
    "--select-at",
    type=click.Choice(["first", "last"]),
    default="first",
    show_default=True,
    help="Step at which groups are chosen. `last` is descriptive: conditioned on the outcome.",
)
@options.top_k_option
@click.option(
    "--group-size", type=int, metavar="N", help="Types of high_kl and random. Default: as rocks."
)
@click.option("--top", type=int, default=100, show_default=True, help="Types by loss to show.")
@click.option("--all", "all_types", is_flag=True, help="Every type seen.")
@options.replicates_option()
@job_options()
def stagnation_command(
    job: Job, rocks: Path | None, controls: Path | None, control_kind: str, **parameters: Any
) -> None:
    """Say whether the hard tokens of LOG learn less than tokens like them.

    Rocks and their controls are chosen at the first step on one half of the prompts, and their
    losses followed on the other, with intervals from a bootstrap over prompts.
    """
    from rocktok.engine.stagnation import stagnation

    given, pairs = options.given_rocks(rocks, controls, control_kind)

    def analyse(log: Log, engine: Engine) -> StagnationResult:
        return stagnation(log, rocks=given, pairs=pairs, engine=engine, **parameters)

    job.run("stagnation", analyse)
