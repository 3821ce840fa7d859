"""Rows of `DetectResult`, from the numbers of the types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypedDict, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import Context
from rocktok.analyses.detect.instead import Instead, InsteadColumns, InsteadRow
from rocktok.analyses.detect.lifts import LiftColumns, Lifts
from rocktok.analyses.detect.neighbours import RockFlags
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import (
    LOW_POWER_PERSISTENT,
    LOW_POWER_PROMPTS,
    TypeTable,
    context_score,
)
from rocktok.analyses.detect.result import (
    ContextColumns,
    DensityRow,
    DetectLog,
    DetectOptions,
    DetectParams,
    DetectResult,
    DetectRow,
    ExtraColumns,
    PermutedRow,
    PersistenceColumns,
    TestedColumns,
    ThresholdRow,
)
from rocktok.analyses.detect.tested import Replication, text_wanted
from rocktok.stats.intervals import FEW_PROMPTS
from rocktok.stats.sums import SequenceCounts


def make_result(
    *,
    log: DetectLog,
    params: DetectParams,
    similarity_given: str,
    notes: list[str],
    thresholds: Thresholds | None,
    gamma: float | None,
    sizes: SequenceCounts,
    unpaired: int | None,
    types: TypeTable,
    prompts: dict[int, int],
    order: Array,
    is_rock: Array,
    shown: Array,
    flags: RockFlags | None,
    replication: Replication | None,
    density: DensityRow,
    text: Callable[[int], str],
    lifts: tuple[dict[int, Lifts], PermutedRow] | None = None,
    instead: dict[int, Instead] | None = None,
) -> DetectResult:
    """Put the numbers of `detect` together. `order` and `is_rock` are as `ranking` gives them.

    `shown`: places of the order. `flags`: of the rocks, where these were tested. `lifts`: by token
    id, and what permuted labels gave. `instead`: by token id, where alternatives are known.
    `gamma`: minimum similarity of contexts.
    """
    total = float(types.loss_T.sum())
    excluded_T = types.excluded_T(params)
    coverage = np.cumsum(types.loss_T[order]) / total if total else np.zeros(len(order))
    rows = []
    beside = _beside(flags)
    for rank in shown.tolist():
        index = int(order[rank])
        v, context = int(types.token_T[index]), types.context.get(index)
        lifted = None if lifts is None else lifts[0].get(v)
        frequency, loss = int(types.frequency_T[index]), float(types.loss_T[index])
        row: DetectRow = {
            "rank": rank + 1,
            "token_id": v,
            "token": text(v),
            "frequency": frequency,
            "prompts": prompts[v],
            "mean_loss_pre": _at(types.loss_pre_T, index, 1 / frequency),
            "mean_loss": loss / frequency,
            "rock_score": loss,
            "loss_share": loss / total if total else None,
            "coverage": float(coverage[rank]),
            **_persistence(types, thresholds, index, context),
            **_context(types, index, context),
            **_tested(types, index, beside.get(v)),
            **_extra(types, index),
            **_instead(types, index, instead, text),
            "flags": [
                *_flags(types, index, context, bool(excluded_T[index])),
                *(beside[v].flags if v in beside else ()),
                *(() if lifts is None or not is_rock[rank] else _lift_flags(lifted)),
            ],
            "is_rock": bool(is_rock[rank]),
            **(LiftColumns() if lifts is None else _lifts(lifted)),
        }
        rows.append(row)
    rocks = [types.context.get(int(index)) for index in order[is_rock]]
    retained = round(sum(context.retained for context in rocks if context))
    persistent_T = types.persistent_T
    return DetectResult(
        log=log,
        params=_options(params, similarity_given, lifts=lifts is not None),
        thresholds=_thresholds(thresholds, gamma),
        totals={
            "sequences": sizes.sequences,
            "positions": sizes.rows,
            "loss": total,
            "persistent": None if persistent_T is None else int(persistent_T.sum()),
            "retained": None if persistent_T is None else retained,
            "unpaired_sequences": unpaired,
            **_tests(types, params, total),
            "replication": None
            if replication is None
            else {
                "rocks": replication.rocks,
                "held": replication.held,
                "hard": replication.hard,
                "share": replication.share,
            },
        },
        density=density,
        tokens=tuple(rows),
        notes=tuple(notes),
        permuted=None if lifts is None else lifts[1],
    )


def _options(params: DetectParams, given: str, *, lifts: bool) -> DetectOptions:
    options = cast(DetectOptions, {**asdict(params.filled), "similarity_given": given})
    if lifts:
        options["lifts"] = True
    return options


def _thresholds(thresholds: Thresholds | None, gamma: float | None) -> ThresholdRow:
    if thresholds is None:
        return {
            "tau_pre": None,
            "tau_post": None,
            "tau_change": None,
            "ratio": None,
            "gamma": None,
        }
    ratio = None if thresholds.post is None else thresholds.post / thresholds.pre
    return {
        "tau_pre": thresholds.pre,
        "tau_post": thresholds.post,
        "tau_change": thresholds.change,
        "ratio": ratio,
        "gamma": gamma,
    }


def _persistence(
    types: TypeTable, thresholds: Thresholds | None, index: int, context: Context | None
) -> PersistenceColumns:
    if thresholds is None or types.persistent_T is None:
        return {"persistent": None, "persistent_prompts": None, "persistence_lift": None}
    assert types.hard_pre_T is not None
    assert types.hard_post_T is not None
    persistent = int(types.persistent_T[index])
    by_chance = int(types.hard_pre_T[index]) * int(types.hard_post_T[index])
    lift = None
    if thresholds.post is not None and by_chance:
        lift = persistent * int(types.frequency_T[index]) / by_chance
    return {
        "persistent": persistent,
        "persistent_prompts": context.prompts if context else None if persistent else 0,
        "persistence_lift": lift,
    }


def _context(types: TypeTable, index: int, context: Context | None) -> ContextColumns:
    row = cast(ContextColumns, dict.fromkeys(ContextColumns.__annotations__))
    if types.persistent_T is None:
        return row
    if types.persistent_T[index] == 0:
        row |= {"retained": 0, "retained_loss": 0.0, "ccr": 0.0, "context_rock_score": 0.0}
        return row
    if context is None or not context.judgeable:
        return row
    row |= {
        "retained": round(context.retained),
        "retained_loss": context.retained_loss,
        "eta": context.eta,
        "eta_count": context.eta_count,
        "null_distance": context.null_distance,
        "ccr": context.retained / int(types.frequency_T[index]),
        "context_rock_score": context_score(types, index, context),
    }
    if context.interval is not None:
        scale = context.persistent / int(types.frequency_T[index])
        low, high = context.interval
        row |= {"ccr_low": low * scale, "ccr_high": high * scale}
    return row


@dataclass(frozen=True)
class _Beside:
    """What stands beside one rock."""

    shadowed_by: int | None
    flags: tuple[str, ...]


def _beside(flags: RockFlags | None) -> dict[int, _Beside]:
    """By token id."""
    if flags is None:
        return {}
    by_token = {}
    for v, by, stretch, bound in zip(
        flags.token_R.tolist(),
        flags.shadowed_by.tolist(),
        flags.stretch.tolist(),
        flags.position_bound.tolist(),
        strict=True,
    ):
        marks = {"shadowed": by >= 0, "stretch": stretch, "position_bound": bound}
        by_token[v] = _Beside(
            by if by >= 0 else None, tuple(m for m, is_so in marks.items() if is_so)
        )
    return by_token


def _at(values_T: Array | None, index: int, scale: float = 1.0) -> float | None:
    """A type's value; None where it is not defined."""
    if values_T is None or not np.isfinite(values_T[index]):
        return None
    return float(values_T[index] * scale)


def _tested(types: TypeTable, index: int, beside: _Beside | None) -> TestedColumns:
    tested = types.tested
    if tested is None:
        return cast(TestedColumns, dict.fromkeys(TestedColumns.__annotations__))
    return {
        "tested": bool(tested.tested[index]),
        "prompts_held": int(tested.hard.prompts_held[index]),
        "hardness": _at(tested.hard.hardness, index),
        "p_hard": _at(tested.hard.p_hard, index),
        "p_context": _at(tested.p_context, index),
        "p_value": _at(tested.p_value, index),
        "q_value": _at(tested.q_value, index),
        "score": _at(tested.score, index),
        "shadowed_by": None if beside is None else beside.shadowed_by,
    }


class _Tests(TypedDict):
    tests: int | None
    tested: int | None
    hard: int | None
    untested_loss_share: float | None
    text_wanted: float | None


def _tests(types: TypeTable, params: DetectParams, total: float) -> _Tests:
    tested = types.tested
    if tested is None:
        return cast(_Tests, dict.fromkeys(_Tests.__annotations__))
    untested = float(types.loss_T[~tested.tested].sum())
    return {
        "tests": tested.tests,
        "tested": int(tested.tested.sum()),
        "hard": int(tested.hard.beyond_chance(params.fdr, params.min_hardness).sum()),
        "untested_loss_share": untested / total if total else None,
        "text_wanted": text_wanted(tested.hard, types.loss_T),
    }


def _extra(types: TypeTable, index: int) -> ExtraColumns:
    values_T = {name: types.extra_T.get(name) for name in ExtraColumns.__annotations__}
    return cast(
        ExtraColumns,
        {name: None if v is None else v[index].item() for name, v in values_T.items()},
    )


def _instead(
    types: TypeTable, index: int, instead: dict[int, Instead] | None, text: Callable[[int], str]
) -> InsteadColumns:
    row = cast(InsteadColumns, dict.fromkeys(InsteadColumns.__annotations__))
    if instead is None or types.persistent_T is None:
        return row
    found = instead.get(int(types.token_T[index]))
    if found is None:
        # Not summed: for want of occurrences, or of memory.
        return row if types.persistent_T[index] else {**row, "instead_occurrences": 0}
    others: list[InsteadRow] = [
        {
            "token_id": other.token_id,
            "token": text(other.token_id),
            "teacher": other.teacher,
            "student": other.student,
        }
        for other in found.others
    ]
    return {
        "instead": others if found.occurrences else None,
        "instead_occurrences": found.occurrences,
        "teacher_on_token": found.teacher,
        "student_on_token": found.student,
    }


def _flags(types: TypeTable, index: int, context: Context | None, excluded: bool) -> list[str]:
    flags = []
    if types.persistent_T is not None and types.persistent_T[index]:
        few = types.persistent_T[index] < LOW_POWER_PERSISTENT
        if few or (context is not None and context.prompts < LOW_POWER_PROMPTS):
            flags.append("low_power")
    if context is not None and not context.judgeable:
        flags.append("null_scarce")
    if context is not None and context.sampled:
        flags.append("sampled")
    if excluded:
        flags.append("excluded")
    rollout_T = types.extra_T.get("rollout_frequency")
    if rollout_T is not None and rollout_T[index] == 0:
        flags.append("not_in_rollouts")
    return flags


def _lifts(lifts: Lifts | None) -> LiftColumns:
    if lifts is not None:
        return lifts.columns()
    return cast(LiftColumns, dict.fromkeys(LiftColumns.__annotations__))


def _lift_flags(lifts: Lifts | None) -> list[str]:
    if lifts is None:
        return ["lift_unknown"]
    flags: list[str] = []
    if not lifts.singled_out:
        flags.append("lift_unknown" if lifts.singled_out is None else "not_singled_out")
    if lifts.few_prompts:
        flags.append(FEW_PROMPTS)
    return [*flags, "lifts_sampled"] if lifts.sampled else flags
