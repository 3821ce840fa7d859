"""Compiled loops of `votes`, for large logs. Each has a NumPy twin there, with the same bits.

Loops check nothing: indices must be in range. Array suffixes: N rows; S sequences; E, I distinct
keys; T types; B strata; V token ids; Q rows, and persistent rows.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


@part
def _stratum(position: np.int64, length: np.int64) -> int:
    if position == 0:
        return 0
    if position == length - 1:
        return 1
    return int(2 + 10 * position // length)


@part
def _sorted_by(digit_N: Array, order_N: Array, buckets: int) -> Array:
    """A stable counting sort of an order by a digit."""
    start_B = np.zeros(buckets + 1, np.int64)
    for i in range(len(digit_N)):
        start_B[np.int64(digit_N[i]) + 1] += 1
    for b in range(buckets):
        start_B[b + 1] += start_B[b]
    sorted_N = np.empty(len(order_N), np.int32)
    for i in range(len(order_N)):
        row = order_N[i]
        digit = np.int64(digit_N[row])
        sorted_N[start_B[digit]] = row
        start_B[digit] += 1
    return sorted_N


@Kernel
def place_sums(
    token_N: Array,
    position_N: Array,
    start_S: Array,
    cluster_S: Array,
    hard_N: Array,
    types: int,
    clusters: int,
    strata: int,
    key_E: Array,
    sum_EQ: Array,
) -> int:
    """Rows and persistent rows by (type · clusters + cluster) · strata + stratum.

    `key_E`, `sum_EQ` have room for a key of every row; returns how many there are, ascending.
    """
    rows = len(token_N)
    stratum_N = np.empty(rows, np.int32)
    cluster_N = np.empty(rows, np.int32)
    order_N = np.empty(rows, np.int32)
    for s in range(len(start_S)):
        stop = start_S[s + 1] if s + 1 < len(start_S) else rows
        length = np.int64(position_N[stop - 1]) + np.int64(1)
        for i in range(start_S[s], stop):
            stratum_N[i] = _stratum(np.int64(position_N[i]), length)
            cluster_N[i] = cluster_S[s]
            order_N[i] = i
    order_N = _sorted_by(stratum_N, order_N, strata)
    if clusters > 1:
        order_N = _sorted_by(cluster_N, order_N, clusters)
    order_N = _sorted_by(token_N, order_N, types)
    keys = 0
    for i in range(rows):
        row = order_N[i]
        key = (np.int64(token_N[row]) * clusters + cluster_N[row]) * strata + stratum_N[row]
        if keys == 0 or key_E[keys - 1] != key:
            key_E[keys] = key
            sum_EQ[keys, 0] = 0
            sum_EQ[keys, 1] = 0
            keys += 1
        sum_EQ[keys - 1, 0] += 1
        sum_EQ[keys - 1, 1] += np.int64(hard_N[row])
    return keys


@Kernel
def count_types(key_I: Array, width: int) -> int:
    """Types of ascending keys: type · width + what is below."""
    types = 0
    stop = np.int64(-1)
    for i in range(len(key_I)):
        if key_I[i] >= stop:
            stop = (key_I[i] // width + 1) * width
            types += 1
    return types


@Kernel
def type_sums(key_I: Array, sum_IQ: Array, width: int, token_T: Array, sum_TBQ: Array) -> None:
    """`hard_sums.type_sums`: the types, and sums by stratum, which come in as zeros."""
    strata = sum_TBQ.shape[1]
    t = -1
    stop = np.int64(-1)
    for i in range(len(key_I)):
        if key_I[i] >= stop:
            t += 1
            token_T[t] = key_I[i] // width
            stop = (token_T[t] + 1) * width
        b = np.uint64(key_I[i]) % np.uint64(strata)
        sum_TBQ[t, b, 0] += sum_IQ[i, 0]
        sum_TBQ[t, b, 1] += sum_IQ[i, 1]


@Kernel
def pair_sums(
    key_I: Array,
    sum_IQ: Array,
    clusters: int,
    token_T: Array,
    ratio_TB: Array,
    pair_E: Array,
    sum_EQ: Array,
    type_E: Array,
    ratio_E: Array,
) -> int:
    """Pairs of a type and a cluster, their sums, the places of their types, and the mean ratios.

    All types of the keys are in `token_T`. What is made has room for all pairs (`count_types` of
    the keys and the number of strata); returns how many there are, ascending.
    """
    strata = ratio_TB.shape[1]
    t, pairs = 0, 0
    ratio = 0.0
    stop = np.int64(-1)
    for i in range(len(key_I)):
        if key_I[i] >= stop:
            pair = key_I[i] // strata
            stop = (pair + 1) * strata
            token = pair // clusters
            while token_T[t] < token:
                t += 1
            pair_E[pairs] = pair
            type_E[pairs] = t
            sum_EQ[pairs, 0] = 0
            sum_EQ[pairs, 1] = 0
            ratio = 0.0
            pairs += 1
        e = pairs - 1
        b = key_I[i] - pair_E[e] * strata
        sum_EQ[e, 0] += sum_IQ[i, 0]
        sum_EQ[e, 1] += sum_IQ[i, 1]
        # One after another, in the order of the strata.
        ratio += np.float64(sum_IQ[i, 0]) * ratio_TB[t, b]
        ratio_E[e] = ratio
    for e in range(pairs):
        ratio_E[e] /= np.float64(sum_EQ[e, 0])
    return pairs


@Kernel
def group_sums(
    token_N: Array,
    position_N: Array,
    start_S: Array,
    cluster_S: Array,
    rate_S: Array,
    hard_N: Array,
    type_V: Array,
    ratio_TB: Array,
    most: float,
    unit: float,
    clusters: int,
    key_E: Array,
    sum_EQ: Array,
) -> int:
    """Rows, persistent rows and units of the expected ones by type · clusters + cluster."""
    rows = len(token_N)
    unit_N = np.empty(rows, np.int64)
    cluster_N = np.empty(rows, np.int32)
    order_N = np.empty(rows, np.int32)
    for s in range(len(start_S)):
        stop = start_S[s + 1] if s + 1 < len(start_S) else rows
        length = np.int64(position_N[stop - 1]) + np.int64(1)
        for i in range(start_S[s], stop):
            b = _stratum(np.int64(position_N[i]), length)
            chance = min(rate_S[s] * ratio_TB[type_V[token_N[i]], b], most)
            unit_N[i] = np.int64(np.rint(chance * unit))
            cluster_N[i] = cluster_S[s]
            order_N[i] = i
    order_N = _sorted_by(cluster_N, order_N, clusters)
    order_N = _sorted_by(token_N, order_N, len(type_V))
    keys = 0
    for i in range(rows):
        row = order_N[i]
        key = np.int64(token_N[row]) * clusters + cluster_N[row]
        if keys == 0 or key_E[keys - 1] != key:
            key_E[keys] = key
            for q in range(3):
                sum_EQ[keys, q] = 0
            keys += 1
        sum_EQ[keys - 1, 0] += 1
        sum_EQ[keys - 1, 1] += np.int64(hard_N[row])
        sum_EQ[keys - 1, 2] += unit_N[row]
    return keys
