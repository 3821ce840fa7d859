"""`rocktok stability`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyses.stability.result import StabilityResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("stability")
@options.table_option
@options.step_option("Default: last complete one.")
@click.option(
    "--sizes",
    callback=options.numbers,
    metavar="N,N,…",
    help="Prompts in nested subsamples. Default: 10, 20, 40, 60 and 80% of them.",
)
@click.option(
    "--repeats", type=int, default=40, show_default=True, help="Halvings, and draws of each size."
)
@click.option(
    "--k",
    callback=options.numbers,
    default="5,10,20,50,100,200,500",
    show_default=True,
    metavar="K,K,…",
    help="Cutoffs.",
)
@click.option(
    "--with",
    "other",
    metavar="LOG2",
    help="Second log for the scores that take the smaller of two. Default: halves of the prompts.",
)
@click.option(
    "--context",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="off: without `detect`'s rankings.",
)
@options.top_option
@options.replicates_option(200)
@job_options()
def stability_command(job: Job, other: str | None, **parameters: Any) -> None:
    """Say whether another sample of LOG's prompts would pick the same tokens.

    Overlap between disjoint halves of the prompts and between nested subsamples, inclusion
    probabilities and rank intervals, the loss covered, and twelve scores compared.
    """
    from rocktok.analyses.stability.passes import stability

    def analyse(log: Log, engine: Engine) -> StabilityResult:
        second = None if other is None else job.open(other)
        return stability(log, other=second, engine=engine, **parameters)

    job.run("stability", analyse)
