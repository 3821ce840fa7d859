"""Correlation of two rankings."""

from __future__ import annotations

import numpy as np

from rocktok._types import Array


def spearman(first_U: Array, second_U: Array) -> float | None:
    """Correlation of ranks (mid-ranks where tied); None where one side does not vary."""
    if len(first_U) == 0:
        return None
    x, y = first_U - first_U.mean(), second_U - second_U.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale else None
