"""Rows made ready for the loops: equal ones merged, an inverted index with a dense head, labels.

`rocktok.pairs.count` is what callers use; it imports this module, and numba with it, late.

Array suffixes: N given rows; E entries of rows; C columns; R distinct rows of ours, D of theirs;
U, S units (a distinct row under a label) of ours, of theirs; L labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.pairs import lanes, loops, merge
from rocktok.pairs.rows import KINDS, PairRule, SparseRows

#: Most frequent columns that are kept dense: enough to leave short postings, few enough that the
#: bound on what they add stays small.
HEAD = 40

#: Rows of theirs in a block: their scores stay in a core's cache, and an index fits in 16 bits.
BLOCK = 1 << 16

#: Column ids above which they are numbered anew, as such, or relative to the number of entries.
WIDE = 1 << 22
SPARSE = 32


def checked(rows: SparseRows) -> SparseRows:
    """The rows in the types that the loops are compiled for; ValueError if those would run wild."""
    ptr_N, column_E = (np.ascontiguousarray(a, dtype=np.int64) for a in (rows.ptr_N, rows.column_E))
    value_E, size_N = (np.ascontiguousarray(a, dtype=float) for a in (rows.value_E, rows.size_N))
    whole = len(ptr_N) == len(size_N) + 1 and ptr_N[0] == 0 and np.all(np.diff(ptr_N) >= 0)
    if not whole or not ptr_N[-1] == len(column_E) == len(value_E):
        raise ValueError("the rows' arrays do not fit together")
    if column_E.min(initial=0) < 0:
        raise ValueError("negative column id")
    return SparseRows(ptr_N, column_E, value_E, size_N)


def narrow(ours: SparseRows, theirs: SparseRows) -> tuple[SparseRows, SparseRows]:
    """The same rows with small column ids: arrays by column are as long as the largest id."""
    entries = len(ours.column_E) + len(theirs.column_E)
    if _width(ours, theirs) <= min(WIDE, SPARSE * entries):
        return ours, theirs
    both_E = np.concatenate((ours.column_E, theirs.column_E))
    column_E = np.unique(both_E, return_inverse=True)[1]
    cut = len(ours.column_E)
    return replace(ours, column_E=column_E[:cut]), replace(theirs, column_E=column_E[cut:])


def loop_rule(rule: PairRule, ours: SparseRows, theirs: SparseRows) -> Any:
    """The rule as the loops take it."""
    largest = max(float(rows.size_N.max(initial=0.0)) for rows in (ours, theirs))
    # Float32 holds whole numbers up to 2^24, and adds them up exactly.
    whole = rule.kind != "surprisal" and largest * largest < 1 << 24
    return loops.Rule(KINDS[rule.kind], float(rule.threshold), float(rule.offsets), whole)


@dataclass(frozen=True)
class Columns:
    """slot_C: place in the head, −1 outside; column_C: dense number, −1 if theirs lack it."""

    slot_C: Array
    column_C: Array
    head: int
    count: int

    @classmethod
    def of(cls, theirs: SparseRows, length: int) -> Columns:
        """Columns by how many of their rows have them; `length`: one more than the largest id."""
        frequency_C = np.bincount(theirs.column_E, minlength=length)
        present_P = np.flatnonzero(frequency_C)
        column_C, slot_C = (np.full(length, -1, dtype=np.int32) for _ in range(2))
        column_C[present_P] = np.arange(len(present_P))
        top = present_P
        if len(present_P) > HEAD:
            top = present_P[np.argpartition(-frequency_C[present_P], HEAD)[:HEAD]]
        top = top[np.argsort(-frequency_C[top], kind="stable")]
        slot_C[top] = np.arange(len(top))
        return cls(slot_C, column_C, len(top), len(present_P))


@dataclass(frozen=True)
class Distinct:
    """Distinct rows: how often each was given (weight), and which one each given row is (row_N).

    rows: float64, as given; split: float32, for the loops; bound_R: length of the head's part.
    """

    rows: Any
    split: Any
    weight_R: Array
    row_N: Array
    bound_R: Array

    @classmethod
    def of(cls, source: SparseRows, columns: Columns, rule: Any, *, sort: bool) -> Distinct:
        """Merge equal rows; `sort`: those with the same columns in the head side by side."""
        row_N, first_R = _group(source)
        if sort:
            bits_R = np.empty(len(first_R), dtype=np.int64)
            merge.head_bits(_rows(source), first_R, columns.slot_C, columns.head, bits_R)
            order = np.argsort(bits_R, kind="stable")
            first_R = first_R[order]
            rank_R = np.empty(len(order), dtype=np.int64)
            rank_R[order] = np.arange(len(order))
            row_N = rank_R[row_N]
        rows = _take(source, first_R)
        weight_R = np.bincount(row_N, minlength=len(first_R))
        length_R = np.empty(len(first_R))
        head = merge.head_lengths(rows, columns.slot_C, length_R)
        split = _split(rows, columns, rule, head)
        return cls(rows, split, weight_R, row_N, _bounds(length_R, rows, rule))


def _width(ours: SparseRows, theirs: SparseRows) -> int:
    return 1 + max(int(rows.column_E.max(initial=-1)) for rows in (ours, theirs))


def _rows(rows: SparseRows) -> Any:
    return merge.PackedRows(rows.ptr_N, rows.column_E, rows.value_E, rows.size_N)


def _group(rows: SparseRows) -> tuple[Array, Array]:
    """(group of each row, first row of each group) of equal rows."""
    hash_N = np.empty(len(rows), dtype=np.uint64)
    merge.hash_rows(_rows(rows), rows.value_E.view(np.int64), hash_N)
    group_N, first_R = (np.empty(len(rows), dtype=np.int64) for _ in range(2))
    order = np.argsort(hash_N, kind="stable")
    groups = merge.group_rows(_rows(rows), hash_N, order, group_N, first_R)
    return group_N, first_R[:groups]


def _take(rows: SparseRows, pick_R: Array) -> Any:
    ptr_R = np.zeros(len(pick_R) + 1, dtype=np.int64)
    np.cumsum(np.diff(rows.ptr_N)[pick_R], out=ptr_R[1:])
    column_E, value_E = np.empty(ptr_R[-1], dtype=np.int64), np.empty(ptr_R[-1])
    into = merge.PackedRows(ptr_R, column_E, value_E, rows.size_N[pick_R])
    merge.take_rows(_rows(rows), pick_R, into)
    return into


def _bounds(length_R: Array, rows: Any, rule: Any) -> Array:
    """(R,) float64: length of each row's part in the head, where values are scaled scaled too."""
    if not rule.whole:
        usable_R = (rows.size_R > 0) & np.isfinite(rows.size_R)
        np.divide(length_R, rows.size_R, out=length_R, where=usable_R)
        length_R[~usable_R] = 0.0
    return length_R


def _split(rows: Any, columns: Columns, rule: Any, head: int) -> Any:
    """`head`: entries of the rows in the head's columns."""
    arrays = []
    for entries in (len(rows.column_E) - head, head):
        arrays += [np.zeros(len(rows.ptr_R), dtype=np.int64)]
        arrays += [np.zeros(entries, dtype=np.int32), np.zeros(entries, dtype=np.float32)]
    split = loops.Split(*arrays)
    loops.split_rows(rows, columns.slot_C, columns.column_C, not rule.whole, split)
    return split


def make_blocks(theirs: Distinct, columns: Columns, rule: Any) -> list[Any]:
    """Theirs, cut into blocks, each with its index."""
    blocks = []
    slope_D = slopes(theirs.rows.size_R, rule)[1]
    for start in range(0, len(theirs.weight_R), BLOCK):
        rows = slice(start, min(start + BLOCK, len(theirs.weight_R)))
        length = rows.stop - start
        groups = -(-length // lanes.LANES)
        slope_T = _padded(slope_D[rows], groups, np.float32)
        postings = int(theirs.split.tail_ptr_R[rows.stop] - theirs.split.tail_ptr_R[start])
        block = loops.Block(
            start,
            length,
            np.zeros(columns.count + 2, dtype=np.int64),
            np.zeros(postings, dtype=np.uint16),
            np.zeros(postings, dtype=np.float32),
            np.zeros((groups, columns.head, lanes.LANES), dtype=np.float32),
            slope_T,
            _padded(theirs.weight_R[rows], groups, np.int64),
            np.zeros((columns.head, groups), dtype=np.float32),
            slope_T.reshape(groups, lanes.LANES).min(axis=1),
        )
        loops.fill_block(theirs.split, block)
        blocks.append(block)
    return blocks


def _padded(values_D: Array, groups: int, dtype: Any) -> Array:
    padded = np.zeros(groups * lanes.LANES, dtype=dtype)
    padded[: len(values_D)] = values_D
    return padded


def slopes(size_R: Array, rule: Any) -> tuple[Array, Array, Array]:
    """(slope of ours, slope of theirs, limit): similar when dot ≥ slope · slope + limit."""
    one_R, zero_R = np.ones(len(size_R)), np.zeros(len(size_R))
    # Below 0 as well, only pairs that share something are similar: at 0 they are told apart.
    threshold = max(0.0, rule.threshold)
    if rule.kind == 2:
        return zero_R, zero_R, one_R * threshold * rule.offsets
    if rule.kind == 1:
        # dot ≥ γ (|A| + |B| − dot), solved for dot.
        part_R = size_R * (threshold / (1 + threshold))
        return one_R, part_R, part_R
    if rule.whole:
        return size_R * threshold, size_R, zero_R
    return zero_R, zero_R, one_R * threshold


def make_limits(ours: Distinct, theirs: Distinct, rule: Any) -> Any:
    """The linear test of each row of ours, with a margin above what float32 can lose."""
    slope_R, _, limit_R = slopes(ours.rows.size_R, rule)
    slope_D = slopes(theirs.rows.size_R, rule)[1]
    longest = int(np.diff(ours.rows.ptr_R).max(initial=0))
    scale_R = ours.bound_R * theirs.bound_R.max(initial=0.0) + limit_R
    scale_R = scale_R + slope_R * slope_D.max(initial=0.0) + (0.0 if rule.whole else 1.0)
    margin_R = scale_R * (longest + 16) * 2.0**-22
    usable_R = (ours.rows.size_R > 0) & np.isfinite(ours.rows.size_R)
    limit_R = np.where(usable_R, limit_R, np.inf)
    return loops.Limits(*(a.astype(np.float32) for a in (slope_R, limit_R, margin_R)))


@dataclass(frozen=True)
class Labels:
    """Units: distinct rows under labels. unit_N: of each given row; row_U, weight_U: of units."""

    units: Any
    unit_N: Array
    row_U: Array
    weight_U: Array

    @classmethod
    def of(cls, labels: tuple[Array, Array] | None, ours: Distinct, theirs: Distinct) -> Labels:
        """`labels` of ours and of theirs; None: no labels, no units."""
        nothing = np.zeros(0, dtype=np.int64)
        if labels is None:
            return cls(loops.Units(*[nothing] * 7), nothing, nothing, nothing)
        label_M, label_T = labels[0], labels[0] if ours is theirs else labels[1]
        if label_M.dtype != label_T.dtype:
            raise ValueError(f"labels of type {label_M.dtype} and {label_T.dtype} do not compare")
        if (len(label_M), len(label_T)) != (len(ours.row_N), len(theirs.row_N)):
            raise ValueError("there must be one label for each row")
        label_L, code_T = np.unique(label_T, return_inverse=True)
        label_S, row_S, weight_S, unit_T = _units(code_T, theirs)
        label_ptr_L = np.searchsorted(label_S, np.arange(len(label_L) + 1))
        label_U, row_U, weight_U, unit_N = label_S, row_S, weight_S, unit_T
        if ours is not theirs:
            label_U, row_U, weight_U, unit_N = _units(_codes(label_M, label_L), ours)
        by_row = np.argsort(row_U, kind="stable")
        unit_ptr_R = np.searchsorted(row_U[by_row], np.arange(len(ours.weight_R) + 1))
        mine = (unit_ptr_R, by_row, label_U[by_row], weight_U[by_row])
        return cls(loops.Units(*mine, label_ptr_L, row_S, weight_S), unit_N, row_U, weight_U)


def _units(code_N: Array, rows: Distinct) -> tuple[Array, Array, Array, Array]:
    """(label, row, how many) of each unit, by label and row; and the unit of each given row."""
    width = max(1, len(rows.weight_R))
    key_U, unit_N, weight_U = np.unique(
        code_N * width + rows.row_N, return_inverse=True, return_counts=True
    )
    label_U, row_U = np.divmod(key_U, width)
    return label_U, row_U, weight_U, unit_N


def _codes(label_N: Array, label_L: Array) -> Array:
    """Index of each label among ascending ones; −1 where it is not there."""
    at_N = np.minimum(np.searchsorted(label_L, label_N), max(0, len(label_L) - 1))
    if len(label_L) == 0:
        return np.full(len(label_N), -1)
    code_N: Array = np.where(label_L[at_N] == label_N, at_N, -1)
    return code_N


@dataclass(frozen=True)
class Index:
    """Everything that the loops need; `theirs` is `ours` when a side is counted against itself."""

    ours: Distinct
    theirs: Distinct
    rule: Any
    test: Any
    blocks: list[Any]
    labels: Labels
    labelled: bool

    def count(self, start: int, stop: int, similar_R: Array, own_U: Array) -> None:
        """Add the similar rows of distinct rows start … stop − 1, and those of the own label."""
        mirrored = self.ours is self.theirs
        longest = max((len(block.slope_T) for block in self.blocks), default=0)
        work = loops.Work(
            self.ours.rows,
            self.theirs.rows,
            self.ours.split,
            self.test,
            self.rule,
            self.ours.weight_R,
            np.zeros(longest, dtype=np.float32),
            np.zeros(longest, dtype=np.int32),
            np.zeros(longest // lanes.LANES, dtype=np.float32),
            similar_R,
            own_U,
        )
        for block in self.blocks:
            loops.count_pairs(start, stop, mirrored, work, block, self.labels.units)

    def like_themselves(self) -> Array:
        """(R,) 0 or 1: whether a row of ours is similar to one equal to it."""
        like_R = np.zeros(len(self.ours.weight_R), dtype=np.int64)
        loops.like_itself(self.ours.rows, self.rule, like_R)
        return like_R


def make_index(
    our_rows: SparseRows,
    others: SparseRows | None,
    pair_rule: PairRule,
    label_arrays: tuple[Array, Array] | None,
) -> Index:
    """Make rows of ours, and of theirs (None: ours again), ready to be counted."""
    our_rows = checked(our_rows)
    our_rows, other_rows = narrow(our_rows, our_rows if others is None else checked(others))
    rule = loop_rule(pair_rule, our_rows, other_rows)
    columns = Columns.of(other_rows, _width(our_rows, other_rows))
    theirs = Distinct.of(other_rows, columns, rule, sort=True)
    ours = theirs if others is None else Distinct.of(our_rows, columns, rule, sort=False)
    return Index(
        ours,
        theirs,
        rule,
        make_limits(ours, theirs, rule),
        make_blocks(theirs, columns, rule),
        Labels.of(label_arrays, ours, theirs),
        label_arrays is not None,
    )
