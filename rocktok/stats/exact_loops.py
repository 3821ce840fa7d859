"""Compiled loops that add up words by token type: see `rocktok.stats.exact_types`.

Importing this module imports numba. Loops check nothing: indices must be in range.

Array suffixes: N rows of a log; V token ids; S columns of a table.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import packed, part
from rocktok.stats import fixed_point

# Constants of the compiler's, not arguments: half as many instructions. (What is cached of these
# loops is compiled anew when this file changes, not when `fixed_point` does.)
_HIGH, _MIDDLE, _LOW = (np.float64(grid) for grid in fixed_point.GRIDS)
_HIGH_BITS, _MIDDLE_BITS, _LOW_BITS = (grid.view(np.int64) for grid in (_HIGH, _MIDDLE, _LOW))
_LIMIT = fixed_point.LIMIT


@part
def _words(x: float) -> tuple[np.int64, np.int64, np.int64]:
    """`fixed_point.words`."""
    high = x + _HIGH
    rest = x - (high - _HIGH)
    middle = rest + _MIDDLE
    low = rest - (middle - _MIDDLE) + _LOW
    return (
        np.float64(high).view(np.int64) - _HIGH_BITS,
        np.float64(middle).view(np.int64) - _MIDDLE_BITS,
        np.float64(low).view(np.int64) - _LOW_BITS,
    )


# In all of these loops come all loads before all stores, as the compiler cannot know that it may
# reorder them, and words of like rank lie side by side: with `packed`, one instruction adds them.


@part
def _add_two(table_VS: Array, v: np.uint32, x: float, y: float) -> None:
    high_x, middle_x, low_x = _words(x)
    high_y, middle_y, low_y = _words(y)
    s0, s1, s2 = table_VS[v, 0], table_VS[v, 1], table_VS[v, 2]
    s3, s4, s5 = table_VS[v, 3], table_VS[v, 4], table_VS[v, 5]
    count = table_VS[v, 6]
    table_VS[v, 0] = s0 + high_x
    table_VS[v, 1] = s1 + high_y
    table_VS[v, 2] = s2 + middle_x
    table_VS[v, 3] = s3 + middle_y
    table_VS[v, 4] = s4 + low_x
    table_VS[v, 5] = s5 + low_y
    table_VS[v, 6] = count + 1


@packed
def sum_one(token_N: Array, x_N: Array, table_VS: Array, start: int) -> int:
    """`exact_types.sums_compiled` of a column, from row `start` to the first that does not fit."""
    for i in range(start, len(token_N)):
        # Unsigned, or every access tests for an index from the end.
        v = np.uint32(token_N[i])
        x = np.float64(x_N[i])
        if not abs(x) < _LIMIT:
            return i
        high, middle, low = _words(x)
        s0, s1, s2, count = table_VS[v, 0], table_VS[v, 1], table_VS[v, 2], table_VS[v, 3]
        table_VS[v, 0] = s0 + high
        table_VS[v, 1] = s1 + middle
        table_VS[v, 2] = s2 + low
        table_VS[v, 3] = count + 1
    return len(token_N)


@packed
def sum_one_squared(token_N: Array, x_N: Array, table_VS: Array, start: int) -> int:
    """`sum_one` with the squares."""
    for i in range(start, len(token_N)):
        v = np.uint32(token_N[i])
        x = np.float64(x_N[i])
        xx = x * x
        if not xx < _LIMIT:
            return i
        _add_two(table_VS, v, x, xx)
    return len(token_N)


@packed
def sum_two(token_N: Array, x_N: Array, y_N: Array, table_VS: Array, start: int) -> int:
    """`sum_one` of two columns."""
    for i in range(start, len(token_N)):
        v = np.uint32(token_N[i])
        x, y = np.float64(x_N[i]), np.float64(y_N[i])
        if not (abs(x) < _LIMIT and abs(y) < _LIMIT):
            return i
        _add_two(table_VS, v, x, y)
    return len(token_N)


@packed
def sum_two_squared(token_N: Array, x_N: Array, y_N: Array, table_VS: Array, start: int) -> int:
    """`sum_one` of two columns with their squares."""
    for i in range(start, len(token_N)):
        v = np.uint32(token_N[i])
        x, y = np.float64(x_N[i]), np.float64(y_N[i])
        xx, yy = x * x, y * y
        if not (xx < _LIMIT and yy < _LIMIT):
            return i
        high_x, middle_x, low_x = _words(x)
        high_y, middle_y, low_y = _words(y)
        high_xx, middle_xx, low_xx = _words(xx)
        high_yy, middle_yy, low_yy = _words(yy)
        s0, s1, s2, s3 = table_VS[v, 0], table_VS[v, 1], table_VS[v, 2], table_VS[v, 3]
        s4, s5, s6, s7 = table_VS[v, 4], table_VS[v, 5], table_VS[v, 6], table_VS[v, 7]
        s8, s9, s10, s11 = table_VS[v, 8], table_VS[v, 9], table_VS[v, 10], table_VS[v, 11]
        count = table_VS[v, 12]
        table_VS[v, 0] = s0 + high_x
        table_VS[v, 1] = s1 + high_y
        table_VS[v, 2] = s2 + high_xx
        table_VS[v, 3] = s3 + high_yy
        table_VS[v, 4] = s4 + middle_x
        table_VS[v, 5] = s5 + middle_y
        table_VS[v, 6] = s6 + middle_xx
        table_VS[v, 7] = s7 + middle_yy
        table_VS[v, 8] = s8 + low_x
        table_VS[v, 9] = s9 + low_y
        table_VS[v, 10] = s10 + low_xx
        table_VS[v, 11] = s11 + low_yy
        table_VS[v, 12] = count + 1
    return len(token_N)
