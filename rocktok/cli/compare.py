"""`rocktok compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option
from rocktok.files import local_path

if TYPE_CHECKING:
    from rocktok.analyses.compare.result import CompareResult
    from rocktok.engine.passes import Engine


@click.command(
    "compare",
    cls=Command,
    common=("by", "top_k", "at", "rows", "everything", "format_", "output", "force", "quiet",
            "jobs"),
    examples=(
        ("rocktok compare runs/a runs/b", "Agreement of two runs on their rocks."),
        ("rocktok compare runs/a --by domain", "Agreement of the domains of one run."),
        ("rocktok compare math.csv code.csv", "Published lists, at K = 50, 100, 200."),
    ),
)  # fmt: skip
@options.attempt_option
@click.argument("sources", nargs=-1, required=True, metavar="A B [C...]")
@click.option(
    "--top-k",
    type=int,
    help="Maximum number of rocks per list. Default: all if they are tested, else 100.",
)
@click.option(
    "--at",
    callback=options.numbers,
    metavar="K,...",
    help="Numbers K, with commas between them: agreement of the first K of each list. Default: "
    "50,100,200 if a source is a published list, else none.",
)
@click.option(
    "--types",
    type=int,
    metavar="N",
    help="Number of types that the lists are drawn from, for the agreement by chance. Default: "
    "what the sources say; published lists say nothing.",
)
@click.option(
    "--by",
    type=click.Choice(["domain"]),
    help="Field of sequences/ whose values are compared within one LOG.",
)
@options.rows_options
@limits_option("pairs.jaccard < 0.5")
@job_options(log=False)
def compare_command(
    job: Job,
    sources: tuple[str, ...],
    top_k: int | None,
    at: tuple[int, ...] | None,
    types: int | None,
    by: str | None,
    seed: int,
) -> None:
    """Measure how far logs agree on their rocks: overlap and rank correlation of each pair.

    A, B, C are logs, JSON files of `rocktok detect`, or published lists, the best first: CSV files
    with a column rock_id, JSON lists of token ids. Logs are searched with the default options of
    `detect`. Token types are matched by id if the vocabularies are equal, otherwise by text.
    """
    from rocktok.analyses.compare.passes import compare

    def analyse(engine: Engine) -> CompareResult:
        # A file with a list is no log, and is passed on by its name.
        logs = [job.open(s) if by or not _is_file(s) else s for s in sources]
        return compare(*logs, top_k=top_k, at=at, types=types, by=by, seed=seed, engine=engine)

    job.perform(analyse)


def _is_file(source: str) -> bool:
    """Whether the source is a file with a list of rocks, not a log."""
    return source.endswith((".json", ".csv")) and not local_path(source).is_dir()
