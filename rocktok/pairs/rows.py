"""Windows as sparse rows, and when two of them are similar.

Array suffixes: N windows; E entries of sparse rows; K offsets; V token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rocktok._types import Array

#: Similarities that can be counted, and the arithmetic of each: cosine, Jaccard, positional.
KINDS = {"surprisal": 0, "bag": 0, "jaccard": 1, "positional": 2}

#: Largest value that is ranked by a table, and not by sorting.
_TABLE = 1 << 18


@dataclass(frozen=True)
class SparseRows:
    """N windows as sparse rows, as in SciPy's CSR with sorted indices.

    Attributes:
        ptr_N: (N + 1,) where each row begins.
        column_E: ids ≥ 0, strictly ascending within a row; ours and theirs share their meaning.
        value_E: float64, 0 or more; whole numbers for all kinds but "surprisal".
        size_N: float64: for the cosines the length of the row, for "jaccard" its number of columns.
    """

    ptr_N: Array
    column_E: Array
    value_E: Array
    size_N: Array

    def __len__(self) -> int:
        return len(self.size_N)

    def rows(self, rows: slice) -> SparseRows:
        """Some of them, from a start to a stop."""
        ptr_N = self.ptr_N[rows.start : rows.stop + 1]
        entries = slice(ptr_N[0], ptr_N[-1])
        return SparseRows(
            ptr_N - ptr_N[0], self.column_E[entries], self.value_E[entries], self.size_N[rows]
        )

    @classmethod
    def joined(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Rows of several, whose columns mean the same, one after another."""
        lengths = np.concatenate([np.diff(part.ptr_N) for part in parts])
        return cls(
            np.concatenate(([0], np.cumsum(lengths))),
            np.concatenate([part.column_E for part in parts]),
            np.concatenate([part.value_E for part in parts]),
            np.concatenate([part.size_N for part in parts]),
        )


def window_rows(window_NK: Array, kind: str, weight_V: Array | None = None) -> SparseRows:
    """Windows of token ids (N, K), negative where there is none, as rows for a kind.

    Compiled; `weight_V`: surprisals by token id. Twin, with the same bits: `window_rows_numpy`.
    """
    from rocktok.pairs import merge

    count, width = window_NK.shape
    ptr_N = np.zeros(count + 1, dtype=np.int64)
    column_E = np.empty(count * width, dtype=np.int64)
    count_E = np.empty(count * width, dtype=np.float64)
    window_NK = np.ascontiguousarray(window_NK, dtype=np.int32)
    merge.encode(window_NK, kind == "positional", ptr_N, column_E, count_E)
    return _weighted(ptr_N, column_E[: ptr_N[-1]], count_E[: ptr_N[-1]], kind, weight_V)


def window_rows_numpy(window_NK: Array, kind: str, weight_V: Array | None = None) -> SparseRows:
    """Twin of `window_rows` that compiles nothing, for logs too small to pay for it."""
    token_NK = window_NK.astype(np.int64)
    if kind == "positional":
        places = np.arange(token_NK.shape[1])
        token_NK = np.where(token_NK < 0, token_NK, token_NK * token_NK.shape[1] + places)
    token_NK = np.sort(token_NK, axis=1)
    here_NK = token_NK >= 0
    first_NK = here_NK.copy()
    first_NK[:, 1:] &= token_NK[:, 1:] != token_NK[:, :-1]
    # Each entry is a run of one token; a run ends where the next begins, or its row does.
    start_E = np.flatnonzero(first_NK)
    stop_E = np.append(start_E[1:], 0)
    row_stop_E = (start_E // token_NK.shape[1] + 1) * token_NK.shape[1]
    ends = (stop_E > row_stop_E) | (stop_E == 0)
    stop_E[ends] = row_stop_E[ends]
    # Missing places come first in a row, so they stand before its first run, not within one.
    stop_E = np.minimum(stop_E, row_stop_E)
    ptr_N = np.concatenate(([0], np.cumsum(first_NK.sum(axis=1))))
    count_E = (stop_E - start_E).astype(np.float64)
    return _weighted(ptr_N, token_NK.ravel()[start_E], count_E, kind, weight_V)


def _weighted(
    ptr_N: Array, column_E: Array, value_E: Array, kind: str, weight_V: Array | None
) -> SparseRows:
    """Rows of counts, which are changed, as rows for a kind."""
    if kind == "jaccard":
        value_E = np.ones(len(column_E))
    elif kind == "surprisal":
        assert weight_V is not None
        value_E *= weight_V[column_E]
    size_N = np.zeros(len(ptr_N) - 1)
    filled_N = np.flatnonzero(np.diff(ptr_N))
    if len(filled_N):
        # Not bincount: SciPy adds rows up with reduceat, in another order than one by one.
        size_N[filled_N] = np.add.reduceat(value_E * value_E, ptr_N[filled_N])
    return SparseRows(ptr_N, column_E, value_E, size_N if kind == "jaccard" else np.sqrt(size_N))


@dataclass(frozen=True)
class PairRule:
    """When two rows are similar.

    Attributes:
        kind: one of `KINDS`.
        threshold: γ less its slack, `Similarity.threshold`.
        offsets: of a window, 2w; only "positional" divides by it.
    """

    kind: str
    threshold: float
    offsets: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"similarity {self.kind!r} is not one of {', '.join(KINDS)}")

    def alike(self, dots: Array, ours: Array, theirs: Array) -> Array:
        """Similarities from products and sizes; NaN of two empty windows, which are not alike."""
        scale: Any = ours * theirs
        if self.kind == "jaccard":
            scale = ours + theirs - dots
        elif self.kind == "positional":
            scale = float(self.offsets)
        with np.errstate(divide="ignore", invalid="ignore"):
            alike: Array = dots / scale
        return alike


def ranked(values_E: Array) -> tuple[Array, int]:
    """(rank of each value among the distinct ones, how many these are); values from 0 on."""
    if not len(values_E):
        return np.zeros(0, dtype=np.int32), 0
    largest = int(values_E.max())
    if largest > _TABLE:
        unique_U, rank_E = np.unique(values_E, return_inverse=True)
        return rank_E.astype(np.int32), len(unique_U)
    here_V = np.zeros(largest + 1, dtype=bool)
    here_V[values_E] = True
    rank_V = np.cumsum(here_V, dtype=np.int32) - np.int32(1)
    return rank_V[values_E], int(rank_V[-1]) + 1
