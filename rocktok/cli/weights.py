"""`rocktok weights`."""

from __future__ import annotations

from pathlib import Path

import click

from rocktok.cli import options
from rocktok.cli.help import Command


@click.command(
    "weights",
    cls=Command,
    common=(
        "select", "weight", "radius", "occurrences", "log", "format_", "output", "force", "quiet",
        "jobs",
    ),
    examples=(
        ("rocktok weights rocks.json -o weights.json", "Skip the rocks in training."),
        (
            "rocktok weights rocks.json --select frequency --log runs/opd -o frequent.json",
            "The most frequent types that carry as much of the loss.",
        ),
        (
            "rocktok weights rocks.json --log runs/opd --format mask -o mask.parquet",
            "The weight of every position of the fixed text.",
        ),
    ),
)  # fmt: skip
@click.argument("rocks", metavar="ROCKS", type=options.InputFile())
@click.option(
    "--select",
    default="rocks",
    show_default=True,
    metavar="NAME",
    help="Selection of types: rocks, frequency, mean-loss, grad-norm, aligned, random, control or "
    "lens:NAME. All but rocks take types until they carry the loss of the rocks.",
)
@click.option(
    "--weight",
    type=float,
    default=0.0,
    show_default=True,
    metavar="X",
    help="Weight of the selected tokens; 0 skips them.",
)
@click.option(
    "--radius",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Positions on each side of retained occurrences that get the weight, too.",
)
@click.option(
    "--occurrences",
    type=options.InputFile(),
    metavar="FILE",
    help="Parquet file of `rocktok occurrences`, for --radius.",
)
@click.option(
    "--log",
    metavar="LOG",
    help="Log in which the rocks were found, for other selections and for masks.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["json", "kdflow", "mask"]),
    default="json",
    show_default=True,
    help="Format of the output. json: weights file. kdflow: list of ids to skip. mask: Parquet "
    "with the weight of every position of the fixed text.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=options.OutputFile(),
    help="Output file; it appears whole or not at all.",
)
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
@options.engine_options
@options.seed_option
@options.allow_missing_option
@options.attempt_option
def weights_command(
    rocks: Path,
    select: str,
    weight: float,
    radius: int,
    occurrences: Path | None,
    log: str | None,
    format_: str,
    output: Path | None,
    force: bool,
    quiet: bool,
    jobs: int | None,
    dask: str | None,
    seed: int,
    allow_missing: bool,
) -> None:
    """Write the weights of tokens for training, from ROCKS, the JSON file of `detect`.

    A token gets the weight if it is of a selected type, or within the radius of a retained
    occurrence of one; all others have weight 1. The sum of weighted losses is divided by the number
    of tokens, so that the weight does not rescale the other tokens.
    """
    from rocktok.analyses.weights.passes import weights
    from rocktok.cli.job import rendered, view_of
    from rocktok.errors import UsageError

    masked = format_ == "mask"
    if masked and output is None:
        raise UsageError("--output: a mask goes to a file, not to stdout; give its name")
    options.check_output(output, force=force)
    with options.engine(jobs, dask, quiet=quiet) as engine:
        opened = None
        if log is not None:
            opened = options.open_named(log, allow_missing=allow_missing)
        result = weights(
            rocks, occurrences=occurrences, log=opened, select=select, weight=weight,
            radius=radius, mask=output if masked else None, force=force, seed=seed, engine=engine,
        )  # fmt: skip
    if not masked:
        data = result.to_json() if format_ == "json" else result.to_kdflow()
        options.deliver(data, output, force=force)
    if output is not None:
        options.deliver(rendered(result, "table", view_of(None)), None, force=False)
    options.notes(result.notes, quiet=quiet)
