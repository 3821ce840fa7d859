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

    def rise(self, largest: float) -> int:
        """Raise the grids to values up to this; returns by how many, where there were any."""
        return self._rise(_top_of(largest)) if largest > 0 else 0

    def rise_to(self, other: Self) -> int:
        """Raise the grids to those of another, as `rise` does."""
        return 0 if other._top is None else self._rise(other._top)

    @property
    def grid_D(self) -> Array:
        """(DIGITS,) grids of the digits, highest first; 0 before there are any."""
        if self._top is None:
            return np.zeros(DIGITS)
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

    def of_rows(self, at: slice, more_TDW: Array | None = None) -> Array | None:
        """`result` for some rows of the shape, with further digits of these: (T, W), or a view."""
        whole_TW: Array | None = None
        # As in `result`, for the same bits.
        for number in reversed(range(DIGITS)):
            digit = self._digits[number]
            digit_TW = None if digit is None else digit[at]
            if more_TDW is not None and number < more_TDW.shape[1]:
                more_TW = more_TDW[:, number]
                digit_TW = more_TW if digit_TW is None else more_TW + digit_TW
            if digit_TW is not None:
                whole_TW = digit_TW if whole_TW is None else whole_TW + digit_TW
        return whole_TW

    def _rise(self, top: int) -> int:
        if self._top is None:
            self._top = top
            return 0
        by = max(0, top - self._top)
        if by:
            lost = min(DIGITS, by)
            self._digits = [*[None] * lost, *self._digits[: DIGITS - lost]]
        self._top += by
        return by


def _top_of(largest: float) -> int:
    """Number of the highest grid that a value reaches."""
    # largest < 2^exponent, so that a digit stays below 2^BITS.
    exponent = math.frexp(largest)[1]
    return -(-exponent // BITS) - 1
