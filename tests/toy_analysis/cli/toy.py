"""`rocktok toy`."""

from __future__ import annotations

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options


@click.command("toy")
@options.table_option
@click.option("--top", type=int, default=5)
@job_options()
def toy_command(job: Job, table: str, top: int, seed: int) -> None:
    """Say which token types of LOG have the largest mean loss."""
    from rocktok.analyses.toy.passes import toy

    job.run(lambda log, engine: toy(log, table=table, top=top, seed=seed, engine=engine))
