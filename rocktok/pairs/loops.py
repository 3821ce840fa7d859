"""Compiled loops that count similar pairs of sparse rows: an inverted index with a dense head.

The most frequent columns (the head) hold most of the postings and little of the weight. Scores are
added up in float32 from the postings of the other columns (the tail), for one row of ours and a
block of theirs at a time. The heads add at most what the largest value of each column in a group of
rows would, and by Cauchy and Schwarz at most the product of their lengths: only groups in which
both bounds reach the threshold get the head's columns added. Rows with the same columns in the
head stand side by side, so these are few. Only pairs that float32 cannot call are added up anew in
float64, in the reference's order.

Everything here is called through `rocktok.pairs.count`.

Rows are distinct here. Array suffixes: R rows of ours; T rows of theirs, in a block; E entries of
rows; C columns; P postings; G, B groups of L lanes; K slots of the head; U, S units (a row under a
label) of ours and of theirs.

Arrays are taken out of their tuples before a loop: inside, each access would count references.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.pairs.merge import PackedRows

#: Rows of theirs that are looked at together: fixed, so that the loops over them vectorise.
LANES = 64


class Split(NamedTuple):
    """Rows in float32, cut into the columns of the tail and those of the head (by slot)."""

    tail_ptr_R: Array
    tail_column_E: Array
    tail_value_E: Array
    head_ptr_R: Array
    head_slot_E: Array
    head_value_E: Array


class Limits(NamedTuple):
    """A pair is similar when dot − slope·slope_T − limit ≥ 0, up to `margin`, which float32 may
    lose. `bound_R`: the length of the head's part, so that bound·bound_T is the most it can add.
    """

    bound_R: Array
    slope_R: Array
    limit_R: Array
    margin_R: Array


class Block(NamedTuple):
    """Rows of theirs from `start` on, at most 65,536, padded to whole groups of `LANES`: postings
    of the tail's columns; the head's columns dense; of each group the largest value of
    each column of the head, and the least slope.
    """

    start: int
    length: int
    post_ptr_C: Array
    post_row_P: Array
    post_value_P: Array
    head_BKL: Array
    bound_T: Array
    slope_T: Array
    weight_T: Array
    most_KG: Array
    least_G: Array


class Units(NamedTuple):
    """Rows under labels. Ours, by row: `unit_ptr_R` into number, label (−1: none of theirs has it)
    and weight. Theirs, by label: `label_ptr_L` into row (ascending) and weight.
    """

    unit_ptr_R: Array
    number_U: Array
    label_U: Array
    weight_U: Array
    label_ptr_L: Array
    row_S: Array
    weight_S: Array


class Rule(NamedTuple):
    """How a dot product is judged: kind 0 cosine, 1 Jaccard, 2 positional (of `offsets`).

    `whole`: all values are whole numbers, whose float32 sums are exact in any order.
    """

    kind: int
    threshold: float
    offsets: float
    whole: bool


class Work(NamedTuple):
    """What one thread works with: rows, and arrays of its own that it writes.

    score_T, like_T: as long as the longest block; at_G, most_G: as many as it has groups of
    lanes; near_L: as long as one. similar_R: similar rows of theirs; own_U: those under the own
    label.
    """

    ours: PackedRows
    theirs: PackedRows
    split: Split
    test: Limits
    rule: Rule
    weight_R: Array
    score_T: Array
    like_T: Array
    at_G: Array
    most_G: Array
    near_L: Array
    similar_R: Array
    own_U: Array


@Kernel
def split_rows(rows: PackedRows, slot_C: Array, column_C: Array, scaled: bool, into: Split) -> None:
    """Cut rows into tail and head. `slot_C`: −1 for the tail; `column_C`: −1 drops a column."""
    tail = head = 0
    for i in range(len(rows.size_R)):
        size = rows.size_R[i] if scaled else 1.0
        usable = size > 0 and size < np.inf
        for e in range(rows.ptr_R[i], rows.ptr_R[i + 1]):
            column = rows.column_E[e]
            if not usable or column_C[column] < 0:
                continue
            value = np.float32(rows.value_E[e] / size)
            if slot_C[column] >= 0:
                into.head_slot_E[head], into.head_value_E[head] = slot_C[column], value
                head += 1
            else:
                into.tail_column_E[tail], into.tail_value_E[tail] = column_C[column], value
                tail += 1
        into.tail_ptr_R[i + 1], into.head_ptr_R[i + 1] = tail, head


@Kernel
def fill_block(rows: Split, block: Block) -> None:
    """Write the postings, in ascending row, and the head. `post_ptr_C` comes in as zeros."""
    next_C = block.post_ptr_C
    begin, end = rows.tail_ptr_R[block.start], rows.tail_ptr_R[block.start + block.length]
    for e in range(begin, end):
        next_C[rows.tail_column_E[e] + 2] += 1
    for c in range(2, len(next_C)):
        next_C[c] += next_C[c - 1]
    for b in range(block.length):
        i = block.start + b
        for e in range(rows.tail_ptr_R[i], rows.tail_ptr_R[i + 1]):
            at = next_C[rows.tail_column_E[e] + 1]
            block.post_row_P[at], block.post_value_P[at] = b, rows.tail_value_E[e]
            next_C[rows.tail_column_E[e] + 1] += 1
        for e in range(rows.head_ptr_R[i], rows.head_ptr_R[i + 1]):
            group, slot, value = b // LANES, rows.head_slot_E[e], rows.head_value_E[e]
            block.head_BKL[group, slot, b % LANES] = value
            block.most_KG[slot, group] = max(block.most_KG[slot, group], value)


@part
def dot_product(ours: PackedRows, a: int, theirs: PackedRows, b: int) -> float:
    """Sum in ascending column id, in float64, as a sparse matrix product adds it up."""
    left_E, right_E, x_E, y_E = ours.column_E, theirs.column_E, ours.value_E, theirs.value_E
    total = 0.0
    i, j = ours.ptr_R[a], theirs.ptr_R[b]
    i_end, j_end = ours.ptr_R[a + 1], theirs.ptr_R[b + 1]
    while i < i_end and j < j_end:
        left, right = left_E[i], right_E[j]
        if left == right:
            total += x_E[i] * y_E[j]
        i += left <= right
        j += right <= left
    return total


@part
def likeness(rule: Rule, dot: float, size: float, other: float) -> float:
    """The reference's own arithmetic."""
    if rule.kind == 0:
        scale = size * other
    elif rule.kind == 1:
        scale = size + other - dot
    else:
        scale = rule.offsets
    return dot / scale


@part
def alike(rule: Rule, dot: float, size: float, other: float) -> bool:
    """Whether the threshold is reached; a dot product of 0 is no entry of a sparse product."""
    return bool(dot != 0 and likeness(rule, dot, size, other) >= rule.threshold)


@Kernel
def like_itself(rows: PackedRows, rule: Rule, like_R: Array) -> None:
    """Which rows are similar to themselves: all but empty ones, or those of no weight."""
    for i in range(len(like_R)):
        like_R[i] = alike(rule, dot_product(rows, i, rows, i), rows.size_R[i], rows.size_R[i])


@part
def _add_tail(work: Work, block: Block, a: int, last: int) -> None:
    """Add what the tails share, from the postings of row a's columns."""
    score_T, ptr_C = work.score_T, block.post_ptr_C
    row_P, value_P = block.post_row_P, block.post_value_P
    column_E, value_E = work.split.tail_column_E, work.split.tail_value_E
    for e in range(work.split.tail_ptr_R[a], work.split.tail_ptr_R[a + 1]):
        value = value_E[e]
        for p in range(ptr_C[column_E[e]], ptr_C[column_E[e] + 1]):
            # Unsigned: no test for an index from the end.
            row = row_P[np.uint64(p)]
            if row >= last:
                break
            score_T[row] += value * value_P[np.uint64(p)]


@part
def _reaches(
    score_L: Array, bound_L: Array, slope_L: Array, bound: Any, slope: Any, cut: Any
) -> bool:
    """Whether some lane's score + bound·bound − slope·slope reaches the cut."""
    hit = np.int32(0)
    for b in range(LANES):
        hit |= np.int32(score_L[b] + bound * bound_L[b] - slope * slope_L[b] >= cut)
    return bool(hit != 0)


@part
def _clear(score_L: Array) -> None:
    for b in range(LANES):
        score_L[b] = np.float32(0)


@part
def _some_reach(score_L: Array, cut: Any) -> bool:
    hit = np.int32(0)
    for b in range(LANES):
        hit |= np.int32(score_L[b] >= cut)
    return bool(hit != 0)


@part
def _promising(work: Work, block: Block, a: int, last: int) -> int:
    """List in at_G the groups with a row that may be similar, whatever the heads share.

    Scores of the others are cleared, while they are at hand.
    """
    score_T, bound_T, slope_T, at_G = work.score_T, block.bound_T, block.slope_T, work.at_G
    most_G, least_G = work.most_G, block.least_G
    begin, end = work.split.head_ptr_R[a], work.split.head_ptr_R[a + 1]
    slot_E, value_E = work.split.head_slot_E[begin:end], work.split.head_value_E[begin:end]
    bound, slope = work.test.bound_R[a], work.test.slope_R[a]
    cut = work.test.limit_R[a] - work.test.margin_R[a]
    groups = (last + LANES - 1) // LANES
    most_G[:groups] = np.float32(0)
    for e in range(len(slot_E)):
        value, largest_G = value_E[e], block.most_KG[slot_E[e]]
        for g in range(groups):
            most_G[g] += value * largest_G[g]
    groups = 0
    for at in range(0, last, LANES):
        score_L = score_T[at : at + LANES]
        least = cut - most_G[at // LANES] + slope * least_G[at // LANES]
        if _some_reach(score_L, least - work.test.margin_R[a]):
            bound_L, slope_L = bound_T[at : at + LANES], slope_T[at : at + LANES]
            if _reaches(score_L, bound_L, slope_L, bound, slope, cut):
                at_G[groups] = at
                groups += 1
                continue
        _clear(score_L)
    return groups


@part
def _add_head(work: Work, block: Block, a: int, groups: int) -> int:
    """Add what the heads share in the listed groups; keep those with a row that is similar."""
    score_T, slope_T, at_G, head_BKL = work.score_T, block.slope_T, work.at_G, block.head_BKL
    begin, end = work.split.head_ptr_R[a], work.split.head_ptr_R[a + 1]
    slot_E, value_E = work.split.head_slot_E[begin:end], work.split.head_value_E[begin:end]
    slope, cut = work.test.slope_R[a], work.test.limit_R[a] - work.test.margin_R[a]
    kept = 0
    for g in range(groups):
        at = at_G[g]
        score_L, slope_L = score_T[at : at + LANES], slope_T[at : at + LANES]
        for e in range(len(slot_E)):
            head_L = head_BKL[at // LANES, slot_E[e]]
            for b in range(LANES):
                score_L[b] += value_E[e] * head_L[b]
        if _reaches(score_L, slope_L, slope_L, np.float32(0), slope, cut):
            at_G[kept] = at
            kept += 1
        else:
            _clear(score_L)
    return kept


@part
def _count(work: Work, block: Block, a: int, last: int, groups: int, mirrored: bool) -> int:
    """Count the similar rows in the listed groups, for row a and (mirrored) for them.

    Clears their scores.
    """
    ours, theirs, rule, start = work.ours, work.theirs, work.rule, block.start
    score_T, like_T, similar_R = work.score_T, work.like_T, work.similar_R
    slope_T, weight_T, size_T, at_G = block.slope_T, block.weight_T, theirs.size_R, work.at_G
    slope, limit, margin = work.test.slope_R[a], work.test.limit_R[a], work.test.margin_R[a]
    size, weight = ours.size_R[a], work.weight_R[a]
    near_L = work.near_L
    count = 0
    for g in range(groups):
        near, at = 0, np.uint64(at_G[g])
        # Listed without a branch: few are near, and which ones cannot be foretold.
        for b in range(min(LANES, last - at_G[g])):
            t = at + np.uint64(b)
            near_L[near] = t
            near += score_T[t] - slope * slope_T[t] - limit >= -margin
        for k in range(near):
            t = near_L[np.uint64(k)]
            excess = score_T[t] - slope * slope_T[t] - limit
            if excess <= margin:
                # Too near for float32, but whole numbers add up exactly in any order.
                dot = float(score_T[t]) if rule.whole else dot_product(ours, a, theirs, start + t)
                if not alike(rule, dot, size, size_T[start + t]):
                    continue
            like_T[t] = a + 1
            count += weight_T[t]
            if mirrored:
                similar_R[start + t] += weight
        _clear(score_T[at_G[g] : at_G[g] + LANES])
    return count


@part
def _first_from(row_S: Array, begin: int, end: int, row: int) -> int:
    """Index of the first of ascending rows that is not below `row`."""
    while begin < end:
        middle = (begin + end) // 2
        if row_S[middle] < row:
            begin = middle + 1
        else:
            end = middle
    return begin


@part
def _count_own(work: Work, units: Units, start: int, last: int, a: int, mirrored: bool) -> None:
    """Of the similar rows just marked, count those that share a label with units of row a."""
    like_T, own_U, row_S, weight_S = work.like_T, work.own_U, units.row_S, units.weight_S
    for u in range(units.unit_ptr_R[a], units.unit_ptr_R[a + 1]):
        label, weight = units.label_U[u], units.weight_U[u]
        if label < 0:
            continue
        end = units.label_ptr_L[label + 1]
        s = _first_from(row_S, units.label_ptr_L[label], end, start)
        count = 0
        while s < end and row_S[s] < start + last:
            if like_T[row_S[s] - start] == a + 1:
                count += weight_S[s]
                if mirrored:
                    own_U[s] += weight
            s += 1
        own_U[units.number_U[u]] += count


@Kernel
def count_pairs(
    begin: int, end: int, mirrored: bool, work: Work, block: Block, units: Units
) -> None:
    """Count, for rows begin … end − 1 of ours, similar rows in a block of theirs.

    `mirrored`: ours are theirs, and a pair is looked at once, from its later row. One loop after
    the other over all of the block: nested deeper, they would not vectorise.
    """
    work.like_T[:] = 0
    for a in range(begin, end):
        last = min(block.length, a - block.start) if mirrored else block.length
        if last <= 0:
            continue
        _add_tail(work, block, a, last)
        groups = _promising(work, block, a, last)
        groups = _add_head(work, block, a, groups)
        count = _count(work, block, a, last, groups, mirrored)
        work.similar_R[a] += count
        if count and len(units.label_ptr_L):
            _count_own(work, units, block.start, last, a, mirrored)
