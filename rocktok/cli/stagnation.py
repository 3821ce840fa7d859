"""`rocktok stagnation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option
from rocktok.errors import UsageError

if TYPE_CHECKING:
    from rocktok.analyses.stagnation.result import StagnationResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command(
    "stagnation",
    cls=Command,
    common=("pre", "post", "rocks", "top", "all_types", "format_", "output", "jobs"),
    examples=(
        (
            "rocktok stagnation runs/opd",
            "Losses of rocks, controls and all text over the steps.",
        ),
        ("rocktok stagnation runs/opd --all -o curves.parquet", "The curve of every token type."),
    ),
)
@options.rocks_option("rocks of half of the prompts at the first two steps")
@options.controls_options
@options.table_option
@click.option(
    "--pre",
    cls=options.Renamed,
    old="--first",
    type=int,
    metavar="STEP",
    help="First step to follow. Default: the first complete step.",
)
@click.option(
    "--post",
    cls=options.Renamed,
    old="--last",
    type=int,
    metavar="STEP",
    help="Last step to follow. Default: the last complete step.",
)
@click.option(
    "--select-at",
    type=click.Choice(["first", "last"]),
    default="first",
    show_default=True,
    help="Step at which groups are chosen. `last` conditions on the outcome: descriptive only.",
)
@click.option(
    "--top-k",
    type=int,
    default=100,
    show_default=True,
    help="Maximum number of types in the group high_loss, which stands in if there are no rocks.",
)
@click.option(
    "--group-size",
    type=int,
    metavar="N",
    help="Number of types in the groups high_kl and random. Default: the number of rocks.",
)
@options.top_options
@options.replicates_option()
@limits_option("corpus.stagnation > 0.9")
@job_options()
def stagnation_command(
    job: Job,
    rocks: Path | None,
    controls: Path | None,
    control_kind: str,
    table: str,
    pre: int | None,
    post: int | None,
    select_at: str,
    top_k: int,
    group_size: int | None,
    top: int | None,
    all_types: bool,
    replicates: int,
    seed: int,
) -> None:
    """Test whether the loss of rocks falls less than that of other types of similar loss.

    Rocks are chosen at the first two steps of fixed text, on one half of the prompts. Their losses
    are measured from the second step on, on the other half, with intervals over prompts.
    """
    from rocktok.analyses.stagnation.passes import stagnation

    _check(rocks, controls)
    given_by = {
        "rocks_file": rocks.name if rocks else None,
        "controls_file": controls.name if controls else None,
        "control_kind": control_kind if controls else None,
    }

    def analyse(log: Log, engine: Engine) -> StagnationResult:
        vocab = log.vocab.identity
        token_ids, pairs = options.rocks_and_pairs(rocks, controls, control_kind, vocab)
        return stagnation(
            log,
            rocks=token_ids,
            pairs=pairs,
            given_by=given_by,
            table=table,
            pre=pre,
            post=post,
            select_at=select_at,
            top_k=top_k,
            group_size=group_size,
            top=top,
            all_types=all_types,
            replicates=replicates,
            seed=seed,
            engine=engine,
        )

    job.run(analyse)


def _check(rocks: Path | None, controls: Path | None) -> None:
    """Raise `UsageError` for an option that would do nothing."""
    source = click.get_current_context().get_parameter_source

    def asked(name: str) -> bool:
        return source(name) is ParameterSource.COMMANDLINE

    if asked("control_kind") and controls is None:
        raise UsageError("--control-kind needs a file of controls; give --controls too")
    if asked("top_k") and (rocks or controls):
        by = "--rocks" if rocks else "--controls"
        raise UsageError(f"--top-k applies only without rocks, and {by} names some; leave out one")
