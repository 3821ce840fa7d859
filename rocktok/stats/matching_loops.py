"""Compiled loop of `matching`: the same assignment, for many pairs.

Importing this module imports numba. Array suffixes as in `matching`.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


@part
def _costs(row_C: Array, column_CA: Array, caliper_C: Array, beyond: float, cost_A: Array) -> None:
    """`matching.costs`."""
    cost_A[:] = 0.0
    for c in range(len(row_C)):
        for a in range(len(cost_A)):
            apart = abs(row_C[c] - column_CA[c, a])
            # Once beyond a caliper, beyond all: no cost within them reaches this.
            within = (apart <= caliper_C[c]) & (cost_A[a] < beyond)
            cost_A[a] = cost_A[a] + apart / caliper_C[c] if within else beyond


@Kernel
def assign(
    row_RC: Array, column_CA: Array, caliper_C: Array, beyond: float, column_R: Array
) -> None:
    """`matching.assign_numpy`; `column_R` is filled."""
    rows, columns = len(row_RC), column_CA.shape[1]
    row_A, by_A = np.full(columns, -1), np.full(columns, -1)
    column_R[:] = -1
    cost_A, least_A = np.empty(columns), np.empty(columns)
    price_R, price_A = np.zeros(rows), np.zeros(columns)
    open_A, closed_A = np.empty(columns, np.int64), np.empty(columns, np.int64)
    reached_R = np.empty(rows, np.int64)
    for start in range(rows):
        for a in range(columns):
            open_A[a] = columns - 1 - a
            least_A[a] = np.inf
        opened, closed, reach, row = columns, 0, 0.0, start
        while True:
            reached_R[closed] = row
            _costs(row_RC[row], column_CA, caliper_C, beyond, cost_A)
            lowest, at = np.inf, -1
            for k in range(opened):
                a = open_A[k]
                length = reach + cost_A[a] - price_R[row] - price_A[a]
                if length < least_A[a]:
                    by_A[a] = row
                    least_A[a] = length
                if least_A[a] < lowest or (least_A[a] == lowest and row_A[a] == -1):
                    lowest, at = least_A[a], k
            reach = lowest
            last = open_A[at]
            closed_A[closed] = last
            closed += 1
            opened -= 1
            open_A[at] = open_A[opened]
            if row_A[last] == -1:
                break
            row = row_A[last]
        price_R[start] += reach
        for k in range(1, closed):
            price_R[reached_R[k]] += reach - least_A[column_R[reached_R[k]]]
        for k in range(closed):
            price_A[closed_A[k]] -= reach - least_A[closed_A[k]]
        while True:
            row = by_A[last]
            row_A[last] = row
            column_R[row], last = last, column_R[row]
            if row == start:
                break
