"""The twelve scores of the paper's authors, by which token types may be ranked.

Source: the authors' code to arXiv 2605.09253; formulas in docs/definitions.md.
Array suffix: T types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array

Z = 1.645


@dataclass(frozen=True)
class Moments:
    """Of each type: occurrences, sum of the losses, and of their squares."""

    count_T: Array
    loss_T: Array
    square_T: Array


def scores(moments: Moments) -> dict[str, Array]:
    """Name → score of each type, −inf where it has none. Types have one occurrence or more."""
    # Not the distribution of scipy.stats: its import takes longer than most logs do.
    from scipy.special import stdtrit

    n = moments.count_T.astype(np.float64)
    mean = moments.loss_T / n
    within = np.maximum(0.0, moments.square_T - n * mean * mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(within / (n - 1))
        lcb = mean - stdtrit(n - 1, 0.95) * spread / np.sqrt(n)
    lcb = np.where(n >= 2, lcb, -np.inf)
    posterior, bound = _empirical_bayes(n, mean, within)
    return {
        "mean": mean,
        "mean, n ≥ 5": np.where(n >= 5, mean, -np.inf),
        "mean, n ≥ 10": np.where(n >= 10, mean, -np.inf),
        "n·mean": moments.loss_T,
        "LCB": lcb,
        "n·max(0, LCB)": np.where(n >= 2, n * np.maximum(0.0, lcb), -np.inf),
        "EB mean": posterior,
        "EB bound": bound,
    }


#: Those of which the smaller of two logs makes a score.
OF_TWO = {"n·mean": "n·mean", "n·LCB": "n·max(0, LCB)", "LCB": "LCB", "EB bound": "EB bound"}


def least_of_two(first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
    """The smaller of two samples' scores, types aligned."""
    return {f"min {name}": np.minimum(first[key], second[key]) for name, key in OF_TWO.items()}


def _empirical_bayes(n: Array, mean: Array, within: Array) -> tuple[Array, Array]:
    """Means drawn towards that of all positions, and their lower bounds at z = 1.645."""
    if not len(n):
        # A half of the prompts that holds nothing.
        return mean, mean
    positions = n.sum()
    overall = (n * mean).sum() / positions
    free = positions - len(n)
    pooled = within.sum() / free if free > 0 else 0.0
    between = max(0.0, float(np.var(mean)) - pooled / n.mean())
    if pooled <= 0 or between <= 0:
        # Nothing to weigh: all noise, or none.
        flat = mean if pooled <= 0 else np.full(len(n), overall)
        return flat, flat
    precision = n / pooled + 1 / between
    weight = (n / pooled) / precision
    posterior = weight * mean + (1 - weight) * overall
    return posterior, posterior - Z / np.sqrt(precision)
