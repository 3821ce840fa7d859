"""How far apart two texts are after an arm has acted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rocktok._types import Array


def edit_distance(one_T: Array, other_U: Array) -> int:
    """Levenshtein distance of two token sequences: insertions, deletions, substitutions."""
    previous_U = np.arange(len(other_U) + 1)
    for number, token in enumerate(one_T, start=1):
        row_U = np.empty_like(previous_U)
        row_U[0] = number
        # Deletion, and substitution or match; then insertions, from left to right: the least of
        # (value at j) + (places from j on).
        row_U[1:] = np.minimum(previous_U[1:] + 1, previous_U[:-1] + (other_U != token))
        places_U = np.arange(len(row_U))
        previous_U = np.minimum.accumulate(row_U - places_U) + places_U
    return int(previous_U[-1])


def edit_share(one_T: Array, other_U: Array) -> float | None:
    """Distance divided by the longer length; None for two empty texts."""
    longer = max(len(one_T), len(other_U))
    return edit_distance(one_T, other_U) / longer if longer else None
