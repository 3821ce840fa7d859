"""`rocktok export`."""

from __future__ import annotations

from pathlib import Path

import click

from rocktok.cli import options
from rocktok.cli.help import Command


@click.command(
    "export",
    cls=Command,
    examples=(
        ("rocktok export runs/opd -o opd-data", "A folder for `datasets.load_dataset`."),
        (
            "rocktok export runs/opd -o csv --to csv --table fixed --columns loss --text",
            "One CSV file: step, sequence, position, token, loss.",
        ),
    ),
)
@options.log_argument
@click.option(
    "-o",
    "--output",
    required=True,
    callback=options.local_directory,
    metavar="DIR",
    help="Output directory; it appears whole or not at all.",
)
@click.option(
    "--to",
    type=click.Choice(["datasets", "csv", "jsonl", "arrow"]),
    default="datasets",
    show_default=True,
    help="Format. datasets: Parquet with a README.md that Hugging Face `datasets` and its Hub "
    "read; the others: one file per table.",
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    type=click.Choice(
        ["rollout", "fixed", "gradients", "alternatives", "contexts", "sequences", "vocab"]
    ),
    help="Table to export. May be given several times. Default: all that the log has.",
)
@click.option(
    "--columns",
    callback=lambda _, __, value: value and [name.strip() for name in value.split(",")],
    metavar="NAMES",
    help="Optional columns to export, with commas between them; what identifies a row comes with "
    "them. Default: all.",
)
@click.option(
    "--steps",
    callback=options.numbers,
    metavar="STEPS",
    help="Steps to export, with commas between them. Default: all. Tables sequences and vocab are "
    "exported whole.",
)
@click.option("--text", is_flag=True, help="Add a column with the text of each token id.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
@options.allow_missing_option
def export_command(
    log: str,
    output: Path,
    to: str,
    tables: tuple[str, ...],
    columns: list[str] | None,
    steps: tuple[int, ...] | None,
    text: bool,
    force: bool,
    quiet: bool,
    allow_missing: bool,
) -> None:
    """Write tables of LOG as files that other tools read.

    Rows are checked as they are read; rows superseded by a later attempt are left out. The same
    rows give the same bytes.
    """
    from rocktok.cli.progress import progress_bar
    from rocktok.exporting.run import export

    opened = options.open_named(log, allow_missing=allow_missing)
    with progress_bar(quiet=quiet) as tell:
        done = export(
            opened,
            output,
            to=to,
            tables=tables or None,
            columns=columns,
            steps=steps,
            text=text,
            force=force,
            progress=tell,
        )
    options.say([*done.answer(), str(output)])
    options.notes(done.notes, quiet=quiet)
