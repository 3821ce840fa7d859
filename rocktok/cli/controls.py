"""`rocktok controls`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyses.controls.result import ControlsResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log

_KINDS = ("frequency", "loss", "occurrence", "window")


@click.command("controls")
@options.rocks_option()
@options.table_option
@options.step_option("Default: first complete one.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(_KINDS),
    multiple=True,
    default=_KINDS,
    help="What is matched; may be given several times. Default: all.",
)
@click.option(
    "--occurrences", type=int, default=1000, show_default=True, help="Of rocks, to be matched."
)
@click.option("--window", type=int, default=8, show_default=True, help="Tokens on each side.")
@job_options()
def controls_command(job: Job, rocks: Path | None, **parameters: Any) -> None:
    """Find what the rocks of LOG are fairly compared with, and say how fair it is.

    Types of like frequency or like loss, occurrences of like place and loss, windows of like length
    and token frequency; each with its balance, and with what could not be matched.
    """
    from rocktok.analyses.controls.passes import controls
    from rocktok.inputs import load_rocks

    def analyse(log: Log, engine: Engine) -> ControlsResult:
        given = load_rocks(rocks, log.vocab.identity) if rocks is not None else None
        return controls(log, rocks=given, engine=engine, **parameters)

    job.run("controls", analyse)
