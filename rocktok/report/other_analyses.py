"""Analyses that are not built into the report: each has a section of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from rocktok.analyses import Analysis, analyses
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.result import Result
from rocktok.errors import DamagedError, DataError, LogError

if TYPE_CHECKING:
    from rocktok.analyses.pillars.passes import OutcomesOrPath
    from rocktok.engine.passes import Engine
    from rocktok.engine.turns import Companion
    from rocktok.log import Log


class Missing(TypedDict):
    """A result that the log does not allow, the reason, and the remedy."""

    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class OtherResult:
    """Result of one analysis.

    Attributes:
        analysis: its entry in the registry.
        result: its result; None where the log lacks what it needs.
        missing: then what is missing: `what`, `why`, `remedy`.
        passes: number of passes it made.
    """

    analysis: Analysis
    result: Result | None
    missing: Missing | None
    passes: int


def missing_of(log: Log, what: str, error: LogError) -> Missing:
    """What a log does not allow; the error's message has the reason and the remedy."""
    why, _, remedy = str(error).removeprefix(f"{log.name}: ").partition("; ")
    return {"what": what, "why": why, "remedy": remedy}


def start_others(
    log: Log,
    *,
    engine: Engine,
    table: str,
    seed: int,
    replicates: int,
    detected: DetectResult,
    tell: Callable[[Result], None],
) -> list[Companion[OtherResult]]:
    """Start every analysis that has a section, with those of these arguments that it takes.

    `detected`: the result of `detect`, so that rocks are the same in every section. `tell`: called
    with each result.

    Their results raise `DamagedError`, `DataError` as the analyses do.
    """
    shared: dict[str, Any] = {
        "engine": engine, "table": table, "seed": seed, "replicates": replicates,
        "detected": detected,
    }  # fmt: skip
    return [
        engine.start(partial(_other, entry, log, shared, tell), entry.name)
        for entry in analyses().values()
        if entry.section
    ]


def _other(
    analysis: Analysis, log: Log, shared: Mapping[str, Any], tell: Callable[[Result], None]
) -> OtherResult:
    function, engine = analysis.load(), shared["engine"]
    parameters = inspect.signature(function).parameters
    before, result = engine.passes, None
    missing: Missing | None = None
    try:
        result = function(log, **{n: v for n, v in shared.items() if n in parameters})
        tell(result)
    except (DamagedError, DataError):
        raise
    except LogError as error:
        missing = missing_of(log, analysis.help.removesuffix("."), error)
    return OtherResult(analysis, result, missing, engine.passes - before)


def of_outcomes(log: Log, outcomes: Sequence[OutcomesOrPath], seed: int) -> tuple[OtherResult, ...]:
    """What `pillars` says of outcomes of interventions on the log's student; () without any.

    Raises `LogError` for outcomes that cannot be read, and for those of another vocabulary.
    """
    if not outcomes:
        return ()
    # Figures are drawn in processes that read no log.
    from rocktok.analyses.pillars.passes import pillars

    result = pillars(*outcomes, seed=seed)
    ours = log.vocab.identity
    for source in result.sources:
        if None not in (ours, source["tokenizer"]) and ours != source["tokenizer"]:
            raise LogError(
                f"{source['path']}: its vocabulary differs from the log's, so ids have other "
                "texts; give outcomes of a student with the same tokenizer"
            )
    return (OtherResult(analyses()["pillars"], result, None, 0),)
