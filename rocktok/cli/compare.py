"""`rocktok compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.files import local_path

if TYPE_CHECKING:
    from rocktok.analyses.compare.result import CompareResult
    from rocktok.engine.passes import Engine


@click.command(
    "compare",
    cls=Command,
    examples=(
        ("rocktok compare runs/a runs/b", "Agreement of two runs on their rocks."),
        ("rocktok compare runs/a --by domain", "Agreement of the domains of one run."),
    ),
)
@options.attempt_option
@click.argument("sources", nargs=-1, required=True, metavar="A B [C...]")
@click.option(
    "--top-k",
    type=int,
    help="Maximum number of rocks of each. Default: all tested ones, or the first 100 of others.",
)
@click.option("--by", type=click.Choice(["domain"]), help="Compare the domains of one LOG.")
@options.rows_options
@job_options(log=False)
def compare_command(
    job: Job, sources: tuple[str, ...], top_k: int | None, by: str | None, seed: int
) -> None:
    """Say whether logs agree on their rocks: overlap and rank correlation of every two.

    A, B, C are logs, which are searched with the defaults of `rocktok detect`, or its JSON files,
    of which all rocks count, or the first --top-k. Tokens are matched by id where the vocabularies
    are the same, by text otherwise.
    """
    from rocktok.analyses.compare.passes import compare

    def analyse(engine: Engine) -> CompareResult:
        # Logs are opened as the options say; a file of `detect` is none.
        logs = [job.open(s) if by or not _is_file(s) else s for s in sources]
        return compare(*logs, top_k=top_k, by=by, seed=seed, engine=engine)

    job.perform(analyse)


def _is_file(source: str) -> bool:
    """Whether it is what `rocktok detect` writes, not a log."""
    return source.endswith(".json") and not local_path(source).is_dir()
