"""`rocktok attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option

if TYPE_CHECKING:
    from rocktok.analyses.attribute.result import AttributeResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command(
    "attribute",
    cls=Command,
    common=("rocks", "step", "top", "all_types", "group_size", "format_", "output", "jobs"),
    examples=(
        ("rocktok attribute runs/opd", "Shares of the gradient norm at the last step."),
        (
            "rocktok attribute runs/opd --rocks rocks.json -o gradient.json",
            "The same for rocks from a file.",
        ),
    ),
)
@options.rocks_option()
@options.controls_options
@options.table_option
@options.step_option("Step to analyse. Default: the last complete step.")
@options.top_options
@click.option(
    "--group-size",
    type=int,
    metavar="N",
    help="Number of types in each other group. Default: the number of rocks.",
)
@options.replicates_option()
@limits_option("groups[group=rocks].grad_share > 0.5")
@job_options()
def attribute_command(
    job: Job,
    rocks: Path | None,
    controls: Path | None,
    control_kind: str,
    table: str,
    step: int | None,
    top: int | None,
    all_types: bool,
    group_size: int | None,
    replicates: int,
    seed: int,
) -> None:
    """Measure the gradient norm of the tokens of LOG, and whether rocks exceed their share.

    Shares of the summed gradient norm by token type and by group, with bootstrap intervals over
    prompts. If the log has gradients/, also the directions of the types' mean gradients.
    """
    from rocktok.analyses.attribute.passes import attribute

    def analyse(log: Log, engine: Engine) -> AttributeResult:
        vocab = log.vocab.identity
        token_ids, pairs = options.rocks_and_pairs(rocks, controls, control_kind, vocab)
        return attribute(
            log,
            rocks=token_ids,
            pairs=pairs,
            table=table,
            step=step,
            top=top,
            all_types=all_types,
            group_size=group_size,
            replicates=replicates,
            seed=seed,
            engine=engine,
        )

    job.run(analyse)
