"""`rocktok compact`."""

from __future__ import annotations

import click

from rocktok.cli import options
from rocktok.cli.help import Command


@click.command(
    "compact",
    cls=Command,
    examples=(("rocktok compact runs/opd -o runs/opd-one", "A copy of the log in few shards."),),
)
@options.log_argument
@click.option(
    "-o",
    "--output",
    required=True,
    callback=options.output_directory,
    metavar="OUT",
    help="Output directory, outside the log.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
@options.allow_missing_option
def compact_command(log: str, output: str, quiet: bool, allow_missing: bool) -> None:
    """Copy the rows of LOG to OUT in few, sorted shards.

    Rows keep their content. Rows superseded by a later attempt are left out.
    """
    from rocktok import schema
    from rocktok.cli.progress import progress_bar
    from rocktok.log.compact import compact
    from rocktok.tables.text import counted

    opened = options.open_named(log, allow_missing=allow_missing)
    with progress_bar(quiet=quiet) as tell:
        written = compact(opened, output, progress=tell)
    before = sum(len(opened.shards(table)) for table in opened.tables())
    rows = sum(step.rows for table in schema.OCCURRENCE_TABLES for step in opened.steps(table))
    whole = "Every current row was read, checked and written"
    left_out = len(opened.skipped)
    if left_out:
        whole += f", except those of {counted(left_out, 'damaged or missing shard')}"
    became = f"{counted(before, 'shard')} became {written:,}, with the same {rows:,} positions."
    if written >= before:
        became = f"{log} was already compact: its {became}"
    options.say(
        [
            became,
            f"{whole}; rows superseded by a later attempt were left out.",
            output,
        ]
    )
