"""`rocktok info`."""

from __future__ import annotations

from pathlib import Path

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import rendered, view_of


@click.command(
    "info",
    cls=Command,
    examples=(
        ("rocktok info runs/opd", "Steps, sequences, columns, gaps."),
        ("rocktok info runs/opd --verify", "The same, after a check of every row."),
    ),
)
@options.log_argument
@click.option("--verify", is_flag=True, help="Read and check every row.")
@options.output_options("table", "json")
@options.allow_missing_option
@options.engine_options
def info_command(
    log: str,
    verify: bool,
    format_: str | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    allow_missing: bool,
    jobs: int | None,
    dask: str | None,
) -> None:
    """Show the contents of LOG: steps, columns, gaps, damage, and how many types can be tested.

    Exit code 1 if anything is damaged. Without --verify only manifests and footers are checked.
    """
    from rocktok.analyses.info.passes import info
    from rocktok.errors import DamagedError

    chosen = options.chosen_format(format_, output)
    options.check_output(output, force=force)
    opened = options.open_named(log, allow_missing=allow_missing)
    with options.engine(jobs, dask, quiet=quiet) as engine:
        result = info(opened, verify=verify, engine=engine)
    options.deliver(rendered(result, chosen, view_of(output)), output, force=force)
    options.notes(result.notes, quiet=quiet)
    if result.damage:
        more = len(result.damage) - 1
        raise DamagedError(result.damage[0] + (f" (and {more} more problems)" if more else ""))
