"""`rocktok check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.job import Job, job_options
from rocktok.cli.limit_keys import refuse_unknown_keys
from rocktok.cli.limits import fail_if_option, parse_limits

if TYPE_CHECKING:
    from rocktok.analyses.check.result import CheckResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log

_SEVERITIES = ("note", "warning", "problem")


@click.command(
    "check",
    cls=Command,
    common=("step", "no_rocks", "fail_if", "format_", "output", "force", "quiet", "jobs"),
    examples=(
        ("rocktok check runs/opd", "All findings, the worst first."),
        (
            "rocktok check runs/opd --fail-if warning",
            "Exit code 3 if there is a warning or a problem.",
        ),
    ),
)
@options.table_option
@options.step_option("Step whose losses are checked. Default: the last complete step.")
@options.rocks_option()
@click.option(
    "--no-rocks",
    is_flag=True,
    help="Skip the search for rocks, which takes most of the time.",
)
@options.replicates_option()
@fail_if_option(
    "Exit with code 3 if a finding reaches `note`, `warning` or `problem`, or if a comparison such "
    "as 'truncated.value > 0.2' is true; may be given several times.",
    name="fail_if",
)
@job_options()
def check_command(
    job: Job,
    table: str,
    step: int | None,
    rocks: Path | None,
    no_rocks: bool,
    replicates: int,
    fail_if: tuple[str, ...],
    seed: int,
) -> None:
    """Check whether the run of LOG is healthy, and list the worst findings first.

    Covers common failures of distillation: end tokens or chat templates that differ, texts that are
    cut off or loop, losses that differ from the trainer's, text that the scored student did not
    generate, a loss that has stopped falling. Also compares cheaper estimates of the loss with it.
    """
    from rocktok.analyses.check.passes import check
    from rocktok.analyses.check.result import rank_of
    from rocktok.cli.limits import Limit
    from rocktok.errors import LimitError, UsageError
    from rocktok.inputs import load_rocks

    if rocks is not None and no_rocks:
        raise UsageError("--rocks and --no-rocks contradict each other; give one of them")
    limits = parse_limits(fail_if, or_one_of=_SEVERITIES)
    refuse_unknown_keys(limits)
    results: list[CheckResult] = []

    def analyse(log: Log, engine: Engine) -> CheckResult:
        token_ids: tuple[int, ...] | None = () if no_rocks else None
        if rocks is not None:
            token_ids = load_rocks(rocks, log.vocab.identity)
        results.append(
            check(log, rocks=token_ids, table=table, step=step, replicates=replicates, seed=seed,
                  engine=engine)
        )  # fmt: skip
        return results[0]

    job.run(analyse)
    (result,) = results
    for limit in limits:
        if isinstance(limit, Limit):
            limit.check(result.limits())
        elif rank_of(result.worst) >= rank_of(limit):
            bad = [o["name"] for o in result.findings if rank_of(o["severity"]) >= rank_of(limit)]
            raise LimitError(f"--fail-if {limit}: {', '.join(bad)}")
