"""What `detect` returns: frozen, traceable to the log and the parameters that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rocktok._types import Array, LogIdentity
from rocktok.analyses.detect import lifts as lifting
from rocktok.analyses.detect.context import Context
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import (
    LOW_POWER_PERSISTENT,
    LOW_POWER_PROMPTS,
    DetectParams,
    TypeTable,
    context_score,
)
from rocktok.analyses.result import Result
from rocktok.stats.sums import SequenceCounts

Row = dict[str, Any]


@dataclass(frozen=True)
class DetectResult(Result):
    """Rocks of a log (with `all_types`: every type seen), in rank order.

    Attributes:
        log: identity of the log, table, steps and passes.
        params: every option.
        thresholds: `tau_pre`, `tau_post`, `tau_change` (nats), `ratio` τ_post/τ_pre.
        totals: sequences, positions, loss (nats), persistent and retained occurrences (of rocks).
        density: share of a sequence's positions: of rock types, and retained occurrences.
        tokens: one mapping per type; None where a number was not computed.
        notes: what a reader of the numbers must know.
        permuted: with lifts, rocks found and rocks that permuted labels give; else None.
    """

    SCHEMA: ClassVar[str] = "rocktok.detect/1"

    log: Row
    params: Row
    thresholds: Row
    totals: Row
    density: Row
    tokens: tuple[Row, ...]
    notes: tuple[str, ...]
    permuted: Row | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `tokens`."""
        return COLUMNS if self.permuted is None else LIFT_COLUMNS

    @cached_property
    def table(self) -> Any:
        """The tokens as a pandas DataFrame, one row per type; flags joined by commas."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens), columns=self.columns)
        frame["flags"] = [",".join(row["flags"]) for row in self.tokens]
        return frame

    @property
    def rocks(self) -> tuple[Row, ...]:
        """The rows that are rocks."""
        return tuple(row for row in self.tokens if row["is_rock"])

    def to_dict(self) -> Row:
        """What `to_json` writes: every field, `permuted` only with lifts."""
        found = super().to_dict()
        if self.permuted is None:
            del found["permuted"]
        return found

    def shown(self) -> tuple[str, Any]:
        """The tokens under the number of rocks."""
        frame = self.table.drop(columns=["eta", "eta_count", "null_distance"])
        frame["token"] = [repr(text) for text in frame["token"]]
        step = f"step {self.log['post']} of {self.log['table']}/"
        return f"{len(self.rocks)} rock tokens at {step}", frame


COLUMNS = (
    "rank",
    "token_id",
    "token",
    "frequency",
    "prompts",
    "mean_loss",
    "rock_score",
    "loss_share",
    "coverage",
    "persistent",
    "persistent_prompts",
    "persistence_lift",
    "retained",
    "retained_loss",
    "eta",
    "eta_count",
    "null_distance",
    "ccr",
    "ccr_low",
    "ccr_high",
    "context_rock_score",
    "rollout_frequency",
    "rollout_rock_score",
    "mean_log_ratio",
    "student_probability",
    "teacher_probability",
    "flags",
    "is_rock",
)


#: With lifts: theirs come after all others.
LIFT_COLUMNS = (*COLUMNS, *lifting.COLUMNS)

#: Columns that hold whole numbers.
INTEGERS = {
    "rank",
    "token_id",
    "frequency",
    "prompts",
    "persistent",
    "persistent_prompts",
    "retained",
    "eta_count",
    "null_distance",
    "rollout_frequency",
    "lifts_undefined",
}


def make_result(
    *,
    log: LogIdentity,
    source: Row,
    params: DetectParams,
    notes: list[str],
    thresholds: Thresholds | None,
    sizes: SequenceCounts,
    unpaired: int | None,
    types: TypeTable,
    prompts: dict[int, int],
    order: Array,
    is_rock: Array,
    density: Row,
    text: Callable[[int], str],
    lifts: tuple[dict[int, Row], Row] | None = None,
) -> DetectResult:
    """Put the numbers of `detect` together. `order` and `is_rock` are as `ranking` gives them.

    `lifts`: by token id, and what permuted labels gave.
    """
    total = float(types.loss_T.sum())
    excluded_T = types.excluded_T(params)
    coverage = np.cumsum(types.loss_T[order]) / total if total else np.zeros(len(order))
    rows = []
    for rank, index in enumerate(order.tolist()):
        if not (is_rock[rank] or params.all_types):
            continue
        context = types.context.get(index)
        row: Row = {
            "rank": rank + 1,
            "token_id": int(types.token_T[index]),
            "token": text(int(types.token_T[index])),
            **_scores(types, index, total),
            "prompts": prompts[int(types.token_T[index])],
            "coverage": float(coverage[rank]),
            **_persistence(types, thresholds, index, context),
            **_context(types, index, context),
            **{name: _plain(values[index]) for name, values in types.extra_T.items()},
            "flags": _flags(types, index, context, bool(excluded_T[index])),
            "is_rock": bool(is_rock[rank]),
        }
        if lifts is not None:
            row |= lifts[0].get(row["token_id"], {})
            row["flags"] = row["flags"] + _lift_flags(row)
        columns = COLUMNS if lifts is None else LIFT_COLUMNS
        rows.append({name: row.get(name) for name in columns})
    rocks = [types.context.get(int(index)) for index in order[is_rock]]
    retained = round(sum(context.retained for context in rocks if context))
    known = types.persistent_T is not None
    return DetectResult(
        log={**log, **source},
        params={
            **asdict(params),
            "quantile_post": params.second_quantile,
            **({} if lifts is None else {"lifts": True}),
        },
        thresholds=_thresholds(thresholds),
        totals={
            "sequences": sizes.sequences,
            "positions": sizes.rows,
            "loss": total,
            "persistent": int(types.persistent_T.sum()) if types.persistent_T is not None else None,
            "retained": retained if known else None,
            "unpaired_sequences": unpaired,
        },
        density=density,
        tokens=tuple(rows),
        notes=tuple(notes),
        permuted=None if lifts is None else lifts[1],
    )


def _thresholds(thresholds: Thresholds | None) -> Row:
    if thresholds is None:
        return dict.fromkeys(("tau_pre", "tau_post", "tau_change", "ratio"))
    ratio = None if thresholds.post is None else thresholds.post / thresholds.pre
    return {
        "tau_pre": thresholds.pre,
        "tau_post": thresholds.post,
        "tau_change": thresholds.change,
        "ratio": ratio,
    }


def _scores(types: TypeTable, index: int, total: float) -> Row:
    frequency, loss = int(types.frequency_T[index]), float(types.loss_T[index])
    return {
        "frequency": frequency,
        "mean_loss": loss / frequency,
        "rock_score": loss,
        "loss_share": loss / total if total else None,
    }


def _persistence(
    types: TypeTable, thresholds: Thresholds | None, index: int, context: Context | None
) -> Row:
    if thresholds is None or types.persistent_T is None:
        return {}
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


def _context(types: TypeTable, index: int, context: Context | None) -> Row:
    if types.persistent_T is None:
        return {}
    if types.persistent_T[index] == 0:
        return {"retained": 0, "retained_loss": 0.0, "ccr": 0.0, "context_rock_score": 0.0}
    if context is None or not context.judgeable:
        return {}
    row = {
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


def _lift_flags(row: Row) -> list[str]:
    if "singled_out" not in row:
        return []
    found = {True: [], False: ["not_singled_out"], None: ["lift_unknown"]}[row["singled_out"]]
    return [*found, "lifts_sampled"] if row["sampled"] else found


def _plain(value: Any) -> int | float:
    return int(value) if isinstance(value, np.integer) else float(value)
