"""Fixed-point sums: whole numbers, and so the same in any order and however they are cut.

A value is rounded to a multiple of 2⁻⁸⁰ (10⁻²⁴; a tie to the even one) and taken apart into three
words, multiples of 2⁻⁴, 2⁻⁴² and 2⁻⁸⁰, each added up as int64. Every word is the nearest multiple
to what the words above leave, so that none but the first exceeds 2³⁷ in absolute value. Values from
2²⁷ on do not fit: `units` makes Python integers of them.

Array suffixes: N values; V token ids; S columns of a table, or as many as there are sums.
"""

from __future__ import annotations

import math

import numpy as np

from rocktok._types import Array

#: Of each word, log₂ of how many of its units are 1.
BITS = (4, 42, 80)

#: Of a word but the first, log₂ of its units in one of the word above.
STEP = 38

#: Values must be smaller than this in absolute value: fewer than 2³² of them add up in int64.
LIMIT = 2.0**27

#: Rows that may be added before the lower words are carried: theirs are up to 2³⁷ each.
LOOSE = 1 << 25

#: x + GRIDS[w] has the bits of GRIDS[w] and, added as an integer, of x in units of the word,
#: rounded to the nearest: a unit in the last place of 1.5·2⁵²⁻ᵇ is 2⁻ᵇ.
GRIDS = tuple(math.ldexp(1.5, 52 - bits) for bits in BITS)


def words(x_N: Array) -> list[Array]:
    """The three words of float64 values below `LIMIT`, as int64, the highest first."""
    parts = []
    for grid in GRIDS:
        on_grid_N = x_N + grid
        parts.append(on_grid_N.view(np.int64) - np.float64(grid).view(np.int64))
        x_N = x_N - (on_grid_N - grid)
    return parts


def carried(high: Array, middle: Array, low: Array) -> tuple[Array, Array, Array]:
    """The same sums with lower words from −2³⁷ to 2³⁷ − 1: equal sums have equal words."""
    half = 1 << (STEP - 1)
    over = (low + half) >> STEP
    low, middle = low - (over << STEP), middle + over
    over = (middle + half) >> STEP
    return high + over, middle - (over << STEP), low


def value(high: Array, middle: Array, low: Array) -> Array:
    """Sums in float64, off by less than one unit in the last place."""
    high, middle, low = carried(high, middle, low)
    scales = [2.0**-bits for bits in BITS]
    whole: Array = high * scales[0] + (middle * scales[1] + low * scales[2])
    return whole


def units(x: float) -> int:
    """Any finite value in units of the last word, rounded as its words are.

    Raises `ValueError` for others.
    """
    if not math.isfinite(x):
        raise ValueError("sums are of finite values")
    mantissa, exponent = math.frexp(x)
    # Not ldexp(x, 80): that of a large value is infinite.
    shift = exponent - 53 + BITS[2]
    whole = int(mantissa * 2.0**53)
    return whole << shift if shift >= 0 else round(math.ldexp(x, BITS[2]))
