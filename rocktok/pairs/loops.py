"""Compiled loops that count similar pairs of sparse rows: an inverted index with a dense head.

The most frequent columns (the head) hold most of the postings and little of the weight. Scores are
added up in float32 from the postings of the other columns (the tail), for one row of ours and a
block of theirs at a time. The heads add at most what the largest value of each column in a group of
rows would: only groups in which a score can reach the threshold with it get the head's columns
added. Rows with the same columns in the head stand side by side, so these are few. Only pairs that
float32 cannot call are added up anew in float64, in the reference's order.

Everything here is called through `rocktok.pairs.count`.

Rows are distinct here. Array suffixes: R rows of ours; T rows of theirs, in a block; E entries of
rows; C columns; P postings; G, B groups of L lanes; K slots of the head; U, S units (a row under a
label) of ours and of theirs.

Arrays are taken out of their tuples before a loop: inside, each access would count references.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part
from rocktok.pairs.lanes import LANES, above, above_sloped, add_columns, lowest_bit
from rocktok.pairs.merge import PackedRows


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
    lose.
    """

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
    slope_T: Array
    weight_T: Array
    most_KG: Array
    slope_G: Array


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

    score_T, like_T: as long as the longest block; least_G: as long as it has groups of lanes.
    similar_R: similar rows of theirs; own_U: those under the own label.
    """

    ours: PackedRows
    theirs: PackedRows
    split: Split
    test: Limits
    rule: Rule
    weight_R: Array
    score_T: Array
    like_T: Array
    least_G: Array
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
def _clear(score_L: Array) -> None:
    for b in range(LANES):
        score_L[b] = np.float32(0)


@part
def _set_least(work: Work, block: Block, a: int, groups: int) -> None:
    """Set least_G: similar to row a are only rows whose scores are above it, before the head's
    columns are added.
    """
    least_G, slope_G = work.least_G, block.slope_G
    begin, end = work.split.head_ptr_R[a], work.split.head_ptr_R[a + 1]
    slot_E, value_E = work.split.head_slot_E[begin:end], work.split.head_value_E[begin:end]
    slope = work.test.slope_R[a]
    # Twice the margin: what the heads add at most is added up in float32, too.
    cut = work.test.limit_R[a] - np.float32(2) * work.test.margin_R[a]
    for g in range(groups):
        least_G[g] = cut + slope * slope_G[g]
    for e in range(len(slot_E)):
        value, largest_G = value_E[e], block.most_KG[slot_E[e]]
        for g in range(groups):
            least_G[g] -= value * largest_G[g]


@part
def _count(work: Work, block: Block, a: int, last: int, mirrored: bool) -> int:
    """Add the head's columns, and count the similar rows for row a and (mirrored) for them.

    Clears all scores.
    """
    ours, theirs, rule, start = work.ours, work.theirs, work.rule, block.start
    score_T, like_T, similar_R, least_G = work.score_T, work.like_T, work.similar_R, work.least_G
    slope_T, weight_T, size_T = block.slope_T, block.weight_T, theirs.size_R
    head_T, slots = block.head_BKL.reshape(-1), block.head_BKL.shape[1]
    slot_E, value_E = work.split.head_slot_E, work.split.head_value_E
    begin, end = work.split.head_ptr_R[a], work.split.head_ptr_R[a + 1]
    slope, limit, margin = work.test.slope_R[a], work.test.limit_R[a], work.test.margin_R[a]
    size, weight = ours.size_R[a], work.weight_R[a]
    count = 0
    for g in range((last + LANES - 1) // LANES):
        at = g * LANES
        if above(score_T, at, least_G[g]) != 0:
            add_columns(score_T, at, head_T, at * slots, slot_E, value_E, begin, end)
            near = above_sloped(score_T, slope_T, at, slope, limit - margin)
            # Rows past the last got the head's columns, too.
            if last - at < LANES:
                near &= (np.uint64(1) << np.uint64(last - at)) - np.uint64(1)
            similar = near & above_sloped(score_T, slope_T, at, slope, limit + margin)
            near ^= similar
            while near != 0:
                t = np.uint64(at) + lowest_bit(near)
                # Too near for float32, but whole numbers add up exactly in any order.
                dot = float(score_T[t]) if rule.whole else dot_product(ours, a, theirs, start + t)
                if alike(rule, dot, size, size_T[start + t]):
                    similar |= near & (~near + np.uint64(1))
                near &= near - np.uint64(1)
            while similar != 0:
                t = np.uint64(at) + lowest_bit(similar)
                similar &= similar - np.uint64(1)
                like_T[t] = a + 1
                count += weight_T[t]
                if mirrored:
                    similar_R[np.uint64(start) + t] += weight
        _clear(score_T[at : at + LANES])
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

    `mirrored`: ours are theirs, and a pair is looked at once, from its later row.
    """
    work.like_T[:] = 0
    for a in range(begin, end):
        last = min(block.length, a - block.start) if mirrored else block.length
        if last <= 0:
            continue
        _add_tail(work, block, a, last)
        _set_least(work, block, a, (last + LANES - 1) // LANES)
        count = _count(work, block, a, last, mirrored)
        work.similar_R[a] += count
        if count and len(units.label_ptr_L):
            _count_own(work, units, block.start, last, a, mirrored)
