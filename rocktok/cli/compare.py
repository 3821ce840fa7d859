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
    help="Maximum number of rocks per list. Default: all if they are tested, else 100.",
)
@click.option(
    "--by",
    type=click.Choice(["domain"]),
    help="Field of sequences/ whose values are compared within one LOG.",
)
@options.rows_options
@job_options(log=False)
def compare_command(
    job: Job, sources: tuple[str, ...], top_k: int | None, by: str | None, seed: int
) -> None:
    """Measure how far logs agree on their rocks: overlap and rank correlation of each pair.

    A, B, C are logs or JSON files of `rocktok detect`. Logs are searched with the default options
    of `detect`; files count with all their rocks by default. Token types are matched by id if the
    vocabularies are equal, otherwise by text.
    """
    from rocktok.analyses.compare.passes import compare

    def analyse(engine: Engine) -> CompareResult:
        # A JSON file of `detect` is no log, and is passed on by its name.
        logs = [job.open(s) if by or not _is_file(s) else s for s in sources]
        return compare(*logs, top_k=top_k, by=by, seed=seed, engine=engine)

    job.perform(analyse)


def _is_file(source: str) -> bool:
    """Whether the source is a JSON file of `rocktok detect`, not a log."""
    return source.endswith(".json") and not local_path(source).is_dir()
