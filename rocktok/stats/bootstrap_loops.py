"""Compiled loops of the bootstrap over prompts: see `rocktok.stats.bootstrap`.

Importing this module imports numba. Loops check nothing: indices must be in range. All sums are of
whole multiples of a grid that float64 holds exactly, so that their order does not matter.

Array suffixes: N rows of a batch; V token ids; T types, with all others as the last; R runs of rows
of one prompt; E pairs of a run and a type; P prompts; B replicates; D digits of a quantity; C
columns, the digits of all quantities side by side; W weights of a prompt, a 1 and those of the
replicates.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, fused_part, part
from rocktok.stats.hash_loops import keyed

#: Weights of four prompts, and as many sums of ten columns, that fit into the nearest cache.
_BLOCK = 256

#: Rows of a pair at most: so many digits of 22 bits and a sign add up within int32.
ROWS_OF_PAIR = 511


@Kernel
def pairs_in_runs(
    table_V: Array, token_N: Array, prompt_N: Array, mark_T: Array,
    pair_N: Array, run_E: Array, type_E: Array, count_E: Array, first_R: Array,
) -> tuple[int, int]:  # fmt: skip
    """Number the pairs of a type and a run of neighbouring rows of one prompt.

    After `ROWS_OF_PAIR` rows another pair of the same begins.

    Args:
        table_V: place of a token id among the types; the last stands for all ids beyond.
        mark_T: −1 each.
        pair_N, run_E, type_E, count_E, first_R: filled, each with room for all rows: the pair of
            each row, run, type and rows of each pair, first row of each run.

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
        if e < start or count_E[e] == ROWS_OF_PAIR:
            e = np.int32(pairs)
            mark_T[at] = e
            run_E[e] = runs - 1
            type_E[e] = at
            count_E[e] = 0
            pairs += 1
        count_E[e] += 1
        pair_N[i] = e
    return runs, pairs


@Kernel
def add_digits(pair_N: Array, x_N: Array, squared: bool, grid_D: Array, sum_ED: Array) -> None:
    """Add the digits of each row's value, or of its square, to those of its pair: (E, D) int32.

    `ExactSums.split` says what a digit is; here in units of its grid.
    """
    high, middle, low = grid_D[0], grid_D[1], grid_D[2]
    for i in range(len(pair_N)):
        rest = np.float64(x_N[i])
        if squared:
            rest *= rest
        e = pair_N[i]
        digit = np.trunc(rest / high)
        sum_ED[e, 0] += np.int32(digit)
        rest -= digit * high
        digit = np.trunc(rest / middle)
        sum_ED[e, 1] += np.int32(digit)
        rest -= digit * middle
        sum_ED[e, 2] += np.int32(np.trunc(rest / low))


@part
def _copy(from_W: Array, to_W: Array) -> None:
    # Of slices: an index that is not plainly from 0 on would keep this from being vectorised.
    for w in range(len(from_W)):
        to_W[w] = from_W[w]


@fused_part
def _add_four(total_W: Array, value_4: Array, weight_4W: Array) -> None:
    """Four pairs at once: each total is loaded and stored once. All exact, fused or not."""
    a, b, c, d = value_4[0], value_4[1], value_4[2], value_4[3]
    one_W, two_W, three_W, four_W = weight_4W[0], weight_4W[1], weight_4W[2], weight_4W[3]
    for w in range(len(total_W)):
        total_W[w] += (a * one_W[w] + b * two_W[w]) + (c * three_W[w] + d * four_W[w])


@fused_part
def _add_four_twice(
    total_W: Array, value_4: Array, other_W: Array, other_4: Array, weight_4W: Array
) -> None:
    """`_add_four` of two columns: each weight is loaded once."""
    a, b, c, d = value_4[0], value_4[1], value_4[2], value_4[3]
    e, f, g, h = other_4[0], other_4[1], other_4[2], other_4[3]
    one_W, two_W, three_W, four_W = weight_4W[0], weight_4W[1], weight_4W[2], weight_4W[3]
    for w in range(len(total_W)):
        p, q, r, s = one_W[w], two_W[w], three_W[w], four_W[w]
        total_W[w] += (a * p + b * q) + (c * r + d * s)
        other_W[w] += (e * p + f * q) + (g * r + h * s)


@Kernel
def weigh_pairs(
    start_T: Array, run_E: Array, place_R: Array, sum_EC: Array, grid_C: Array, filled_C: Array,
    weight_PW: Array, total_TCW: Array,
) -> None:  # fmt: skip
    """Add to each type's sums those of its pairs, times the weights of their prompts.

    Args:
        start_T: (T + 1,), first pair of each type, and the end of the last one's.
        run_E: run of each pair; `place_R`: place of each run's prompt, −1: not to be counted.
        sum_EC: int32 or float64, in units of `grid_C`; only the columns `filled_C` are not all 0.
        weight_PW: uint8.
    """
    columns, weights = len(filled_C), weight_PW.shape[1]
    weight_4W, value_C4 = np.zeros((4, _BLOCK)), np.zeros((columns, 4))
    for t in range(len(start_T) - 1):
        for begin in range(0, weights, _BLOCK):
            end = min(begin + _BLOCK, weights)
            filled = 0
            for e in range(start_T[t], start_T[t + 1]):
                p = place_R[run_E[e]]
                if p >= 0:
                    _copy(weight_PW[p, begin:end], weight_4W[filled])
                    for k in range(columns):
                        c = filled_C[k]
                        value_C4[k, filled] = sum_EC[e, c] * grid_C[c]
                    filled += 1
                if filled == 4 or (filled and e == start_T[t + 1] - 1):
                    value_C4[:, filled:] = 0.0
                    for k in range(1, columns, 2):
                        _add_four_twice(
                            total_TCW[t, filled_C[k - 1], begin:end], value_C4[k - 1],
                            total_TCW[t, filled_C[k], begin:end], value_C4[k], weight_4W,
                        )  # fmt: skip
                    if columns % 2:
                        k = columns - 1
                        _add_four(total_TCW[t, filled_C[k], begin:end], value_C4[k], weight_4W)
                    filled = 0


@Kernel
def poisson_weights(hash_B: Array, prompt_P: Array, cdf: Array, weight_PB: Array) -> None:
    """`bootstrap.poisson_weights`, after a first column of ones.

    `hash_B`: of the seed and the replicate; `weight_PB`: (P, 1 + B) uint8, filled.
    """
    for p in range(len(prompt_P)):
        weight_PB[p, 0] = 1
        for b in range(len(hash_B)):
            hashed = keyed(hash_B[b], prompt_P[p])
            uniform = np.float64(hashed >> np.uint64(11)) * 2.0**-53
            weight = 0
            while weight < len(cdf) and cdf[weight] <= uniform:
                weight += 1
            weight_PB[p, b + 1] = weight
