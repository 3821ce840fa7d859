"""Small things done to arrays by token id, and to sets of values."""

from __future__ import annotations

import numpy as np

from rocktok._types import Array


def add_counts(total_V: Array, part_V: Array) -> Array:
    """Sum of two arrays by token id, of any lengths; `total_V` may be changed in place."""
    if len(part_V) > len(total_V):
        total_V = np.concatenate((total_V, np.zeros(len(part_V) - len(total_V), total_V.dtype)))
    total_V[: len(part_V)] += part_V
    return total_V


def longer(table_V: Array, length: int) -> Array:
    """A table by token id with room for those below a length: itself, or zeros follow it."""
    if length <= len(table_V):
        return table_V
    # By an eighth at least: seldom, however the ids come, and little is left unused.
    grain = 1 << max(0, length.bit_length() - 4)
    # Memory that comes as zeros is not written to until a row is: no filling, no joining.
    room_V = np.zeros((-(-length // grain) * grain, *table_V.shape[1:]), table_V.dtype)
    room_V[: len(table_V)] = table_V
    return room_V


def distinct(values_N: Array) -> Array:
    """Distinct values, ascending. NumPy's own `unique` hashes integers: tens of times slower."""
    sorted_N = np.sort(values_N)
    if len(sorted_N) == 0:
        return sorted_N
    kept: Array = sorted_N[np.concatenate(([True], sorted_N[1:] != sorted_N[:-1]))]
    return kept


def padded(values_V: Array, length: int) -> Array:
    """An array by token id, filled with zeros up to a length."""
    return np.concatenate((values_V, np.zeros(max(0, length - len(values_V)), values_V.dtype)))


def is_among(values_N: Array, sorted_U: Array) -> Array:
    """Which values are among ascending, distinct ones. (NumPy's `isin` sorts anew each time.)"""
    if len(sorted_U) == 0:
        return np.zeros(len(values_N), dtype=bool)
    table = np.zeros(int(sorted_U[-1]) + 2, dtype=bool)
    table[sorted_U] = True
    among: Array = table[np.minimum(values_N, len(table) - 1)]
    return among
