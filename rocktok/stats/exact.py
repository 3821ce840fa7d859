"""Sums with the same bits in any order of what is added, however it is cut into parts.

Each value is taken apart into digits on fixed grids, powers of 2²², whose sums are exact in float64
(reproducible summation: Demmel and Nguyen 2015). Only the three highest grids that the largest
value of all reaches are kept: what is lost of a value is below 2⁻⁴⁴ of that one.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from rocktok._types import Array

#: Bits of a digit: 2³¹ of them, weights counted, add up exactly.
BITS = 22

DIGITS = 3


class ExactSums:
    """Sums of arrays of one shape, digit by digit. No value may be infinite or NaN."""

    def __init__(self) -> None:
        self._top: int | None = None
        self._digits: list[Array | None] = [None] * DIGITS

    def split(self, values: Array) -> list[Array | None]:
        """Digits of values that are to be added, highest first, as `add` takes them; None: all 0.

        The grids rise to the largest of them.
        """
        largest = float(np.abs(values).max(initial=0.0))
        if largest:
            self._rise(_top_of(largest))
        digits: list[Array | None] = []
        rest = values
        for number in range(DIGITS):
            if self._top is None or not rest.any():
                digits.append(None)
                continue
            grid = math.ldexp(1.0, (self._top - number) * BITS)
            # Toward zero: so a digit is the same, whatever grids are above it.
            digit = np.trunc(rest / grid) * grid
            rest = rest - digit
            digits.append(digit if digit.any() else None)
        return digits

    def rises(self, largest: float) -> bool:
        """Whether values up to this, in absolute value, need higher grids than those so far."""
        return largest > 0 and (self._top is None or _top_of(largest) > self._top)

    def below(self, other: Self) -> bool:
        """Whether its grids rise when another's sums are added."""
        return other._top is not None and self._top is not None and self._top < other._top

    def grids(self, largest: float) -> Array:
        """(DIGITS,) grids of the digits, highest first; they rise to values up to this."""
        self._rise(_top_of(largest))
        assert self._top is not None
        return np.array([math.ldexp(1.0, (self._top - n) * BITS) for n in range(DIGITS)])

    def digit(self, number: int, shape: tuple[int, ...]) -> Array:
        """The sums of the digits of that number, to be added to in place."""
        digit = self._digits[number]
        if digit is None:
            digit = self._digits[number] = np.zeros(shape)
        return digit

    def add(self, number: int, sums: Array) -> None:
        """Add exact sums of the digits of that number, in the shape that all have."""
        digit = self._digits[number]
        if digit is None:
            self._digits[number] = sums.copy()
        else:
            digit += sums

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        if other._top is None:
            return
        self._rise(other._top)
        assert self._top is not None
        below = self._top - other._top
        for number, digit in enumerate(other._digits[: max(0, DIGITS - below)]):
            if digit is not None:
                self.add(number + below, digit)

    def result(self) -> Array | None:
        """The sums, float64; None where nothing but zeros came."""
        whole: Array | None = None
        for digit in reversed(self._digits):
            if digit is not None:
                whole = digit.copy() if whole is None else whole + digit
        return whole

    def _rise(self, top: int) -> None:
        if self._top is not None and top > self._top:
            by = min(DIGITS, top - self._top)
            self._digits = [*[None] * by, *self._digits[: DIGITS - by]]
        self._top = top if self._top is None else max(top, self._top)


def _top_of(largest: float) -> int:
    """Number of the highest grid that a value reaches."""
    # largest < 2^exponent, so that a digit stays below 2^BITS.
    exponent = math.frexp(largest)[1]
    return -(-exponent // BITS) - 1
