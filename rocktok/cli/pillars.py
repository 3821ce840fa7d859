"""`rocktok pillars`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import rendered, view_of
from rocktok.cli.limit_keys import refuse_unknown_keys
from rocktok.cli.limits import check_limits, limits_option, parse_limits


@click.command(
    "pillars",
    cls=Command,
    common=(
        "predictors",
        "margin",
        "level",
        "correction",
        "rows",
        "everything",
        "wide",
        "format_",
        "output",
    ),
    examples=(
        ("rocktok pillars math.parquet", "Change of accuracy by banned token."),
        (
            "rocktok pillars math.parquet code.parquet --format json -o pillars.json",
            "Two benchmarks, and whether they agree.",
        ),
    ),
)
@click.argument("outcomes", nargs=-1, required=True, metavar="OUTCOMES...")
@click.option(
    "--predictors",
    type=options.InputFile(),
    multiple=True,
    metavar="FILE",
    help="JSON or CSV file of `rocktok detect` or `rocktok attribute`, whose numbers are "
    "correlated with the changes of accuracy. May be given several times.",
)
@click.option(
    "--margin",
    cls=options.Renamed,
    old="--epsilon",
    type=float,
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Smallest change of accuracy that counts; 0.01 is one percentage point.",
)
@click.option(
    "--level",
    cls=options.Renamed,
    old="--alpha",
    type=float,
    default=0.05,
    show_default=True,
    metavar="P",
    help="Level of the tests; intervals are at 1 − level, for equivalence at 1 − 2·level.",
)
@click.option(
    "--correction",
    type=click.Choice(["holm", "bonferroni", "bh", "none"]),
    default="holm",
    show_default=True,
    help="Correction of the p-values for the number of arms. bh: false discovery rate.",
)
@click.option(
    "--p-value",
    type=click.Choice(["sign-flip", "percentile"]),
    default="sign-flip",
    show_default=True,
    help="Kind of p-value. percentile: 2·min of bootstrap shares, which may exceed 1; for "
    "comparison with published numbers.",
)
@options.replicates_option(10_000, "Number of bootstrap resamples of the problems.")
@options.rows_options
@click.option("--wide", is_flag=True, help="Show all columns of the terminal tables.")
@limits_option("global[group=rocks].pillar > 0")
@options.seed_option
@options.output_options(*options.FORMATS)
def pillars_command(
    outcomes: tuple[str, ...],
    predictors: tuple[Path, ...],
    margin: float,
    level: float,
    correction: str,
    p_value: str,
    replicates: int,
    seed: int,
    rows: int | None,
    everything: bool,
    wide: bool,
    limits: tuple[str, ...],
    format_: str | None,
    output: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Test which tokens the accuracy depends on, from the outcomes of interventions.

    OUTCOMES are files of `rocktok intervene`, one for each benchmark, or folders with baseline.json
    and tokens/token_<id>.json. Each arm is compared with the baseline on the same problems: change
    of accuracy with interval, exact sign-flip test, and a category: pillar (accuracy falls without
    the token), stumbling (it rises), equivalent, or inconclusive. The smallest change that could
    have been told stands beside every arm.
    """
    from rocktok.analyses.pillars.passes import pillars

    given = parse_limits(limits)
    refuse_unknown_keys(given)
    chosen = options.chosen_format(format_, output)
    options.check_output(output, force=force)
    result = pillars(
        *outcomes,
        margin=margin,
        level=level,
        correction=correction,
        p_value=p_value,
        predictors=predictors,
        replicates=replicates,
        seed=seed,
    )
    view = replace(view_of(output), top=rows, everything=everything, wide=wide)
    options.deliver(rendered(result, chosen, view), output, force=force)
    options.notes(result.notes, quiet=quiet)
    check_limits(given, result.limits)
