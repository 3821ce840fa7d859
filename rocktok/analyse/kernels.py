"""Hot loops over the rows of a log, and over pairs of windows; compiled when first used.

Importing this module imports neither numba nor SciPy. Every loop has a plain twin that agrees with
it bit for bit: `type_sums_numpy`, `accumulate.Histogram`, `similarity.Similarity.count_similar`.

Array suffixes: N rows of a log; V token ids; B bins; S columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok.analyse.pairs import (
    PairRule,
    SimilarPairs,
    SparseRows,
    Tally,
    count_similar,
    window_rows,
)

__all__ = [
    "PairRule",
    "SimilarPairs",
    "SparseRows",
    "Tally",
    "count_similar",
    "histogram16",
    "type_sums",
    "type_sums_numpy",
    "window_rows",
]

Array = npt.NDArray[Any]


def type_sums(token_N: Array, values: Sequence[Array], table_VS: Array) -> None:
    """Add, by token id and in row order, 1, x and x² of one or two columns.

    Args:
        token_N: int32 ids, all from 0 to len(table_VS) − 1: **not checked**.
        values: one or two float arrays as long as token_N.
        table_VS: float64, changed in place: the number of rows (whole up to 2^53), then sum and
            sum of squares of each column. Side by side: one cache line a row, not five.
    """
    from rocktok.analyse import compiled

    # One type for all columns, so that few variants are compiled.
    single = all(x_N.dtype == np.float32 for x_N in values)
    columns = [_readonly(x_N, np.float32 if single else np.float64) for x_N in values]
    tokens = _readonly(token_N, np.int32)
    if len(columns) not in (1, 2) or table_VS.shape[1] != 1 + 2 * len(columns):
        raise ValueError("type_sums takes one or two columns, and a table that fits them")
    if any(len(x_N) != len(tokens) for x_N in columns):
        raise ValueError("columns differ in length")
    loop = compiled.sum_one if len(columns) == 1 else compiled.sum_two
    loop(tokens, *columns, table_VS)


def type_sums_numpy(token_N: Array, values: Sequence[Array], table_VS: Array) -> None:
    """Twin of `type_sums`: the same bits, without compiled code."""
    np.add.at(table_VS[:, 0], token_N, 1.0)
    for c, x_N in enumerate(values):
        x_N = x_N.astype(np.float64)
        np.add.at(table_VS[:, 1 + 2 * c], token_N, x_N)
        np.add.at(table_VS[:, 2 + 2 * c], token_N, x_N * x_N)


def histogram16(values_N: Array, prefix: int | None, count_B: Array) -> None:
    """Count float32 values by half of their ordered bits: `accumulate.Histogram.update`, fused.

    Args:
        values_N: float32.
        prefix: None counts the upper 16 bits; a number, the lower ones of values whose upper half
            it is.
        count_B: (65536,) int64, changed in place.
    """
    from rocktok.analyse import compiled

    bits_N = _readonly(values_N, np.float32).view(np.uint32)
    if len(count_B) != 1 << 16:
        raise ValueError("count_B must have 65,536 bins")
    if prefix is None:
        compiled.upper_half(bits_N, count_B)
    else:
        compiled.lower_half(bits_N, np.uint32(prefix), count_B)


def _readonly(array: Array, dtype: Any) -> Array:
    # Of one type for the compiler, whether it came from Arrow (read-only) or from NumPy.
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
