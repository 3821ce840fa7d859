"""Make the log that ships in the package, for `rocktok demo`: an extract of another log.

    python sample_data/make_demo.py LOG

replaces rocktok/demo/ by the largest extract of LOG that takes no more than --limit bytes: fixed
text at its first and last step and at some between, losses and a few columns, the last rollouts,
the tokens that occur. As many texts are kept as fit; what is kept beside them the options say.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import click
import extract
import numpy as np
from extract import Extract

import rocktok
from rocktok import schema
from rocktok.log import Log

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "rocktok" / "demo"

#: Bits of the mantissa that are kept: a loss is right to one part in 2,000, the rest to one in 500.
LOSS_BITS, OTHER_BITS = 10, 8

#: Texts are kept in multiples of so many: fewer would not change what is found.
TEXTS_AT_ONCE = 4


def spread(steps: list[int], count: int) -> tuple[int, ...]:
    """So many of the steps, the first and the last among them, at even distances in the list."""
    at = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return tuple(steps[i] for i in at)


def plan(
    log: Log, columns: tuple[str, ...], fixed: int, rollouts: int, alternatives: int
) -> Extract:
    """What is kept of a log beside the texts; of `columns` those that it has."""
    there = tuple(name for name in columns if name in log.columns("fixed"))
    steps = {"fixed": spread(log.complete_steps("fixed"), fixed)}
    if rollouts:
        steps["rollout"] = tuple(log.complete_steps("rollout")[-rollouts:])
    if alternatives and log.complete_steps("alternatives"):
        steps["alternatives"] = (log.complete_steps("alternatives")[-1],)
    rounding = {"loss": LOSS_BITS, **dict.fromkeys(there, OTHER_BITS)}
    return Extract(steps, there, rounding, alternatives=alternatives, used=True)


def fit(log: Log, target: Path, wanted: Extract, limit: int) -> tuple[Extract, int]:
    """Write the extract with the most texts that takes no more than `limit` bytes.

    Returns it and its bytes. Raises `click.ClickException` if even the fewest texts take more.
    """
    low, high = 0, -(-len(extract.text_ids(log)) // TEXTS_AT_ONCE)
    # The largest count that fits lies in low ≤ count ≤ high; the first try is all of them.
    count = high
    while low < high:
        size = extract.write(log, target, replace(wanted, texts=count * TEXTS_AT_ONCE))
        click.echo(f"{count * TEXTS_AT_ONCE} texts: {size:,} bytes")
        low, high = (count, high) if size <= limit else (low, count - 1)
        count = (low + high + 1) // 2
    chosen = replace(wanted, texts=count * TEXTS_AT_ONCE)
    size = extract.write(log, target, chosen) if count else limit + 1
    if size > limit:
        raise click.ClickException(f"not even {TEXTS_AT_ONCE} texts fit in {limit:,} bytes")
    return chosen, size


@click.command()
@click.argument("source", metavar="LOG", default=HERE / "opd", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Path(path_type=Path),
    default=TARGET,
    help="Where the extract goes [default: rocktok/demo in this checkout].",
)
@click.option("--limit", default=295_000, show_default=True, help="Bytes of all files.")
@click.option("--fixed", default=3, show_default=True, help="Steps of fixed text.")
@click.option("--rollouts", default=2, show_default=True, help="Last recorded steps of rollouts.")
@click.option(
    "--alternatives", default=2, show_default=True, help="Likeliest tokens of each model."
)
@click.option(
    "--columns",
    default="grad_norm",
    show_default=True,
    help="Optional columns, with commas between them.",
)
def main(
    source: Path,
    target: Path,
    limit: int,
    fixed: int,
    rollouts: int,
    alternatives: int,
    columns: str,
) -> None:
    """Write an extract of LOG that is small enough to ship."""
    names = tuple(name for name in columns.split(",") if name)
    unknown = set(names) - set(schema.OPTIONAL_STATISTICS)
    if unknown:
        raise click.ClickException(f"no columns {', '.join(sorted(unknown))} in the format")
    log = rocktok.open(source)
    wanted = plan(log, names, fixed, rollouts, alternatives)
    unfinished = target.with_name(f".{target.name}.unfinished")
    chosen, size = fit(log, unfinished, wanted, limit)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    click.echo(f"{target}: {chosen}: {size:,} bytes")


if __name__ == "__main__":
    main()
