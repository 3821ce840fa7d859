"""Compiled loops of the bootstrap over prompts: see `rocktok.stats.bootstrap`.

Importing this module imports numba. Loops check nothing: indices must be in range. All sums are of
whole multiples of a grid that float64 holds exactly, so that their order does not matter.

Array suffixes: N rows of a batch; V token ids; T types, with all others as the last; R runs of rows
of one prompt; E pairs of a run and a type; P prompts; B replicates; D digits of a quantity.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part

#: Replicates whose weights, of some hundred prompts, fit into a processor's cache.
_BLOCK = 128


@Kernel
def pairs_in_runs(
    table_V: Array, token_N: Array, prompt_N: Array, mark_T: Array,
    pair_N: Array, run_E: Array, type_E: Array, first_R: Array,
) -> tuple[int, int]:  # fmt: skip
    """Number the pairs of a type and a run of neighbouring rows of one prompt.

    Args:
        table_V: place of a token id among the types; the last stands for all ids beyond.
        mark_T: −1 each.
        pair_N, run_E, type_E, first_R: filled, each with room for all rows: the pair of each row,
            run and type of each pair, first row of each run.

    Returns the number of runs and of pairs.
    """
    last = len(table_V) - 1
    runs = pairs = start = 0
    before = np.uint64(0)
    for i in range(len(token_N)):
        if i == 0 or prompt_N[i] != before:
            before = prompt_N[i]
            first_R[runs] = i
            runs += 1
            start = pairs
        v = np.int64(token_N[i])
        at = table_V[v if v < last else last]
        e = mark_T[at]
        # Marks of earlier runs lie below.
        if e < start:
            e = np.int32(pairs)
            mark_T[at] = e
            run_E[e] = runs - 1
            type_E[e] = at
            pairs += 1
        pair_N[i] = e
    return runs, pairs


@Kernel
def add_digits(pair_N: Array, x_N: Array, squared: bool, grid_D: Array, sum_ED: Array) -> None:
    """Add the digits of each row's value, or of its square, to those of its pair.

    `ExactSums.split` says what a digit is.
    """
    high, middle, low = grid_D[0], grid_D[1], grid_D[2]
    for i in range(len(pair_N)):
        rest = np.float64(x_N[i])
        if squared:
            rest *= rest
        e = pair_N[i]
        digit = np.trunc(rest / high) * high
        sum_ED[e, 0] += digit
        rest -= digit
        digit = np.trunc(rest / middle) * middle
        sum_ED[e, 1] += digit
        rest -= digit
        sum_ED[e, 2] += np.trunc(rest / low) * low


@Kernel
def weigh_pairs(
    start_T: Array, place_E: Array, sum_E: Array, weight_PB: Array, sum_TB: Array
) -> None:
    """Add to each type's sums those of its pairs, times the weights of their prompts.

    Args:
        start_T: (T + 1,), first pair of each type, and the number of pairs.
        place_E: place of each pair's prompt.
    """
    width = weight_PB.shape[1]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        for t in range(len(start_T) - 1):
            total_B = sum_TB[t, begin:end]
            for e in range(start_T[t], start_T[t + 1]):
                value = sum_E[e]
                if value == 0.0:
                    continue
                weight_B = weight_PB[place_E[e], begin:end]
                for b in range(end - begin):
                    total_B[b] += value * weight_B[b]


@part
def _mix(x: np.uint64) -> np.uint64:
    """`hashing.mix`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@Kernel
def poisson_weights(hash_B: Array, prompt_P: Array, cdf: Array, weight_PB: Array) -> None:
    """`bootstrap.poisson_weights`, after a first column of ones.

    `hash_B`: of the seed and the replicate; `weight_PB`: (P, 1 + B), filled.
    """
    for p in range(len(prompt_P)):
        weight_PB[p, 0] = 1.0
        # As `hashing.hash_rows` takes in another key.
        key = np.uint64(0x9E3779B97F4A7C15) * (prompt_P[p] + np.uint64(1))
        for b in range(len(hash_B)):
            hashed = _mix(hash_B[b] + key)
            uniform = np.float64(hashed >> np.uint64(11)) * 2.0**-53
            weight = 0
            while weight < len(cdf) and cdf[weight] <= uniform:
                weight += 1
            weight_PB[p, b + 1] = weight
