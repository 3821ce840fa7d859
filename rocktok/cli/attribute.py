"""`rocktok attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyses.attribute.result import AttributeResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("attribute")
@options.rocks_option()
@options.controls_options
@options.table_option
@options.step_option("Of the tokens. Default: last complete one.")
@options.top_option
@click.option("--all", "all_types", is_flag=True, help="Every type seen.")
@click.option(
    "--group-size", type=int, metavar="N", help="Types in the other groups. Default: as many rocks."
)
@options.replicates_option()
@job_options()
def attribute_command(
    job: Job, rocks: Path | None, controls: Path | None, control_kind: str, **parameters: Any
) -> None:
    """Say which tokens of LOG take the gradient, and whether rocks take more than their share.

    Shares of the summed norms, by token type and by group, with intervals from a bootstrap over
    prompts; and, where the log has gradients/, which way the types' mean gradients point.
    """
    from rocktok.analyses.attribute.passes import attribute

    def analyse(log: Log, engine: Engine) -> AttributeResult:
        vocab = log.vocab.identity
        given, pairs = options.given_rocks(rocks, controls, control_kind, vocab)
        return attribute(log, rocks=given, pairs=pairs, engine=engine, **parameters)

    job.run("attribute", analyse)
