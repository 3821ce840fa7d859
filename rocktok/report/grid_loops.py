"""Compiled loops of `grid` and `grid_draws`: many types under every setting.

Loops check nothing: indices must be in range. Array suffixes as in `grid`; P rows of the pool; O
offsets around each; T types; N judged occurrences, one type after another; E picks of draws,
likewise; W draws; L labels; B the largest values of a null.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


class Judged(NamedTuple):
    """Judged occurrences of some types, and draws of their nulls.

    Attributes:
        similar_NG, similar_EG: similar partners of each occurrence and each pick at each γ.
        label_N, label_W: whose partners they are not: from 0; −1 where no occurrence has it.
        cluster_N: clusters of prompts. order_N: occurrences of each type by cluster.
        ptr_T, pick_ptr_T: (T + 1,) where those of a type begin.
        pick_E: draws. near_EK: whether a pick is drawn at a distance.
        far_TK: the distance that stands for each; −1: none.
    """

    similar_NG: Array
    similar_EG: Array
    label_N: Array
    label_W: Array
    cluster_N: Array
    order_N: Array
    ptr_T: Array
    pick_ptr_T: Array
    pick_E: Array
    near_EK: Array
    far_TK: Array


@part
def _take(pick_E: Array, near_EK: Array, enough_K: Array, begin: int, end: int) -> int:
    """Keep the picks of a type that are of a distance with enough of them; where they end."""
    place = begin
    for e in range(begin, end):
        some = False
        for k in range(len(enough_K)):
            near_EK[place, k] = near_EK[e, k] and enough_K[k]
            some |= near_EK[place, k]
        pick_E[place] = pick_E[e]
        place += some
    return place


@Kernel
def draw(
    around_PO: Array,
    token_T: Array,
    distance_K: Array,
    most: int,
    least: int,
    pick_E: Array,
    near_EK: Array,
    pick_ptr_T: Array,
    enough_TK: Array,
) -> None:
    """The first `most` rows of a pool with no v within each distance, if `least` are: `enough_TK`.

    `around_PO`: tokens at −reach … reach of each row. `pick_E` has room for `most` rows of each
    type and distance.
    """
    offsets = around_PO.shape[1]
    reach = offsets // 2
    drawn_K = np.zeros(len(distance_K), np.int64)
    place = 0
    pick_ptr_T[0] = 0
    for t in range(len(token_T)):
        token, begin = token_T[t], place
        drawn_K[:] = 0
        for p in range(len(around_PO)):
            near, wanted, some = offsets, False, False
            for o in range(offsets):
                if around_PO[p, o] == token:
                    near = min(near, abs(o - reach))
            for k in range(len(distance_K)):
                takes = near > distance_K[k] and drawn_K[k] < most
                near_EK[place, k] = takes
                drawn_K[k] += takes
                some |= takes
                wanted |= drawn_K[k] < most
            pick_E[place] = p
            place += some
            if not wanted:
                break
        for k in range(len(distance_K)):
            enough_TK[t, k] = drawn_K[k] >= least
        place = _take(pick_E, near_EK, enough_TK[t], begin, place)
        pick_ptr_T[t + 1] = place


@part
def _push(value: float, largest_B: Array, size: int) -> None:
    """Put a value in the place of the smallest of a heap, which stands first."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and largest_B[child + 1] < largest_B[child]:
            child += 1
        if largest_B[child] >= value:
            break
        largest_B[at] = largest_B[child]
        at = child
    largest_B[at] = value


@part
def _rate(similar: int, partners: int) -> float:
    return similar / partners if partners > 0 else 0.0


@Kernel
def judge(
    given: Judged,
    null_share: float,
    eta_H: Array,
    own: int,
    hits_TS: Array,
    votes_TS: Array,
    voters_T: Array,
    rate_N: Array,
    retained_N: Array,
) -> None:
    """Retained occurrences of each type, and votes of its clusters, under every setting.

    `own`: the setting whose γ gives `rate_N`, and which gives `retained_N`. Settings are those at
    each γ: a null at each distance, then each η. Results come in as zeros.
    """
    similar_NG, similar_EG = given.similar_NG, given.similar_EG
    gammas, nulls, etas = similar_NG.shape[1], given.near_EK.shape[1], len(eta_H)
    kinds = nulls + etas
    own_gamma, own_kind = own // kinds, own % kinds
    held_L = np.zeros(len(given.label_N), np.int64)
    count_GK, rate_GK = np.empty((gammas, nulls)), np.empty((gammas, nulls))
    most = 0
    for t in range(len(given.ptr_T) - 1):
        most = max(most, given.pick_ptr_T[t + 1] - given.pick_ptr_T[t])
    partners_D = np.empty(most, np.int64)
    count_B, rate_B = np.empty(most), np.empty(most)
    retained_S = np.zeros(gammas * kinds, np.int64)
    for t in range(len(given.ptr_T) - 1):
        begin, end = given.ptr_T[t], given.ptr_T[t + 1]
        first, last = given.pick_ptr_T[t], given.pick_ptr_T[t + 1]
        for a in range(begin, end):
            held_L[given.label_N[a]] += 1
        for e in range(first, last):
            label = given.label_W[given.pick_E[e]]
            partners_D[e - first] = end - begin - (held_L[label] if label >= 0 else 0)
        for k in range(nulls):
            # Of one that stands for several distances the thresholds are found for the first.
            if given.far_TK[t, k] != k:
                continue
            draws = 0
            for e in range(first, last):
                draws += given.near_EK[e, k]
            size = draws - min(int(np.floor(null_share * draws + 1e-9)), draws - 1)
            for g in range(gammas):
                # The smallest of the `size` largest values; all are 0 or more.
                count_B[:size] = 0.0
                rate_B[:size] = 0.0
                for e in range(first, last):
                    if given.near_EK[e, k] and similar_EG[e, g] > 0:
                        count = float(similar_EG[e, g])
                        rate = _rate(similar_EG[e, g], partners_D[e - first])
                        if count > count_B[0]:
                            _push(count, count_B, size)
                        if rate > rate_B[0]:
                            _push(rate, rate_B, size)
                count_GK[g, k], rate_GK[g, k] = count_B[0], rate_B[0]
        own_judged = own_kind >= nulls or given.far_TK[t, own_kind] >= 0
        at = begin
        while at < end:
            stop, cluster = at, given.cluster_N[given.order_N[at]]
            while stop < end and given.cluster_N[given.order_N[stop]] == cluster:
                a = given.order_N[stop]
                partners = end - begin - held_L[given.label_N[a]]
                for g in range(gammas):
                    similar, rate = similar_NG[a, g], _rate(similar_NG[a, g], partners)
                    if g == own_gamma and own_judged:
                        rate_N[a] = rate
                    for k in range(nulls):
                        far = given.far_TK[t, k]
                        if far >= 0:
                            kept = similar > count_GK[g, far] and rate > rate_GK[g, far]
                            retained_S[g * kinds + k] += kept
                            if g * kinds + k == own:
                                retained_N[a] = kept
                    for h in range(etas):
                        kept = rate >= eta_H[h] and rate > 0
                        retained_S[g * kinds + nulls + h] += kept
                        if g * kinds + nulls + h == own:
                            retained_N[a] = kept
                stop += 1
            for s in range(gammas * kinds):
                hits_TS[t, s] += retained_S[s]
                votes_TS[t, s] += retained_S[s] / (stop - at)
                retained_S[s] = 0
            voters_T[t] += 1
            at = stop
        for a in range(begin, end):
            held_L[given.label_N[a]] = 0
