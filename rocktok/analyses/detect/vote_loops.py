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
def _by_cluster(cluster_S: Array, clusters: int) -> Array:
    """Sequences in the order of their clusters: a stable counting sort."""
    start_C = np.zeros(clusters + 1, np.int64)
    for s in range(len(cluster_S)):
        start_C[cluster_S[s] + 1] += 1
    for c in range(clusters):
        start_C[c + 1] += start_C[c]
    order_S = np.empty(len(cluster_S), np.int64)
    for s in range(len(cluster_S)):
        order_S[start_C[cluster_S[s]]] = s
        start_C[cluster_S[s]] += 1
    return order_S


@part
def _starts(token_N: Array, types: int) -> Array:
    """Where the rows of each type begin, if they stand type by type."""
    start_V = np.zeros(types + 1, np.int32)
    for i in range(len(token_N)):
        start_V[np.int64(token_N[i]) + 1] += 1
    for v in range(types):
        start_V[v + 1] += start_V[v]
    return start_V


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
    start_V = _starts(token_N, types)
    # What is asked of a row, so that the rows are not looked up again in the order of the types.
    place_N = np.empty(rows, np.int64)
    order_S = _by_cluster(cluster_S, clusters)
    for k in range(len(order_S)):
        s = order_S[k]
        stop = start_S[s + 1] if s + 1 < len(start_S) else rows
        length = np.int64(position_N[stop - 1]) + np.int64(1)
        for i in range(start_S[s], stop):
            stratum = _stratum(np.int64(position_N[i]), length)
            place = (cluster_S[s] * strata + stratum) * 2 + np.int64(hard_N[i])
            token = np.int64(token_N[i])
            place_N[start_V[token]] = place
            start_V[token] += 1
    keys = 0
    begin = np.int64(0)
    sum_BQ = np.zeros((strata, 2), np.int64)
    for v in range(types):
        # Each start has moved to the end of its type.
        end = np.int64(start_V[v])
        first = begin
        while first < end:
            cluster = place_N[first] // (2 * strata)
            stop = (cluster + 1) * 2 * strata
            last = first + 1
            while last < end and place_N[last] < stop:
                last += 1
            key = (np.int64(v) * clusters + cluster) * strata
            for k in range(first, last):
                place = place_N[k] - cluster * 2 * strata
                sum_BQ[place // 2, 0] += 1
                sum_BQ[place // 2, 1] += place % 2
            for b in range(strata):
                if sum_BQ[b, 0]:
                    key_E[keys] = key + b
                    for q in range(2):
                        sum_EQ[keys, q] = sum_BQ[b, q]
                        sum_BQ[b, q] = 0
                    keys += 1
            first = last
        begin = end
    return keys


@Kernel
def loss_sums(
    token_N: Array, loss_N: Array, hard_N: Array, most: float, unit: float, sum_VQ: Array
) -> None:
    """Of the persistent rows of each type the number, and whole and part of their losses.

    Losses are at most `most`; parts are counted in units of 1 / `unit`, a power of 2.
    """
    for i in range(len(token_N)):
        if hard_N[i]:
            units = np.rint(min(np.float64(loss_N[i]), most) * unit)
            whole = np.floor(units / unit)
            token = token_N[i]
            sum_VQ[token, 0] += 1
            sum_VQ[token, 1] += np.int64(whole)
            sum_VQ[token, 2] += np.int64(units - whole * unit)


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
def other_rates(prompt_E: Array, sum_EQ: Array, clusters: int, rate_E: Array) -> None:
    """Persistent share among the rows of a prompt without those of a pair; NaN stays if none."""
    sum_CQ = np.zeros((clusters, 2), np.int64)
    for e in range(len(prompt_E)):
        sum_CQ[prompt_E[e], 0] += sum_EQ[e, 0]
        sum_CQ[prompt_E[e], 1] += sum_EQ[e, 1]
    for e in range(len(prompt_E)):
        rows = sum_CQ[prompt_E[e], 0] - sum_EQ[e, 0]
        if rows > 0:
            rate_E[e] = np.float64(sum_CQ[prompt_E[e], 1] - sum_EQ[e, 1]) / np.float64(rows)


@Kernel
def type_votes(
    type_E: Array,
    cluster_E: Array,
    rows_E: Array,
    hard_E: Array,
    chance_E: Array,
    votes_T: Array,
    expected_T: Array,
    count_TQ: Array,
    persistent_TQ: Array,
    prompts_TQ: Array,
) -> None:
    """`tested.hard_tests`: sums of each type over its pairs, in their order; all come in as zeros.

    `count_TQ`: its pairs, and those that vote. The other two are by part of the clusters.
    """
    parts = np.uint64(persistent_TQ.shape[1])
    for e in range(len(type_E)):
        t, q = type_E[e], np.uint64(cluster_E[e]) % parts
        count_TQ[t, 0] += 1
        persistent_TQ[t, q] += hard_E[e]
        prompts_TQ[t, q] += hard_E[e] > 0
        if not np.isnan(chance_E[e]):
            count_TQ[t, 1] += 1
            votes_T[t] += np.float64(hard_E[e]) / np.float64(rows_E[e])
            expected_T[t] += chance_E[e]


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
    start_V = _starts(token_N, len(type_V))
    unit_N, cluster_N = np.empty(rows, np.int64), np.empty(rows, np.int32)
    hard_by_type_N = np.empty(rows, np.bool_)
    order_S = _by_cluster(cluster_S, clusters)
    for k in range(len(order_S)):
        s = order_S[k]
        stop = start_S[s + 1] if s + 1 < len(start_S) else rows
        length = np.int64(position_N[stop - 1]) + np.int64(1)
        for i in range(start_S[s], stop):
            token = np.int64(token_N[i])
            b = _stratum(np.int64(position_N[i]), length)
            chance = min(rate_S[s] * ratio_TB[type_V[token], b], most)
            at = start_V[token]
            unit_N[at], cluster_N[at] = np.int64(np.rint(chance * unit)), cluster_S[s]
            hard_by_type_N[at] = hard_N[i]
            start_V[token] += 1
    keys, begin = 0, np.int64(0)
    for v in range(len(type_V)):
        # Each start has moved to the end of its type.
        end = np.int64(start_V[v])
        for i in range(begin, end):
            key = np.int64(v) * clusters + cluster_N[i]
            if keys == 0 or key_E[keys - 1] != key:
                key_E[keys] = key
                for q in range(3):
                    sum_EQ[keys, q] = 0
                keys += 1
            sum_EQ[keys - 1, 0] += 1
            sum_EQ[keys - 1, 1] += np.int64(hard_by_type_N[i])
            sum_EQ[keys - 1, 2] += unit_N[i]
        begin = end
    return keys
