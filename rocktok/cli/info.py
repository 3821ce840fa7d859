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
        ("rocktok info runs/opd --verify", "The same after reading every row."),
    ),
)
@options.log_argument
@click.option("--verify", is_flag=True, help="Read every row and check every rule.")
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
    """Say what is in LOG: steps, sequences, shards, columns, gaps, damage.

    Exit code 1 if anything is damaged; without --verify as far as manifests and footers show it.
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
