"""`rocktok summary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.errors import LogError

if TYPE_CHECKING:
    from rocktok.analyses.summary.result import RunRow, SummaryResult
    from rocktok.engine.passes import Engine


@click.command(
    "summary",
    cls=Command,
    examples=(
        ("rocktok summary runs/*", "One row per run."),
        ("rocktok summary runs/* --format csv -o runs.csv", "The same as CSV, for a spreadsheet."),
    ),
)
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "--fdr",
    type=float,
    default=0.05,
    show_default=True,
    metavar="Q",
    help="False discovery rate of tested rocks.",
)
@options.rows_options
@job_options(log=False)
def summary_command(job: Job, logs: tuple[str, ...], fdr: float, seed: int) -> None:
    """Summarise several runs, one row per run: losses, rocks, replication, health.

    Exit code 1 if a run could not be read; the other runs are still shown.
    """
    from rocktok.analyses.summary.passes import summary

    failed: list[RunRow] = []

    def analyse(engine: Engine) -> SummaryResult:
        result = summary(*logs, fdr=fdr, seed=seed, allow_missing=job.allow_missing, engine=engine)
        failed.extend(result.failed)
        return result

    job.perform(analyse)
    if failed:
        runs = f"{len(failed)} of {len(logs)} runs could not be read"
        raise LogError(f"{runs}: {failed[0]['error']}")
