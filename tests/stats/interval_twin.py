"""A second implementation of intervals over prompts: plain numbers, derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t as student


def effective_prompts(part_P: np.ndarray, weights: np.ndarray, largest: float) -> float:
    """Kish's number of the parts of a sum, Σw² by its replicates, with half a largest part more."""
    squares = float(np.mean([((drawn - 1) @ part_P) ** 2 for drawn in weights]))
    return float(part_P.sum() ** 2 / (squares + largest**2 / 2))


def interval(
    statistic: Callable[[np.ndarray], float],
    parts: Sequence[tuple[np.ndarray, float]],
    weights: np.ndarray,
    *,
    level: float = 0.95,
    positive: bool = True,
    prompts: float | None = None,
) -> tuple[float, float] | tuple[None, None]:
    """Ends of a statistic of the prompts' weights.

    Args:
        statistic: a function of one weight for each prompt.
        parts: of the sums that it is made of, each prompt's part and the largest of a row.
        weights: (B, P) of the replicates.
        prompts: effective ones, where they are known otherwise.
    """
    if prompts is None:
        prompts = min(effective_prompts(part_P, weights, largest) for part_P, largest in parts)
    if prompts < 20:
        return None, None
    ones, step = np.ones(weights.shape[1]), 1e-4
    slopes = []
    for p in range(len(ones)):
        nudge = np.zeros(len(ones))
        nudge[p] = step
        slopes.append((statistic(ones + nudge) - statistic(ones - nudge)) / (2 * step))
    effect_B = (weights - 1) @ np.array(slopes)
    spread = float(np.mean(effect_B**2)) ** 0.5
    skewness = float(np.mean(effect_B**3)) / spread**3
    error = spread * (prompts / (prompts - 1)) ** 0.5
    reach = float(student.ppf((1 + level) / 2, prompts - 1))
    value = statistic(ones)

    def skewed(wanted: float) -> float:
        # Hall (1992): T + γT²/3 + γ²T³/27 + γ/6 is nearer to normal than T.
        g = skewness
        return float(
            brentq(lambda t: t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6 - wanted, -1e4, 1e4)
        )

    low = value - error * max(reach, skewed(reach))
    high = value + error * max(reach, -skewed(-reach))
    if positive:
        low, high = max(0.0, low), max(high, value * float(np.exp(reach * error / value)))
    return low, high


def same(
    found: tuple[float | None, float | None], expected: tuple[float | None, float | None]
) -> bool:
    """Whether two intervals agree; both may be none."""
    if None in found or None in expected:
        return found == expected
    return bool(np.allclose(np.array(found, float), np.array(expected, float), rtol=1e-6))
