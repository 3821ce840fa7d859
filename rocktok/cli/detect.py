"""`rocktok detect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limits import limits_option
from rocktok.cli.rocks import rock_options

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.analyses.detect.result import DetectResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command(
    "detect",
    cls=Command,
    common=("pre", "post", "fdr", "rows", "all_types", "wide", "format_", "output", "jobs"),
    examples=(
        ("rocktok detect runs/opd", "The rocks of a run, as a table."),
        (
            "rocktok detect runs/opd --format json -o rocks.json",
            "The complete result; other commands read it as --rocks.",
        ),
        (
            "rocktok detect runs/opd --all -o types.parquet",
            "Every token type, for pandas or DuckDB.",
        ),
    ),
)
@rock_options
@click.option(
    "--all", "all_types", is_flag=True, help="List every token type instead of the rocks only."
)
@options.rows_option
@click.option("--wide", is_flag=True, help="Show all columns of the terminal table.")
@click.option(
    "--replication/--no-replication",
    default=None,
    help="Measure how many rocks of one half of the prompts are hard in the other half. Default: "
    "in logs of up to 10 million positions.",
)
@click.option(
    "--lifts",
    is_flag=True,
    help="Test whether hard occurrences share contexts more than others of their type; slower.",
)
@limits_option("rocks.loss_share > 0.5")
@job_options()
def detect_command(
    job: Job,
    pre: int | None,
    post: int | None,
    table: str,
    context: str,
    quantile_pre: float,
    quantile_post: float | None,
    tau_pre: float | None,
    tau_post: float | Literal["same"] | None,
    persistence: str,
    window: int | None,
    similarity: str,
    partners: str,
    gamma: float | Literal["auto"],
    eta: float | Literal["auto"],
    embeddings: Array | None,
    rule: str | None,
    fdr: float,
    min_hardness: float,
    top_k: int | None,
    tau_r: float | None,
    min_frequency: int,
    exclude_most_frequent: int,
    cap: int,
    exact: bool,
    all_types: bool,
    replication: bool | None,
    lifts: bool,
    seed: int,
) -> None:
    """Find the token types of LOG whose loss persists in recurring contexts, beyond chance.

    A rock has a high loss at both steps, in more prompts than the difficulty of its prompts and
    positions predicts, and its contexts recur in other prompts. Both conditions are tested at one
    false discovery rate.
    """
    from rocktok.analyses.detect.passes import detect

    def analyse(log: Log, engine: Engine) -> DetectResult:
        return detect(
            log,
            pre=pre,
            post=post,
            table=table,
            context=context,
            quantile_pre=quantile_pre,
            quantile_post=quantile_post,
            tau_pre=tau_pre,
            tau_post=tau_post,
            persistence=persistence,
            window=window,
            similarity=similarity,
            partners=partners,
            gamma=gamma,
            eta=eta,
            embeddings=embeddings,
            rule=rule,
            fdr=fdr,
            min_hardness=min_hardness,
            top_k=top_k,
            tau_r=tau_r,
            min_frequency=min_frequency,
            exclude_most_frequent=exclude_most_frequent,
            cap=cap,
            exact=exact,
            seed=seed,
            all_types=all_types,
            lifts=lifts,
            replication="auto" if replication is None else replication,
            engine=engine,
        )

    job.run(analyse)
