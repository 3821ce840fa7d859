"""Compiled loops of `cells`: sums by prompt and cell.

Loops check nothing: indices must be in range. Array suffixes: N rows; E pairs of a prompt and a
cell.
"""

from __future__ import annotations

from rocktok._types import Array
from rocktok.kernel import Kernel


@Kernel
def count(place_N: Array, cell_N: Array, cells: int, sum_E: Array) -> None:
    """Count the rows of each prompt in each of so many cells; comes in as zeros."""
    for i in range(len(place_N)):
        sum_E[place_N[i] * cells + cell_N[i]] += 1.0


@Kernel
def add(place_N: Array, cell_N: Array, cells: int, values_N: Array, sum_E: Array) -> None:
    """Add up values of the rows of each prompt in each of so many cells; comes in as zeros."""
    for i in range(len(place_N)):
        sum_E[place_N[i] * cells + cell_N[i]] += values_N[i]
