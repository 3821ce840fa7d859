"""Compiled loop of `tally`: two lists of sums by key, merged.

Array suffixes: A, B keys of the two; E of both; Q sums of a key.
"""

from __future__ import annotations

from rocktok._types import Array
from rocktok.kernel import Kernel


@Kernel
def merge(
    key_A: Array, sum_AQ: Array, key_B: Array, sum_BQ: Array, key_E: Array, sum_EQ: Array
) -> int:
    """Add up the sums of equal keys; both ascend, and so does what is made. Returns its length.

    `key_E` and `sum_EQ` have room for all keys of both.
    """
    a = b = keys = 0
    sums = sum_AQ.shape[1]
    while a < len(key_A) or b < len(key_B):
        first = b == len(key_B) or (a < len(key_A) and key_A[a] <= key_B[b])
        second = a == len(key_A) or (b < len(key_B) and key_B[b] <= key_A[a])
        key_E[keys] = key_A[a] if first else key_B[b]
        for q in range(sums):
            sum_EQ[keys, q] = 0
            if first:
                sum_EQ[keys, q] += sum_AQ[a, q]
            if second:
                sum_EQ[keys, q] += sum_BQ[b, q]
        a += first
        b += second
        keys += 1
    return keys
