"""`rocktok lenses`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option

if TYPE_CHECKING:
    from rocktok.analyses.lenses.result import LensesResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command(
    "lenses",
    cls=Command,
    common=("rocks", "pre", "post", "rows", "everything", "wide", "format_", "output", "jobs"),
    examples=(
        ("rocktok lenses runs/opd", "Share of rock occurrences in the classes of each lens."),
        ("rocktok lenses runs/opd --format json -o lenses.json", "The same with every class."),
    ),
)
@options.rocks_option()
@options.table_option
@options.pre_and_post_options
@options.rows_options
@click.option("--wide", is_flag=True, help="Show all columns of the terminal tables.")
@options.replicates_option()
@limits_option("lenses[name=tip].rocks_share > 0.8")
@job_options()
def lenses_command(
    job: Job,
    rocks: Path | None,
    table: str,
    pre: int | None,
    post: int | None,
    replicates: int,
    seed: int,
) -> None:
    """Test whether the rocks of LOG are the tokens that other papers call important.

    A lens ranks positions and sorts them into classes, by entropy, divergence, position or the
    tokens that follow. Reports the share of positions, loss, gradient and rock occurrences in each
    class, and how often a position stays in its class. The rock occurrences in the top 10% of each
    lens are compared with chance, with other hard positions, with other occurrences of the same
    types, and with shuffled losses.
    """
    from rocktok.analyses.lenses.passes import lenses
    from rocktok.inputs import load_rocks

    def analyse(log: Log, engine: Engine) -> LensesResult:
        token_ids = load_rocks(rocks, log.vocab.identity) if rocks is not None else None
        return lenses(
            log,
            rocks=token_ids,
            table=table,
            pre=pre,
            post=post,
            replicates=replicates,
            seed=seed,
            engine=engine,
        )

    job.run(analyse)
