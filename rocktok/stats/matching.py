"""One-to-one matching within calipers.

Array suffixes: R those to be matched; A those that may be their controls; C covariates.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from rocktok._types import Array

#: Pairs from which on the compiled loop is worth its loading.
COMPILED = 1 << 17


class Balance(TypedDict):
    """Standardised mean difference of one covariate, before and after matching."""

    covariate: str
    pairs: int
    smd_before: float | None
    smd_after: float | None


def match(rock_RC: Array, other_AC: Array, caliper_C: Array) -> tuple[Array, Array]:
    """Pairs of least total Σ_c |Δ_c| / caliper_c, as many as there can be within every caliper.

    Returns (pairs (n, 2) of places in R and in A, places in R left alone, ascending). A value that
    is not finite matches nothing. Source: Hungarian method by shortest
    augmenting paths (Crouse 2016); calipers ours.
    """
    if not len(rock_RC) or not len(other_AC):
        return np.zeros((0, 2), dtype=np.int64), np.arange(len(rock_RC))
    # A pair beyond a caliper costs more than all others together, so it is never preferred.
    beyond = 1.0 + len(caliper_C) * len(rock_RC)
    sides = rock_RC, other_AC
    turned = len(rock_RC) > len(other_AC)
    row_RC, column_AC = sides[::-1] if turned else sides
    column_R = _assign(row_RC, np.ascontiguousarray(column_AC.T), caliper_C, beyond)
    pairs = np.stack([np.arange(len(column_R)), column_R], axis=1)
    if turned:
        pairs = pairs[np.argsort(column_R), ::-1]
    with np.errstate(invalid="ignore"):
        apart_PC = np.abs(rock_RC[pairs[:, 0]] - other_AC[pairs[:, 1]])
        pairs = np.ascontiguousarray(pairs[(apart_PC <= caliper_C).all(axis=1)])
    return pairs, np.setdiff1d(np.arange(len(rock_RC)), pairs[:, 0])


def _assign(row_RC: Array, column_CA: Array, caliper_C: Array, beyond: float) -> Array:
    if len(row_RC) * column_CA.shape[1] < COMPILED:
        return assign_numpy(row_RC, column_CA, caliper_C, beyond)
    from rocktok.stats import matching_loops

    column_R = np.empty(len(row_RC), dtype=np.int64)
    matching_loops.assign(
        *(np.array(values, np.float64, order="C") for values in (row_RC, column_CA, caliper_C)),
        beyond, column_R,
    )  # fmt: skip
    return column_R


def costs(row_C: Array, column_CA: Array, caliper_C: Array, beyond: float) -> Array:
    """Of a row with each column: Σ_c |Δ_c| / caliper_c, or `beyond`."""
    # The logarithm of a loss of 0 is −∞, and apart from itself by NaN: within no caliper.
    with np.errstate(invalid="ignore"):
        apart_CA = np.abs(row_C[:, None] - column_CA)
        within_A = (apart_CA <= caliper_C[:, None]).all(axis=0)
    cost_A = np.zeros(column_CA.shape[1])
    for apart_A, caliper in zip(apart_CA, caliper_C, strict=True):
        cost_A += apart_A / caliper
    cost_A[~within_A] = beyond
    return cost_A


def assign_numpy(row_RC: Array, column_CA: Array, caliper_C: Array, beyond: float) -> Array:
    """(R,) column of each row, all different, of least total costs; no more rows than columns.

    Row by row along the shortest path to a free column, all costs less the prices of row and
    column, which keeps them above 0. Each row's costs are made when they are asked for: a matrix of
    all would take 8 bytes a pair. Where paths are equally long, SciPy's `linear_sum_assignment`
    takes the same.
    """
    rows, columns = len(row_RC), column_CA.shape[1]
    row_A, by_A, column_R = np.full(columns, -1), np.full(columns, -1), np.full(rows, -1)
    price_R, price_A = np.zeros(rows), np.zeros(columns)
    for start in range(rows):
        open_A, least_A = np.arange(columns)[::-1].copy(), np.full(columns, np.inf)
        closed: list[int] = []
        reached = [start]
        reach, last = 0.0, -1
        while last < 0 or row_A[last] >= 0:
            row = start if last < 0 else int(row_A[last])
            if last >= 0:
                reached.append(row)
            cost_A = costs(row_RC[row], column_CA, caliper_C, beyond)[open_A]
            length_A = reach + cost_A - price_R[row] - price_A[open_A]
            nearer = open_A[length_A < least_A[open_A]]
            by_A[nearer] = row
            least_A[open_A] = np.minimum(least_A[open_A], length_A)
            reach = float(least_A[open_A].min())
            equal = np.flatnonzero(least_A[open_A] == reach)
            free = equal[row_A[open_A[equal]] < 0]
            at = int(free[-1] if len(free) else equal[0])
            last = int(open_A[at])
            closed.append(last)
            open_A[at] = open_A[-1]
            open_A = open_A[:-1]
        price_R[start] += reach
        price_R[reached[1:]] += reach - least_A[column_R[reached[1:]]]
        price_A[closed] -= reach - least_A[closed]
        row = -1
        while row != start:
            row = int(by_A[last])
            row_A[last] = row
            column_R[row], last = last, int(column_R[row])
    return column_R


def balance(names: tuple[str, ...], rock_RC: Array, other_AC: Array, pairs: Array) -> list[Balance]:
    """Standardised mean differences of each covariate, before and after matching.

    Both are in units of one spread, √(mean of the variances of rocks and others before), so that
    they compare; `smd_after` is None without pairs.
    """
    rows: list[Balance] = []
    for c, covariate in enumerate(names):
        before = _finite(rock_RC[:, c]), _finite(other_AC[:, c])
        after = _finite(rock_RC[pairs[:, 0], c]), _finite(other_AC[pairs[:, 1], c])
        variances = [values.var() for values in before if len(values)]
        spread = math.sqrt(sum(variances) / len(variances)) if variances else 0.0
        rows.append({
            "covariate": covariate,
            "pairs": len(pairs),
            "smd_before": _difference(*before, spread),
            "smd_after": _difference(*after, spread),
        })  # fmt: skip
    return rows


def _finite(values: Array) -> Array:
    finite: Array = values[np.isfinite(values)]
    return finite


def _difference(rocks: Array, others: Array, spread: float) -> float | None:
    if not len(rocks) or not len(others) or spread <= 0:
        return None
    return float(rocks.mean() - others.mean()) / spread
