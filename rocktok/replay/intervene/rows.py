"""Rows of the table of outcomes, from what became of the arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.outcomes import BASELINE, outcomes_schema

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.replay.intervene.arms import Plan
    from rocktok.replay.intervene.trial import Acted, Baseline, Case

#: Arrow arrays by column.
Columns = dict[str, Any]


def baseline_columns(
    number: int, baseline: Baseline, ids: Sequence[str], cases: Sequence[Case]
) -> Columns:
    """Rows of a baseline: "baseline", "baseline-2", …; it acts nowhere."""
    size = len(cases)
    nothing_N = np.full(size, np.nan)
    name = BASELINE if number == 0 else f"{BASELINE}-{number + 1}"
    return _columns(
        (name, -1, "baseline", "baseline", None), ids, cases,
        {
            "correct": baseline.correct_N,
            "truncated": baseline.truncated_N,
            "num_tokens": np.array([len(text_T) for text_T in baseline.texts], np.int32),
            "first_position": np.full(size, -1, np.int32),
            "loss_after": nothing_N, "baseline_loss_after": nothing_N, "edit_after": nothing_N,
        },
    )  # fmt: skip


def arm_columns(plan: Plan, acted: Acted, ids: Sequence[str], cases: Sequence[Case]) -> Columns:
    """Rows of an arm; where it does not act they are the baseline's."""
    one = plan.candidate
    return _columns(
        (plan.name, one.token_id, plan.mode, one.group, one.control_of), ids, cases,
        {
            "correct": acted.correct_N,
            "truncated": acted.truncated_N,
            "num_tokens": acted.tokens_N,
            "first_position": acted.first_N,
            "loss_after": acted.loss_N,
            "baseline_loss_after": acted.base_loss_N,
            "edit_after": acted.edit_N,
        },
    )  # fmt: skip


def _columns(
    arm: tuple[str, int, str, str, int | None],
    ids: Sequence[str],
    cases: Sequence[Case],
    values: dict[str, Array],
) -> Columns:
    import pyarrow as pa

    schema, size = outcomes_schema(), len(cases)
    same = dict(zip(("arm", "token_id", "mode", "group", "control_of"), arm, strict=True))
    columns = {
        name: pa.array([value] * size, schema.field(name).type) for name, value in same.items()
    }
    columns["problem_id"] = pa.array([ids[case.problem] for case in cases], pa.string())
    columns["seed"] = pa.array([case.seed for case in cases], pa.int64())
    columns["rollout"] = pa.array([case.rollout for case in cases], pa.int32())
    columns["fired"] = pa.array(values["first_position"] >= 0)
    for name, values_N in values.items():
        is_float = np.issubdtype(values_N.dtype, np.floating)
        # Of truth values none is below 0.
        absent_N = np.isnan(values_N) if is_float else values_N < 0
        kind = schema.field(name).type
        columns[name] = pa.array(values_N, mask=absent_N).cast(kind, safe=False)
    return columns


def joined(parts: Sequence[Columns]) -> Columns:
    """One after another."""
    import pyarrow as pa

    return {
        name: pa.chunked_array([part[name] for part in parts]).combine_chunks()
        for name in outcomes_schema().names
    }
