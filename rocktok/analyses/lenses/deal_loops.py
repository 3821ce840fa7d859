"""Compiled loop of `quantities.shuffled`: the order in which losses are dealt out.

Loops check nothing. Array suffixes: N rows; B buckets of the rows of a sequence.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel
from rocktok.stats.hash_loops import keyed, seeded


@Kernel
def deal_order(
    seed: np.uint64,
    sequence_N: Array,
    position_N: Array,
    hash_N: Array,
    stop_B: Array,
    order_N: Array,
) -> None:
    """Rows of each sequence in ascending order of `hashing.hash_rows` of (sequence, position).

    `hash_N`, `stop_B` (N + 1): room to work. Hashes are spread evenly: each row goes to its bucket,
    and few are left to be moved within it.
    """
    one, half = np.uint64(1), np.uint64(32)
    of_seed = seeded(seed)
    begin, rows = 0, len(sequence_N)
    while begin < rows:
        sequence = sequence_N[begin]
        of_sequence = keyed(of_seed, np.uint64(np.int64(sequence)))
        end = begin
        while end < rows and sequence_N[end] == sequence:
            hash_N[end] = keyed(of_sequence, np.uint64(np.int64(position_N[end])))
            end += 1
        size = np.uint64(end - begin)
        stop_B[: end - begin + 1] = 0
        for i in range(begin, end):
            stop_B[(((hash_N[i] >> half) * size) >> half) + one] += 1
        for b in range(end - begin):
            stop_B[b + 1] += stop_B[b]
        for i in range(begin, end):
            bucket = ((hash_N[i] >> half) * size) >> half
            order_N[begin + stop_B[bucket]] = i
            stop_B[bucket] += 1
        for at in range(begin + 1, end):
            row = order_N[at]
            place = at
            while place > begin and hash_N[order_N[place - 1]] > hash_N[row]:
                order_N[place] = order_N[place - 1]
                place -= 1
            order_N[place] = row
        begin = end
