"""Compiled loops over the rows of a log: sums, histograms, weights.

Importing this module imports numba (a third of a second): `rocktok.stats.kernels`, which holds what
callers use, does so when it first needs a loop. Loops check nothing: indices must be in range.

Array suffixes: N rows of a log; V token ids; B bins; S columns of a table; T types; P prompts; R
runs of rows; W weights of a prompt.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


@Kernel
def sum_one(token_N: Array, x_N: Array, table_VS: Array) -> None:
    """`kernels.type_sums` of one column."""
    for i in range(len(token_N)):
        # Unsigned, or every access tests for an index from the end.
        v = np.uint32(token_N[i])
        x = np.float64(x_N[i])
        table_VS[v, 0] += 1.0
        table_VS[v, 1] += x
        table_VS[v, 2] += x * x


@Kernel
def sum_two(token_N: Array, x_N: Array, y_N: Array, table_VS: Array) -> None:
    """`kernels.type_sums` of two columns."""
    for i in range(len(token_N)):
        v = np.uint32(token_N[i])
        x, y = np.float64(x_N[i]), np.float64(y_N[i])
        # All loads before all stores: the compiler cannot know that it may reorder them.
        count, sum_x, sum_xx = table_VS[v, 0], table_VS[v, 1], table_VS[v, 2]
        sum_y, sum_yy = table_VS[v, 3], table_VS[v, 4]
        table_VS[v, 0] = count + 1.0
        table_VS[v, 1] = sum_x + x
        table_VS[v, 2] = sum_xx + x * x
        table_VS[v, 3] = sum_y + y
        table_VS[v, 4] = sum_yy + y * y


@Kernel
def sum_prompts(
    table_V: Array, token_N: Array, place_N: Array, loss_N: Array, sum_TP: Array
) -> None:
    """`kernels.sums_by_prompt`."""
    last = len(table_V) - 1
    for i in range(len(token_N)):
        v = np.int64(token_N[i])
        at = table_V[v] if v < last else -1
        if at >= 0:
            sum_TP[0, at, place_N[i]] += 1.0
            sum_TP[1, at, place_N[i]] += np.float64(loss_N[i])


@Kernel
def first_in_runs(
    table_V: Array, token_N: Array, prompt_N: Array, run_T: Array, row_M: Array
) -> int:
    """`kernels.first_in_runs`; `run_T`: −1 for each type and for all others, `row_M` has room for
    all rows.
    """
    last, others = len(table_V) - 1, len(run_T) - 1
    run = found = 0
    before = prompt_N[0] if len(prompt_N) else np.uint64(0)
    for i in range(len(token_N)):
        run += before != prompt_N[i]
        before = prompt_N[i]
        # No branch: which rows are of these types cannot be foreseen.
        run_T[others] = run
        v = np.int64(token_N[i])
        at = table_V[v if v < last else last]
        row_M[found] = i
        found += run_T[at] != run
        run_T[at] = run
    return found


@Kernel
def mark_runs(token_N: Array, start_R: Array, first: int, mark_V2: Array) -> None:
    """`kernels.mark_runs`: rows from `start_R[r]` to `start_R[r + 1]` are of run `first` + r."""
    for r in range(len(start_R) - 1):
        run = np.int32(first + r)
        for i in range(start_R[r], start_R[r + 1]):
            # Unsigned, or every access tests for an index from the end.
            v = np.uint32(token_N[i])
            mark_V2[v, 0] += mark_V2[v, 1] != run
            mark_V2[v, 1] = run


@Kernel
def weigh(sum_TP: Array, weight_PW: Array, sum_TW: Array) -> None:
    """`kernels.weigh`."""
    width = weight_PW.shape[1]
    count_W, loss_W = np.empty(width), np.empty(width)
    for t in range(sum_TP.shape[1]):
        count_W[:] = 0.0
        loss_W[:] = 0.0
        for p in range(sum_TP.shape[2]):
            count, loss = sum_TP[0, t, p], sum_TP[1, t, p]
            if count == 0.0:
                continue
            for k in range(width):
                weight = np.float64(weight_PW[p, k])
                count_W[k] += count * weight
                loss_W[k] += loss * weight
        for k in range(width):
            sum_TW[0, t, k] += count_W[k]
            sum_TW[1, t, k] += loss_W[k]


@part
def _ordered(bits: np.uint32) -> np.uint32:
    sign = np.uint32(0x80000000)
    if bits == sign:
        return sign
    return ~bits if bits & sign else bits | sign


@Kernel
def upper_half(bits_N: Array, count_B: Array) -> None:
    """Count the upper 16 ordered bits of float32 values, given as uint32."""
    for i in range(len(bits_N)):
        count_B[_ordered(bits_N[i]) >> np.uint32(16)] += 1


@Kernel
def lower_half(bits_N: Array, prefix: np.uint32, count_B: Array) -> None:
    """Count the lower 16 ordered bits of the values whose upper ones are `prefix`."""
    for i in range(len(bits_N)):
        ordered = _ordered(bits_N[i])
        if ordered >> np.uint32(16) == prefix:
            count_B[ordered & np.uint32(0xFFFF)] += 1
