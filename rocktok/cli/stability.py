"""`rocktok stability`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option

if TYPE_CHECKING:
    from rocktok.analyses.stability.result import StabilityResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command(
    "stability",
    cls=Command,
    common=("step", "sizes", "repeats", "top", "all_types", "format_", "output", "jobs"),
    examples=(
        ("rocktok stability runs/opd", "How often half of the prompts name each rock again."),
        (
            "rocktok stability runs/opd --repeats 1000 -o stability.json",
            "The same with more half-samples.",
        ),
    ),
)
@options.table_option
@options.step_option("Step to analyse. Default: the last complete step.")
@click.option(
    "--sizes",
    callback=options.numbers,
    metavar="N,N,…",
    help="Numbers of prompts in nested subsamples. Default: 10, 20, 40, 60 and 80% of all prompts.",
)
@click.option(
    "--repeats",
    type=int,
    default=40,
    show_default=True,
    help="Number of random splits into halves, and of samples of each size.",
)
@click.option(
    "--k",
    callback=options.numbers,
    default="5,10,20,50,100,200,500",
    show_default=True,
    metavar="K,K,…",
    help="Cutoffs K of the ranking by Rock Score.",
)
@click.option(
    "--with",
    "other",
    metavar="LOG2",
    help="Second log, for scores that are the smaller of two. Default: halves of the prompts.",
)
@click.option(
    "--context",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="`off` skips `detect`: no tested rocks, and no rankings by context.",
)
@options.top_options
@options.replicates_option(
    200, "Number of bootstrap replicates over prompts, and of half-samples of the prompts."
)
@limits_option("rocks.replication.share < 0.8")
@job_options()
def stability_command(
    job: Job,
    other: str | None,
    table: str,
    step: int | None,
    sizes: tuple[int, ...] | None,
    repeats: int,
    k: tuple[int, ...],
    context: str,
    top: int | None,
    all_types: bool,
    replicates: int,
    seed: int,
) -> None:
    """Measure the stability of the rocks of LOG: how often half of its prompts name the same ones.

    Share of half-samples of the prompts that name each rock again, and replication in the other
    half. For lists ranked by Rock Score: overlap between samples of prompts, share of the loss, and
    a comparison of twelve scores.
    """
    from rocktok.analyses.stability.passes import stability

    def analyse(log: Log, engine: Engine) -> StabilityResult:
        second = None if other is None else job.open(other)
        return stability(
            log,
            other=second,
            table=table,
            step=step,
            sizes=sizes,
            repeats=repeats,
            k=k,
            context=context,
            top=top,
            all_types=all_types,
            replicates=replicates,
            seed=seed,
            engine=engine,
        )

    job.run(analyse)
