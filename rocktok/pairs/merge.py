"""Compiled loops that make windows into sparse rows, find equal ones, and weigh frequent columns.

Array suffixes: N windows; E entries of sparse rows; R rows; G groups of equal rows; K offsets of a
window; C columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


class PackedRows(NamedTuple):
    """Sparse rows: ascending column ids, float64 values, and the size of each row."""

    ptr_R: Array
    column_E: Array
    value_E: Array
    size_R: Array


@Kernel
def encode(window_NK: Array, by_offset: bool, ptr_N: Array, key_E: Array, count_E: Array) -> None:
    """Ascending distinct keys ≥ 0 of each window, with counts: tokens, or token·K + offset."""
    width = window_NK.shape[1]
    at = 0
    for i in range(len(window_NK)):
        begin = at
        for k in range(width):
            key = np.int64(window_NK[i, k])
            if key < 0:
                continue
            key = key * width + k if by_offset else key
            j = at
            while j > begin and key_E[j - 1] > key:
                j -= 1
            if j > begin and key_E[j - 1] == key:
                count_E[j - 1] += 1
                continue
            for m in range(at, j, -1):
                key_E[m], count_E[m] = key_E[m - 1], count_E[m - 1]
            key_E[j], count_E[j] = key, 1
            at += 1
        ptr_N[i + 1] = at


@part
def _mixed(state: np.uint64, word: np.int64) -> np.uint64:
    state = (state ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
    return state ^ (state >> np.uint64(29))


@Kernel
def hash_rows(rows: PackedRows, bits_E: Array, hash_R: Array) -> None:
    """Hash columns and values (`bits_E`: the values as int64)."""
    for i in range(len(hash_R)):
        state = np.uint64(0)
        for e in range(rows.ptr_R[i], rows.ptr_R[i + 1]):
            state = _mixed(_mixed(state, rows.column_E[e]), bits_E[e])
        hash_R[i] = state


@part
def _equal(rows: PackedRows, i: int, j: int) -> bool:
    here, there = rows.ptr_R[i], rows.ptr_R[j]
    length = rows.ptr_R[i + 1] - here
    if length != rows.ptr_R[j + 1] - there or rows.size_R[i] != rows.size_R[j]:
        return False
    for e in range(length):
        if rows.column_E[here + e] != rows.column_E[there + e]:
            return False
        if rows.value_E[here + e] != rows.value_E[there + e]:
            return False
    return True


@Kernel
def group_rows(
    rows: PackedRows, hash_R: Array, order_R: Array, group_R: Array, first_G: Array
) -> int:
    """Number equal rows alike; `order_R` sorts by hash. Returns how many groups there are."""
    groups = 0
    for at in range(len(order_R)):
        i = order_R[at]
        if groups and hash_R[i] == hash_R[order_R[at - 1]] and _equal(rows, i, first_G[groups - 1]):
            group_R[i] = groups - 1
            continue
        first_G[groups] = i
        group_R[i] = groups
        groups += 1
    return groups


@Kernel
def take_rows(rows: PackedRows, pick_R: Array, into: PackedRows) -> None:
    """Copy some rows, in an order; sizes apart."""
    at = 0
    for i in range(len(pick_R)):
        for e in range(rows.ptr_R[pick_R[i]], rows.ptr_R[pick_R[i] + 1]):
            into.column_E[at], into.value_E[at] = rows.column_E[e], rows.value_E[e]
            at += 1
        into.ptr_R[i + 1] = at


@Kernel
def head_bits(rows: PackedRows, pick_R: Array, slot_C: Array, head: int, bits_R: Array) -> None:
    """Which columns of the head some rows have, a bit each, the most frequent one highest.

    `slot_C`: place of a column in the head, −1 outside.
    """
    for i in range(len(pick_R)):
        bits = np.int64(0)
        for e in range(rows.ptr_R[pick_R[i]], rows.ptr_R[pick_R[i] + 1]):
            slot = np.int64(slot_C[rows.column_E[e]])
            if slot >= 0:
                bits += np.int64(1) << (head - 1 - slot)
        bits_R[i] = bits


@Kernel
def head_lengths(rows: PackedRows, slot_C: Array, length_R: Array) -> int:
    """Length of the part of each row in the head's columns; returns how many entries these are."""
    entries = 0
    for i in range(len(length_R)):
        total = 0.0
        for e in range(rows.ptr_R[i], rows.ptr_R[i + 1]):
            if slot_C[rows.column_E[e]] >= 0:
                total += rows.value_E[e] * rows.value_E[e]
                entries += 1
        length_R[i] = np.sqrt(total)
    return entries
