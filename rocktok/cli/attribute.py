"""`rocktok attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options

if TYPE_CHECKING:
    from rocktok.analyse.attribute import AttributeResult


@click.command("attribute")
@options.log_argument
@click.option(
    "--rocks",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON of `rocktok detect`. Default: what it finds here, by its defaults.",
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
@options.seed_option
@options.engine_options
@options.output_options(*options.FORMATS)
@options.allow_missing_option
def attribute_command(
    log: str,
    rocks: Path | None,
    format_: str | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    allow_missing: bool,
    jobs: int | None,
    dask: str | None,
    **parameters: Any,
) -> None:
    """Say which tokens of LOG take the gradient, and whether rocks take more than their share.

    Shares of the summed norms, by token type and by group, with intervals from a bootstrap over
    prompts; and, where the log has gradients/, which way the types' mean gradients point.
    """
    from rocktok.engine.attribute import attribute
    from rocktok.files import load_rocks

    chosen = options.chosen_format(format_, output)
    options.check_output(output, force=force)
    given = load_rocks(rocks) if rocks is not None else None
    opened = options.open_named(log, allow_missing=allow_missing)
    with options.engine(jobs, dask, quiet=quiet) as engine:
        result = attribute(opened, rocks=given, engine=engine, **parameters)
    options.deliver(_render(result, chosen), output, force=force)
    options.notes(result.notes, quiet=quiet)


def _render(result: AttributeResult, format_: str) -> bytes | str:
    if format_ == "json":
        return result.to_json()
    from rocktok.report import attribute as report

    if format_ in ("csv", "parquet"):
        return report.encode_attribute(result, "csv" if format_ == "csv" else "parquet")
    return report.render_attribute(result)
