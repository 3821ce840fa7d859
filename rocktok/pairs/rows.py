"""Windows as sparse rows, and when two of them are similar.

Array suffixes: N windows; E entries of sparse rows; K offsets; V token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array

#: Similarities that can be counted, and the arithmetic of each: cosine, Jaccard, positional.
KINDS = {"surprisal": 0, "bag": 0, "jaccard": 1, "positional": 2}


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


def window_rows(window_NK: Array, kind: str, weight_V: Array | None = None) -> SparseRows:
    """Windows of token ids (N, K), negative where there is none, as rows for a kind.

    The bits of `Similarity._sides`; weight_V: surprisals by token id.
    """
    from rocktok.pairs import merge

    count, width = window_NK.shape
    ptr_N = np.zeros(count + 1, dtype=np.int64)
    column_E = np.empty(count * width, dtype=np.int64)
    count_E = np.empty(count * width, dtype=np.float64)
    window_NK = np.ascontiguousarray(window_NK, dtype=np.int32)
    merge.encode(window_NK, kind == "positional", ptr_N, column_E, count_E)
    column_E, value_E = column_E[: ptr_N[-1]], count_E[: ptr_N[-1]]
    if kind == "jaccard":
        value_E = np.ones(len(column_E))
    elif kind == "surprisal":
        assert weight_V is not None
        value_E *= weight_V[column_E]
    size_N = np.zeros(count)
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
