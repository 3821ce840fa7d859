"""`pillars` of tables of outcomes: effects of arms, what groups say, and whether others agree."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

from rocktok.analyses.pillars.after import compensation_cohort_rows, compensation_rows
from rocktok.analyses.pillars.agreement import agreement_rows, predictor_rows
from rocktok.analyses.pillars.arms import (
    Benchmark,
    arm_rows,
    global_rows,
    pair_rows,
    power_rows,
)
from rocktok.analyses.pillars.knockout_passes import FORMAT, load_knockouts
from rocktok.analyses.pillars.places import cohort_rows
from rocktok.analyses.pillars.predictor_passes import load_predictors
from rocktok.analyses.pillars.result import PillarsOptions, PillarsParams, PillarsResult
from rocktok.analyses.pillars.said import notes_of
from rocktok.analyses.run import options_of, public
from rocktok.errors import LogError, UsageError
from rocktok.files import local_path
from rocktok.outcomes import Outcomes, load_outcomes

#: What `pillars` takes: a table, or where one is, or the authors' folder.
OutcomesOrPath = Outcomes | str | os.PathLike[str]


@public
def pillars(
    *outcomes: OutcomesOrPath,
    margin: float = 0.01,
    level: float = 0.05,
    correction: str = "holm",
    p_value: str = "sign-flip",
    predictors: Sequence[str | os.PathLike[str]] = (),
    replicates: int = 10_000,
    seed: int = 0,
) -> PillarsResult:
    """What banning or replacing each token does to the accuracy, and how sure that is.

    Args:
        outcomes: files of `rocktok intervene`, or folders with baseline.json and
            tokens/token_<id>.json; one for each benchmark.
        margin: change of the accuracy that counts: a share, 0.01 is one percentage point.
        level: of the tests; intervals are at 1 − level, and 1 − 2·level for equivalence.
        correction: of the p-values that a category needs: holm, bonferroni, bh, none.
        p_value: sign-flip, exact; or percentile, which is that of the authors' scripts.
        predictors: files of `rocktok detect` or `rocktok attribute`, whose numbers are correlated
            with the effects.
        replicates: bootstrap resamples of the problems.
        seed: random seed of the resamples.

    Raises:
        TypeError: a keyword that is none of the above; the message names the nearest.
        UsageError: an option is out of range, or no outcomes.
        LogError: a file cannot be read, breaks a rule of its format, or has one problem only.
    """
    params = options_of(PillarsParams, locals())
    if not outcomes:
        raise UsageError("give at least one file of outcomes")
    tables = [table for one in outcomes for table in _opened(one)]
    for table in tables:
        if (count := len(table.problems)) < 2:
            raise LogError(
                f"{table.name}: has {count} problem{'' if count else 's'}; effects are compared "
                "over problems, give several"
            )
    benchmarks = [
        Benchmark.of(name, table, params)
        for name, table in zip(_names(tables), tables, strict=True)
    ]
    values = _predictors(predictors)
    rows = {one.name: arm_rows(one) for one in benchmarks}
    arms = [row for own in rows.values() for row in own]
    pairs = [pair_rows(one, rows[one.name]) for one in benchmarks]
    after = [compensation_rows(one, level) for one in benchmarks]
    overall = [row for one in benchmarks for row in global_rows(one, rows[one.name])]
    sources = tuple(one.source() for one in benchmarks)
    return PillarsResult(
        sources=sources,
        params=cast(
            PillarsOptions, {**asdict(params), "predictors": [os.fspath(f) for f in predictors]}
        ),
        arms=tuple(arms),
        overall=tuple(overall),
        power=tuple(row for one in benchmarks for row in power_rows(one, rows[one.name])),
        controls=tuple(row for made, _ in pairs for row in made),
        contrasts=tuple(row for _, made in pairs for row in made),
        cohorts=tuple(row for one in benchmarks for row in cohort_rows(one, level)),
        compensation=tuple(row for made, _ in after for row in made),
        compensation_contrasts=tuple(row for _, made in after for row in made),
        compensation_cohorts=tuple(
            row for one in benchmarks for row in compensation_cohort_rows(one, level)
        ),
        agreement=tuple(agreement_rows([one.name for one in benchmarks], arms, level)),
        predictors=tuple(predictor_rows(arms, values, level)),
        notes=tuple(
            notes_of(
                sources,
                overall,
                params,
                unknown=[
                    one.name
                    for one in benchmarks
                    if (one.outcomes.about.get("decoding") or {}).get("from") == FORMAT
                ],
                identical=[
                    one.name
                    for one in benchmarks
                    if one.outcomes.baselines > 1 and one.distinct_baselines == 1
                ],
            )
        ),
    )


def _opened(outcomes: OutcomesOrPath) -> list[Outcomes]:
    if isinstance(outcomes, Outcomes):
        return [outcomes]
    path = local_path(outcomes)
    return load_knockouts(path) if path.is_dir() else [load_outcomes(outcomes)]


def _names(tables: Sequence[Outcomes]) -> list[str]:
    """Names of the benchmarks; a number behind those that several tables have."""
    names = [str(table.about["benchmark"]) for table in tables]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: at + 1].count(name)})"
        for at, name in enumerate(names)
    ]


def _predictors(files: Sequence[str | os.PathLike[str]]) -> Mapping[str, Mapping[int, float]]:
    """Columns of all files; those of several have the file's name before them."""
    made: dict[str, Mapping[int, float]] = {}
    for file in files:
        prefix = f"{local_path(file).stem}." if len(files) > 1 else ""
        for column, values in load_predictors(file).items():
            made[f"{prefix}{column}"] = values
    return made
