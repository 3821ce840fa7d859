"""`rocktok controls`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option

if TYPE_CHECKING:
    from rocktok.analyses.controls.result import ControlsResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log

_KINDS = ("frequency", "loss", "occurrence", "window")


@click.command(
    "controls",
    cls=Command,
    common=("rocks", "step", "kinds", "rows", "everything", "format_", "output", "jobs"),
    examples=(
        ("rocktok controls runs/opd", "Matched controls of each rock, and their balance."),
        (
            "rocktok controls runs/opd -o controls.json",
            "A file that `attribute` and `stagnation` take as --controls.",
        ),
    ),
)
@options.rocks_option()
@options.table_option
@options.step_option("Step at which controls are matched. Default: the first complete step.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(_KINDS),
    multiple=True,
    default=_KINDS,
    help="Kind of control; may be given several times. Default: all kinds.",
)
@click.option(
    "--occurrences",
    type=int,
    default=1000,
    show_default=True,
    help="Number of rock occurrences to match.",
)
@click.option(
    "--window", type=int, default=8, show_default=True, help="Tokens on each side of an occurrence."
)
@options.rows_options
@limits_option("kinds.frequency.balance.smd_after > 0.25")
@job_options()
def controls_command(
    job: Job,
    rocks: Path | None,
    table: str,
    step: int | None,
    kinds: tuple[str, ...],
    occurrences: int,
    window: int,
    seed: int,
) -> None:
    """Match the rocks of LOG with controls, and report the balance of the matches.

    Kinds of control: types of similar frequency or loss, occurrences of similar position and loss,
    windows of similar length and token frequency. Lists the balance and the unmatched of each kind.
    """
    from rocktok.analyses.controls.passes import controls
    from rocktok.inputs import load_rocks

    def analyse(log: Log, engine: Engine) -> ControlsResult:
        token_ids = load_rocks(rocks, log.vocab.identity) if rocks is not None else None
        return controls(
            log,
            rocks=token_ids,
            table=table,
            step=step,
            kinds=kinds,
            occurrences=occurrences,
            window=window,
            seed=seed,
            engine=engine,
        )

    job.run(analyse)
