"""The hardest types of a log without rocks: what stands in their place, and is none.

First those that are persistently hard beyond chance, in contexts that do not recur; then those with
the largest Rock Scores, of which most are merely frequent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rocktok.analyses.detect.instead import Alternatives, Instead, InsteadRow

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.analyses.detect.detection import Detection

#: Types that are shown in all, and at least of those with the largest Rock Scores.
SHOWN, LARGEST = 8, 4


class HardType(TypedDict):
    """A type that is no rock; `hard`: persistently hard beyond chance, `hardness` times expected.

    `hardness` is None for the others; `instead`: what the teacher held likely where it is hard.
    """

    token_id: int
    token: str
    frequency: int
    mean_loss_pre: float | None
    mean_loss: float
    loss_share: float
    hard: bool
    hardness: float | None
    instead: list[InsteadRow]


def hardest_types(detection: Detection) -> Array:
    """Indices of the types to show; none where there are rocks, or no loss.

    Both kinds in descending order of their Rock Scores.
    """
    types = detection.types
    none: Array = np.zeros(0, np.int64)
    if detection.rocks or not types.loss_T.sum() > 0:
        return none
    order = np.lexsort((types.token_T, -types.loss_T))
    hard_T = _hard(detection)
    hard = order[hard_T[order]][:SHOWN]
    others = order[~hard_T[order] & (types.loss_T[order] > 0)]
    chosen: Array = np.concatenate([hard, others[: max(LARGEST, SHOWN - len(hard))]])
    return chosen


def _hard(detection: Detection) -> Array:
    """Whether each type is persistently hard beyond chance, in whatever contexts."""
    types, params = detection.types, detection.params
    if types.tested is None:
        return np.zeros(len(types.token_T), dtype=bool)
    return types.tested.hard.beyond_chance(params.fdr, params.min_hardness)


def wanted_instead(detection: Detection, indices: Array) -> Alternatives | None:
    """What sums up the teacher's alternatives to these types, yet to be fed; None without any.

    Only where they are persistently hard, as for rocks.
    """
    # Figures are drawn in processes that read no log.
    from rocktok.analyses.detect.instead_passes import alternatives_of

    found, _ = alternatives_of(detection.source, detection.types, indices, detection.thresholds)
    return found


def hardest_rows(
    detection: Detection, indices: Array, instead: dict[int, Instead]
) -> tuple[HardType, ...]:
    """What a page says of each. `instead`: by token id."""
    types, text = detection.types, detection.run.log.vocab.text
    total, hard_T = float(types.loss_T.sum()), _hard(detection)
    rows: list[HardType] = []
    for index in indices.tolist():
        v, frequency = int(types.token_T[index]), int(types.frequency_T[index])
        loss, hard = float(types.loss_T[index]), bool(hard_T[index])
        before = None
        if types.loss_pre_T is not None and np.isfinite(types.loss_pre_T[index]):
            before = float(types.loss_pre_T[index]) / frequency
        ratio = None
        if hard and types.tested is not None and np.isfinite(types.tested.hard.hardness[index]):
            ratio = float(types.tested.hard.hardness[index])
        rows.append(
            {
                "token_id": v,
                "token": text(v),
                "frequency": frequency,
                "mean_loss_pre": before,
                "mean_loss": loss / frequency,
                "loss_share": loss / total,
                "hard": hard,
                "hardness": ratio,
                "instead": [
                    {
                        "token_id": other.token_id,
                        "token": text(other.token_id),
                        "teacher": other.teacher,
                        "student": other.student,
                    }
                    for other in (instead[v].others if v in instead else ())
                ],
            }
        )
    return tuple(rows)
