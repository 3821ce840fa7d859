"""Compiled loops over the rows around an occurrence, for large logs.

Each has a NumPy twin with the same bits, in `windows` and `neighbours`. Loops check nothing:
indices must be in range. Array suffixes: N rows; M some rows; K offsets; R rocks; V token ids; P
pairs.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.stats.accumulator import Batch
from rocktok.stats.hash_loops import keyed, seeded


def columns_of(batch: Batch) -> tuple[Array, Array, Array]:
    """sequence_id, position, token_id, of one kind for the compiler wherever they come from."""
    wanted = {"sequence_id": np.int64, "position": np.int32, "token_id": np.int32}
    views = [np.ascontiguousarray(batch[name], dtype).view() for name, dtype in wanted.items()]
    for view in views:
        view.setflags(write=False)
    sequence_N, position_N, token_N = views
    return sequence_N, position_N, token_N


def near_rows(seed: int, batch: Batch, limit: np.uint64) -> tuple[Array, Array]:
    """Rows of a batch whose hash of (seed, sequence_id, position) is at most a limit; the hashes.

    Twin: `hashing.hash_rows`.
    """
    sequence_N, position_N, _ = columns_of(batch)
    row_M, hash_M = np.empty(len(sequence_N), np.int64), np.empty(len(sequence_N), np.uint64)
    unsigned = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    found = rows_below(unsigned, sequence_N, position_N, np.uint64(limit), row_M, hash_M)
    return row_M[:found].copy(), hash_M[:found].copy()


@part
def _place(apart: int, reach: int, with_own: bool) -> int:
    """Column of an offset among −reach … +reach, with or without 0."""
    return apart + reach - (apart > 0 and not with_own)


@Kernel
def window_tokens(
    sequence_N: Array,
    position_N: Array,
    token_N: Array,
    row_M: Array,
    reach: int,
    with_own: bool,
    window_MK: Array,
) -> None:
    """`windows.window_tokens` at the offsets up to `reach`, that of the row itself or not.

    `window_MK` comes in filled with what stands for no token.
    """
    for m in range(len(row_M)):
        row = row_M[m]
        here, sequence = np.int64(position_N[row]), sequence_N[row]
        if with_own:
            window_MK[m, reach] = token_N[row]
        i = row - 1
        while i >= 0 and sequence_N[i] == sequence and here - position_N[i] <= reach:
            window_MK[m, _place(position_N[i] - here, reach, with_own)] = token_N[i]
            i -= 1
        i = row + 1
        while i < len(token_N) and sequence_N[i] == sequence and position_N[i] - here <= reach:
            window_MK[m, _place(position_N[i] - here, reach, with_own)] = token_N[i]
            i += 1


@Kernel
def rows_below(
    seed: np.uint64,
    sequence_N: Array,
    position_N: Array,
    limit: np.uint64,
    row_M: Array,
    hash_M: Array,
) -> int:
    """Rows whose `hashing.hash_rows` of (sequence, position) is at most a limit, and the hashes.

    `seed`: as uint64. What is made has room for all rows; returns how many there are.
    """
    of_seed = seeded(seed)
    found = 0
    for i in range(len(sequence_N)):
        hashed = keyed(of_seed, np.uint64(np.int64(sequence_N[i])))
        hashed = keyed(hashed, np.uint64(np.int64(position_N[i])))
        row_M[found], hash_M[found] = i, hashed
        found += int(hashed <= limit)
    return found


@Kernel
def look_beside(
    sequence_N: Array,
    position_N: Array,
    token_N: Array,
    hard_N: Array,
    row_M: Array,
    rock_V: Array,
    rank_R: Array,
    reach: int,
    shares: int,
    sum_R4: Array,
    shaded_M: Array,
    pair_P: Array,
) -> int:
    """What stands beside occurrences of rocks: `neighbours.Neighbours`.

    `rock_V`: place of a token id among the rocks, −1 for others. Adds to `sum_R4`, writes which
    occurrences are shaded, and lists pairs (rock · rocks + the one that shades) of the persistent
    ones, of which `pair_P` has room for 2 · reach each. Returns how many.
    """
    pairs, rocks = 0, len(rank_R)
    for m in range(len(row_M)):
        row = row_M[m]
        here, sequence, token = np.int64(position_N[row]), sequence_N[row], token_N[row]
        rock, hard = np.int64(rock_V[token]), hard_N[row]
        others, hard_others, first = 0, 0, pairs
        shaded = False
        for i in range(max(row - reach, 0), min(row + reach + 1, len(token_N))):
            if sequence_N[i] != sequence or abs(position_N[i] - here) > reach:
                continue
            if token_N[i] == token:
                continue
            others += 1
            if not hard_N[i]:
                continue
            hard_others += 1
            other = np.int64(rock_V[token_N[i]])
            if other < 0 or rank_R[other] >= rank_R[rock]:
                continue
            shaded = True
            if hard:
                # Once for an occurrence, however often the other stands beside it.
                new = True
                for p in range(first, pairs):
                    new &= pair_P[p] != rock * rocks + other
                if new:
                    pair_P[pairs] = rock * rocks + other
                    pairs += 1
        shaded_M[m] = shaded
        sum_R4[rock, 0] += hard
        sum_R4[rock, 1] += hard and shaded
        sum_R4[rock, 2] += hard and others > 0
        sum_R4[rock, 3] += shares * hard_others // max(others, 1)
    return pairs
