"""Hot loops over the rows of a log; compiled when first used.

Importing this module imports neither numba nor SciPy. Every loop has a plain twin that agrees with
it bit for bit: `type_sums_numpy`, `quantiles.Histogram`,
`sums_by_prompt_numpy`, `first_in_runs_numpy`, `mark_runs_numpy`, `weigh_numpy`.

Array suffixes: N rows of a log; V token ids; B bins; S columns of a table; T chosen types; P
prompts; R runs of rows; E pairs of a run and a type; W weights of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.stats.arrays import distinct


def type_sums(token_N: Array, values: Sequence[Array], table_VS: Array) -> None:
    """Add, by token id and in row order, 1, x and x² of one or two columns.

    Args:
        token_N: int32 ids, all from 0 to len(table_VS) − 1: **not checked**.
        values: one or two float arrays as long as token_N.
        table_VS: float64, changed in place: the number of rows (whole up to 2^53), then sum and
            sum of squares of each column. Side by side: one cache line a row, not five.
    """
    from rocktok.stats import loops

    # One type for all columns, so that few variants are compiled.
    single = all(x_N.dtype == np.float32 for x_N in values)
    columns = [readonly(x_N, np.float32 if single else np.float64) for x_N in values]
    tokens = readonly(token_N, np.int32)
    if len(columns) not in (1, 2) or table_VS.shape[1] != 1 + 2 * len(columns):
        raise ValueError("type_sums takes one or two columns, and a table that fits them")
    if any(len(x_N) != len(tokens) for x_N in columns):
        raise ValueError("columns differ in length")
    loop = loops.sum_one if len(columns) == 1 else loops.sum_two
    loop(tokens, *columns, table_VS)


def type_sums_numpy(token_N: Array, values: Sequence[Array], table_VS: Array) -> None:
    """Twin of `type_sums`: the same bits, without compiled code."""
    np.add.at(table_VS[:, 0], token_N, 1.0)
    for c, x_N in enumerate(values):
        x_N = x_N.astype(np.float64)
        np.add.at(table_VS[:, 1 + 2 * c], token_N, x_N)
        np.add.at(table_VS[:, 2 + 2 * c], token_N, x_N * x_N)


def histogram16(values_N: Array, prefix: int | None, count_B: Array) -> None:
    """Count float32 values by half of their ordered bits: `quantiles.Histogram.update`, fused.

    Args:
        values_N: float32.
        prefix: None counts the upper 16 bits; a number, the lower ones of values whose upper half
            it is.
        count_B: (65536,) int64, changed in place.
    """
    from rocktok.stats import loops

    bits_N = readonly(values_N, np.float32).view(np.uint32)
    if len(count_B) != 1 << 16:
        raise ValueError("count_B must have 65,536 bins")
    if prefix is None:
        loops.upper_half(bits_N, count_B)
    else:
        loops.lower_half(bits_N, np.uint32(prefix), count_B)


def sums_by_prompt(
    table_V: Array, token_N: Array, place_N: Array, loss_N: Array, sum_TP: Array
) -> None:
    """Add, by type and prompt and in row order, 1 and the loss.

    Args:
        table_V: int32, place of a token id among the types, −1 for others; the last, −1, stands for
            all ids beyond.
        token_N, place_N, loss_N: ids, places of the prompts in sum_TP (**not checked**), float32.
        sum_TP: (2, T, P) float64, changed in place.
    """
    from rocktok.stats import loops

    places = readonly(place_N, np.int64)
    loops.sum_prompts(
        table_V, readonly(token_N, np.int32), places, readonly(loss_N, np.float32), sum_TP
    )


def sums_by_prompt_numpy(
    table_V: Array, token_N: Array, place_N: Array, loss_N: Array, sum_TP: Array
) -> None:
    """Twin of `sums_by_prompt`: the same bits, without compiled code."""
    type_N = table_V[np.minimum(token_N, len(table_V) - 1)]
    rows_M = np.flatnonzero(type_N >= 0)
    at_M = type_N[rows_M], place_N[rows_M]
    np.add.at(sum_TP[0], at_M, 1.0)
    np.add.at(sum_TP[1], at_M, loss_N[rows_M].astype(np.float64))


def first_in_runs(table_V: Array, token_N: Array, prompt_N: Array, types: int) -> Array:
    """Rows, ascending, that are the first of their type among neighbours of the same prompt.

    Args:
        table_V: int32, place of a token id among the types, `types` for others; the last, `types`,
            stands for all ids beyond.
        token_N: ids. prompt_N: uint64.
        types: how many there are.
    """
    from rocktok.stats import loops

    row_N = np.empty(len(token_N), dtype=np.int64)
    run_T = np.full(types + 1, -1, dtype=np.int64)
    tokens, prompts = readonly(token_N, np.int32), readonly(prompt_N, np.uint64)
    return row_N[: loops.first_in_runs(table_V, tokens, prompts, run_T, row_N)]


def first_in_runs_numpy(table_V: Array, token_N: Array, prompt_N: Array, types: int) -> Array:
    """Twin of `first_in_runs`: the same rows, without compiled code."""
    type_N = table_V[np.minimum(token_N, len(table_V) - 1)]
    rows_M = np.flatnonzero(type_N < types)
    run_N = np.cumsum(np.concatenate(([False], prompt_N[1:] != prompt_N[:-1])))[: len(prompt_N)]
    first_M = np.unique(run_N[rows_M] * types + type_N[rows_M], return_index=True)[1]
    return np.sort(rows_M[first_M])


def mark_runs(token_N: Array, start_R: Array, first: int, mark_V2: Array) -> None:
    """Add to each type's count the runs of rows that hold it, each run once.

    Args:
        token_N: ids, all from 0 to len(mark_V2) − 1: **not checked**.
        start_R: int64, where each run begins, and where the last one ends.
        first: number of the first run.
        mark_V2: int32, changed in place: the count of each id, and the last run that holds it.
    """
    from rocktok.stats import loops

    loops.mark_runs(readonly(token_N, np.int32), start_R, first, mark_V2)


def mark_runs_numpy(token_N: Array, start_R: Array, first: int, mark_V2: Array) -> None:
    """Twin of `mark_runs`: the same counts, without compiled code."""
    width = len(mark_V2)
    run_N = np.repeat(np.arange(len(start_R) - 1, dtype=np.int64), np.diff(start_R))
    run_E, token_E = np.divmod(distinct(run_N * width + token_N), width)
    new_E = (run_E > 0) | (mark_V2[token_E, 1] != first)
    mark_V2[:, 0] += np.bincount(token_E[new_E], minlength=width).astype(np.int32)
    np.maximum.at(mark_V2[:, 1], token_E, (first + run_E).astype(np.int32))


def prompts_up_to(token_N: Array, prompt_N: Array, prompt_VK: Array, count_V: Array) -> None:
    """Note, by token id, the first K distinct prompts.

    Args:
        token_N: ids, all in range: **not checked**. prompt_N: uint64.
        prompt_VK: uint64, changed in place: of each type its prompts so far.
        count_V: int64, changed in place: how many they are.
    """
    from rocktok.stats import floor_loops

    floor_loops.prompts_up_to(
        readonly(token_N, np.int64 if token_N.dtype == np.int64 else np.int32),
        readonly(prompt_N, np.uint64), prompt_VK, count_V,
    )  # fmt: skip


def merge_prompts(more_VK: Array, more_V: Array, prompt_VK: Array, count_V: Array) -> None:
    """`prompts_up_to`, of the prompts that another table of no more types holds.

    Args:
        more_VK, more_V: as the others, which are changed in place.
    """
    from rocktok.stats import floor_loops

    floor_loops.merge_prompts(more_VK, more_V, prompt_VK, count_V)


def weigh(sum_TP: Array, weight_PW: Array, sum_TW: Array) -> None:
    """Add to sum_TW the sums over prompts, in their order, times each of their weights.

    Args:
        sum_TP: (2, T, P) float64, counts and sums; prompts with a count of 0 are passed over.
        weight_PW: uint8.
        sum_TW: (2, T, W) float64, changed in place.
    """
    from rocktok.stats import loops

    loops.weigh(sum_TP, weight_PW, sum_TW)


def weigh_numpy(sum_TP: Array, weight_PW: Array, sum_TW: Array) -> None:
    """Twin of `weigh`: the same bits, without compiled code."""
    from scipy.sparse import csr_matrix

    type_E, prompt_E = np.nonzero(sum_TP[0])
    weights_PW = weight_PW.astype(np.float64)
    for q, sums_TP in enumerate(sum_TP):
        values_E = sums_TP[type_E, prompt_E]
        sum_TW[q] += csr_matrix((values_E, (type_E, prompt_E)), shape=sums_TP.shape) @ weights_PW


def readonly(array: Array, dtype: Any) -> Array:
    """A view that is of one type for the compiler, whether it came from Arrow or from NumPy."""
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
