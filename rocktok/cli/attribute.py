"""`rocktok attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyse.attribute import AttributeResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("attribute")
@click.option(
    "--rocks",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON of `rocktok detect`. Default: what it finds here, by its defaults.",
)
@click.option(
    "--controls",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON of `rocktok controls`: its rocks, and their controls.",
)
@click.option(
    "--control-kind",
    type=click.Choice(["frequency", "loss"]),
    default="frequency",
    show_default=True,
    help="Which of FILE's controls.",
)
@click.option(
    "--table",
    type=click.Choice(["auto", "fixed", "rollout"]),
    default="auto",
    show_default=True,
)
@click.option("--step", type=int, metavar="STEP", help="Of the tokens. Default: last complete one.")
@click.option("--top", type=int, default=100, show_default=True, help="How many types to show.")
@click.option("--all", "all_types", is_flag=True, help="Every type seen.")
@click.option(
    "--group-size", type=int, metavar="N", help="Types in the other groups. Default: as many rocks."
)
@click.option(
    "--replicates", type=int, default=1000, show_default=True, help="Of the bootstrap over prompts."
)
@job_options()
def attribute_command(
    job: Job, rocks: Path | None, controls: Path | None, control_kind: str, **parameters: Any
) -> None:
    """Say which tokens of LOG take the gradient, and whether rocks take more than their share.

    Shares of the summed norms, by token type and by group, with intervals from a bootstrap over
    prompts; and, where the log has gradients/, which way the types' mean gradients point.
    """
    from rocktok.engine.attribute import attribute
    from rocktok.files import load_controls, load_rocks

    if rocks is not None and controls is not None:
        raise click.UsageError("--controls brings its own rocks; leave out --rocks")
    given = load_rocks(rocks) if rocks is not None else None
    pairs = None
    if controls is not None:
        given, pairs = load_controls(controls, control_kind)

    def analyse(log: Log, engine: Engine) -> AttributeResult:
        return attribute(log, rocks=given, pairs=pairs, engine=engine, **parameters)

    job.run("attribute", analyse)
