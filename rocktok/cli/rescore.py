"""`rocktok rescore`."""

from __future__ import annotations

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.errors import RocktokError


def _columns(_: click.Context, __: click.Parameter, text: str) -> str | tuple[str, ...]:
    """A preset's name, or names of columns."""
    from rocktok.hooks.arguments import COLUMN_PRESETS

    return text if text in COLUMN_PRESETS else tuple(name.strip() for name in text.split(","))


@click.command(
    "rescore",
    cls=Command,
    common=("text", "students", "teacher", "steps", "columns", "sequences", "output", "device"),
    examples=(
        (
            "rocktok rescore --text runs/opd --student out/checkpoint-100 \\\n"
            "      --student out/checkpoint-500 --teacher teacher/ -o runs/opd-fixed",
            "Losses of the run's text under two checkpoints.",
        ),
    ),
)
@click.option(
    "--text",
    required=True,
    metavar="LOG",
    help="Text to score: a log, or a Parquet file of sequences.",
)
@click.option(
    "--student",
    "students",
    required=True,
    multiple=True,
    metavar="CKPT",
    help="Student checkpoint; give the option once for each step.",
)
@click.option("--teacher", required=True, metavar="MODEL", help="Teacher model, a directory.")
@click.option(
    "-o",
    "--output",
    required=True,
    callback=options.output_directory,
    metavar="LOG",
    help="Log to write.",
)
@click.option(
    "--steps",
    callback=options.numbers,
    metavar="N,N,…",
    help="Optimizer step of each checkpoint. Default: from names such as checkpoint-500.",
)
@click.option(
    "--sequences", type=int, metavar="N", help="Number of sequences to score. Default: all."
)
@click.option("--device", help="Device to run on. Default: cuda where there is one, else cpu.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Precision of the model weights.",
)
@click.option(
    "--batch-tokens",
    type=int,
    default=16_384,
    show_default=True,
    help="Maximum padded tokens in a batch.",
)
@click.option(
    "--shard-rows",
    type=int,
    default=1 << 20,
    show_default=True,
    help="Positions in a shard; finished shards are kept when a run is stopped.",
)
@click.option(
    "--columns",
    callback=_columns,
    default="default",
    show_default=True,
    metavar="PRESET",
    help="Statistics beside the loss: default, lenses, all, or names with commas between them.",
)
@click.option(
    "--alternatives",
    type=int,
    default=5,
    show_default=True,
    metavar="K",
    help="Number of each model's likeliest tokens to record at each position; 0 for none.",
)
@click.option(
    "--contexts/--no-contexts",
    default=True,
    show_default=True,
    help="Record sketches of the teacher's hidden states, for --similarity hidden.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
def rescore_command(
    text: str,
    students: tuple[str, ...],
    teacher: str,
    output: str,
    steps: tuple[int, ...] | None,
    sequences: int | None,
    device: str | None,
    dtype: str,
    batch_tokens: int,
    shard_rows: int,
    columns: str | tuple[str, ...],
    alternatives: int,
    contexts: bool,
    quiet: bool,
) -> None:
    """Score the same text with saved checkpoints, into a log that `detect` reads with context.

    Started again with the same options, it goes on: no finished shard is scored again.
    """
    from rocktok.cli.progress import progress_bar

    try:
        import transformers  # noqa: F401 - loaded late by what follows, missed here

        from rocktok.replay.rescore import rescore
    except ImportError as error:
        raise RocktokError("rescore needs torch and transformers; install rocktok[hf]") from error
    with progress_bar(quiet=quiet) as tell:
        done = rescore(
            text,
            students,
            teacher,
            output,
            steps=steps,
            sequences=sequences,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            shard_rows=shard_rows,
            columns=columns,
            alternatives=alternatives,
            contexts=contexts,
            progress=tell,
        )
    options.notes(done.notes, quiet=quiet)
    kept = f"; {done.kept_rows:,} positions stood already" if done.kept_rows else ""
    scored = ", ".join(map(str, done.steps)) or "none"
    options.say(
        [
            f"Steps {scored} scored: {done.sequences:,} sequences, {done.rows:,} positions "
            f"each{kept}.",
            "Exact losses, of the whole vocabulary in float32, of the same text at each step.",
            output,
        ]
    )
