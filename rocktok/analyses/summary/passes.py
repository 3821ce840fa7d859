"""`summary` of runs: what `detect`, `stagnation` and `check` answer of each, in one row."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from rocktok.analyses.check.passes import check
from rocktok.analyses.check.result import CheckResult
from rocktok.analyses.detect.auto import note_differences
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.run import LogOrPath, opened, path_of, public
from rocktok.analyses.stagnation.passes import stagnation
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.analyses.summary.result import RunRow, SummaryResult
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.log.catalogue import Log

#: Severities of `check` that a summary names.
FOUND = ("note", "warning", "problem")


@public
def summary(
    *logs: LogOrPath,
    fdr: float = 0.05,
    seed: int = 0,
    allow_missing: bool = False,
    engine: Engine | None = None,
) -> SummaryResult:
    """Results of several runs, one row per run.

    The row of a run that cannot be read has its `error`; the other runs are analysed.

    Args:
        logs: logs, or their paths.
        fdr: false discovery rate of tested rocks.
        seed: random seed of `detect` and `stagnation`.
        allow_missing: skip damaged or missing shards.
        engine: runs the passes; default: threads on the available cores.

    Raises:
        UsageError: an option is out of range, or no log.
    """
    if not logs:
        raise UsageError("give at least one log")
    for log in logs:
        if not isinstance(log, Log):
            path_of(log, "summary")
    # What is wrong with an option is said once, not of each run.
    DetectParams(fdr=fdr, seed=seed)
    options = _Options(fdr, seed, allow_missing, engine or Engine())
    rows, notes = [], []
    for log in logs:
        name = log.name if isinstance(log, Log) else path_of(log, "summary")
        try:
            row, lines = _row(name, log, options)
        except LogError as error:
            row, lines = _empty(name, str(error)), []
        rows.append(row)
        notes += [f"{name}: {line}" for line in lines]
    notes += note_differences((row["name"], row["similarity"]) for row in rows)
    return SummaryResult({"fdr": fdr, "seed": seed}, tuple(rows), tuple(notes))


@dataclass(frozen=True)
class _Options:
    fdr: float
    seed: int
    allow_missing: bool
    engine: Engine


def _row(name: str, path: LogOrPath, options: _Options) -> tuple[RunRow, list[str]]:
    from rocktok.log import open_log

    log = (
        opened(path)
        if isinstance(path, Log)
        else open_log(os.fspath(path), allow_missing=options.allow_missing)
    )
    shared: dict[str, Any] = {"seed": options.seed, "engine": options.engine}
    learning = options.engine.start(partial(stagnation, log, **shared))
    # Estimates held against rocks are no finding, and take most of its time.
    checking = options.engine.start(partial(check, log, rocks=(), **shared))
    found = detect(log, fdr=options.fdr, replication="auto", **shared)
    notes = list(log.warnings())
    learned = None
    try:
        learned = learning.result()
    except LogError as error:
        notes.append(f"no curves: {error}")
    return _filled(name, log, found, learned, checking.result()), notes


def _filled(
    name: str,
    log: Log,
    found: DetectResult,
    learned: StagnationResult | None,
    healthy: CheckResult,
) -> RunRow:
    totals, replication = found.totals, found.totals["replication"]
    shares = [row["loss_share"] or 0.0 for row in found.rocks]
    curve = [] if learned is None else learned.corpus["curve"]
    loss_at = {point["step"]: point["loss"] for point in curve}
    pre, post = found.log["pre"], found.log["post"]
    mean = totals["loss"] / totals["positions"] if totals["positions"] else None
    adjusted = None if learned is None else learned.adjusted
    rocks = learned is not None and learned.log["first"] == "rocks"
    return {
        "name": name,
        "run_id": log.run_id,
        "table": found.log["table"],
        "steps": len([step for step in log.steps(found.log["table"]) if step.complete]),
        "pre": pre,
        "post": post,
        "positions": totals["positions"],
        "loss_pre": None if pre is None else loss_at.get(pre),
        "loss_post": mean,
        "tested": totals["tested"],
        "similarity": found.similarity,
        "rocks": None if pre is None else len(found.rocks),
        "rocks_loss_share": None if pre is None else sum(shares),
        "replication": None if replication is None else replication["share"],
        "verdict": adjusted["verdict"] if adjusted is not None and rocks else None,
        "check": healthy.worst,
        "findings": [
            f"{one['severity']}: {one['name']}"
            for one in healthy.findings
            if one["severity"] in FOUND
        ],
        "error": None,
    }


def _empty(name: str, error: str) -> RunRow:
    return {
        **dict.fromkeys(RunRow.__annotations__),  # type: ignore[typeddict-item]
        "name": name,
        "error": error,
    }
