"""`rocktok import`."""

from __future__ import annotations

from typing import Any

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.errors import UsageError
from rocktok.importers import kinds
from rocktok.schema import EXACTNESS


class _Import(Command):
    """Its help lists the kinds of files."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds"):
            formatter.write_dl([(kind.name, kind.help) for kind in kinds().values()])
        super().format_epilog(ctx, formatter)


def _map(_: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Callback of --map: name in the format → name in the files."""
    columns: dict[str, str] = {}
    for pair in (part for text in pairs for part in text.split(",")):
        name, equals, own = pair.partition("=")
        if not equals or not name.strip() or not own.strip():
            raise click.BadParameter(f"{pair!r} is not a pair such as loss=kl")
        if name.strip() in columns:
            raise click.BadParameter(f"{name.strip()!r} is given twice")
        columns[name.strip()] = own.strip()
    return columns


@click.command(
    "import",
    cls=_Import,
    common=("columns", "exactness", "teacher_files", "steps", "tokenizer", "append_eos", "output"),
    examples=(
        ("rocktok import slime dumps/rollout_data -o runs/slime", "A log of slime's dumps."),
        (
            "rocktok import table losses.csv --map loss=kl,token_id=tok \\\n"
            "      --exactness exact -o runs/mine",
            "A log of a table with one row per token.",
        ),
        (
            "rocktok import trl out/completions --tokenizer student/ --append-eos -o texts.parquet",
            "Sequences for `rocktok rescore --text`, where the files hold text alone.",
        ),
    ),
)
@click.argument("kind", metavar="KIND", type=click.Choice(list(kinds())))
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    callback=options.output_directory,
    metavar="LOG",
    help="Output log; a Parquet file of sequences where the files hold no losses.",
)
@click.option(
    "--map",
    "columns",
    multiple=True,
    callback=_map,
    metavar="NAME=COLUMN",
    help="Column of the table for a name of the format, such as loss=kl; may be repeated.",
)
@click.option(
    "--exactness",
    type=click.Choice(EXACTNESS),
    help="How the losses of the files were computed, where these do not say.",
)
@click.option(
    "--table",
    type=click.Choice(["rollout", "fixed"]),
    help="Table to write: fixed where the same texts come at several steps. Default: rollout.",
)
@click.option(
    "--teacher-file",
    "teacher_files",
    multiple=True,
    metavar="FILE",
    help="Teacher's responses over the same token ids; give the option once per PATH.",
)
@click.option(
    "--steps",
    callback=options.numbers,
    metavar="N,N,…",
    help="Optimizer step of each file. Default: the last number in its name.",
)
@click.option(
    "--tokenizer", metavar="DIR", help="Hugging Face tokenizer of the files, for texts of tokens."
)
@click.option(
    "--append-eos/--no-append-eos",
    default=None,
    help="Append the end token to completions whose files have lost it.",
)
@click.option(
    "--max-completion-length",
    type=int,
    metavar="N",
    help="Tokens at which completions were cut; these get no end token.",
)
@click.option(
    "--min-teacher-logprob",
    type=float,
    metavar="NATS",
    help="Assumed smallest log-probability of any token under the teacher, for an upper bound.",
)
@click.option("--student", metavar="NAME", help="Name of the student, for run.json.")
@click.option("--teacher", metavar="NAME", help="Name of the teacher, for run.json.")
@click.option("--vocab-size", type=int, metavar="N", help="Width of the logits.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
def import_log_command(
    kind: str, paths: tuple[str, ...], output: str, quiet: bool, **given: Any
) -> None:
    """Make a log of files that another trainer or an inference server has written.

    An interrupted import is continued by the same command. Files without losses become a Parquet
    file of sequences, which `rocktok rescore --text` scores.
    """
    from rocktok.cli.progress import progress_bar
    from rocktok.importers.run import import_log
    from rocktok.tables.text import counted

    given["columns"] = given["columns"] or None
    given["teacher_files"] = given["teacher_files"] or None
    try:
        with progress_bar(quiet=quiet) as tell:
            done = import_log(kind, paths, output, progress=tell, **given)
    except UsageError as error:
        if error.parameter == "columns":
            raise UsageError(
                f"columns_map{str(error).removeprefix('columns')}", "columns_map"
            ) from error
        raise
    options.notes(done.notes, quiet=quiet)
    steps = f"step {done.steps[0]}" if len(done.steps) == 1 else (
        f"{counted(len(done.steps), 'step')} ({done.steps[0]} to {done.steps[-1]})"
    )  # fmt: skip
    kept = f"; {counted(done.kept_rows, 'position')} were imported before" if done.kept_rows else ""
    options.say(
        [
            f"{counted(done.sequences, 'sequence')}, {counted(done.rows, 'position')} at {steps} "
            f"imported from {counted(done.files, 'file')} of {done.kind}{kept}.",
            done.summary,
            done.output,
        ]
    )
