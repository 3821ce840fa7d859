"""`rocktok occurrences`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.rocks import rock_options


@click.command(
    "occurrences",
    cls=Command,
    common=(
        "pre", "post", "window", "similarity", "list_partners", "rows", "everything", "output",
        "force", "quiet", "jobs",
    ),
    examples=(
        (
            "rocktok occurrences runs/opd -o occurrences.parquet",
            "Every persistent occurrence, and a table by token type.",
        ),
    ),
)  # fmt: skip
@rock_options
@click.option(
    "--list-partners",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Maximum number of similar partners listed per occurrence; all are counted.",
)
@click.option(
    "-o",
    "--output",
    callback=options.output_file,
    metavar="FILE",
    help="Parquet file with one row per persistent occurrence. Default: only the table by type.",
)
@options.rows_options
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
@options.engine_options
@options.seed_option
@options.allow_missing_option
@options.log_argument
def occurrences_command(
    log: str,
    output: Path | None,
    rows: int | None,
    everything: bool,
    force: bool,
    quiet: bool,
    jobs: int | None,
    dask: str | None,
    allow_missing: bool,
    **detecting: Any,
) -> None:
    """List the persistent occurrences of LOG: which are retained, and by which similar ones.

    The verdicts are those of `detect` with the same options. Bans in context and weights around
    retained occurrences read the output file.
    """
    from dataclasses import replace

    from rocktok.analyses.occurrences.passes import occurrences
    from rocktok.cli.job import rendered, view_of

    with options.engine(jobs, dask, quiet=quiet) as engine:
        opened = options.open_named(log, allow_missing=allow_missing)
        result = occurrences(opened, output, force=force, engine=engine, **detecting)
    view = replace(view_of(None), top=rows, everything=everything)
    options.deliver(rendered(result, "table", view), None, force=False)
    options.notes(result.notes, quiet=quiet)
