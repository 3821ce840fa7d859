"""How alike two context windows are, and how many partners of a window are like it.

The paper leaves the similarity open; these are ours (definitions.md, "Context consistency").
Sums run in ascending token id in float64, and s ≥ γ means s ≥ γ − 1e-9, so that every
implementation and every cut of the log counts the same pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok.analyse import kernels
from rocktok.analyse.windows import MISSING
from rocktok.errors import DataError

Array = npt.NDArray[Any]

SIMILARITIES = ("surprisal", "bag", "jaccard", "positional", "embedding")
PARTNERS = ("other-prompt", "other-sequence", "all")

#: Slack of the comparison with γ, against the last bits of a float64 sum.
EPSILON = 1e-9

#: Similarities held at once, in numbers: rows of a block times partners.
_BLOCK = 4_000_000


#: Pairs of windows from which compiled loops pay: loading them takes as long as these in SciPy.
MANY = 3_000_000


@dataclass(frozen=True)
class Windows:
    """Windows of M rows: token ids (M, 2w), and labels: rows under the same one are no partners.

    A label (uint64) is of the row's prompt, of its sequence, or the row's own.
    """

    window_MK: Array
    label_M: Array

    def __len__(self) -> int:
        return len(self.window_MK)

    def joined(self, others: Windows) -> Windows:
        """These, then the others."""
        return Windows(
            np.concatenate((self.window_MK, others.window_MK)),
            np.concatenate((self.label_M, others.label_M)),
        )


def labels(rows: dict[str, Array], partners: str) -> Array:
    """Labels under a partner rule, of rows that have `prompt`, `sequence` and `hash`.

    A row's own label is the hash of its sequence and position: once in 10^19 two share one.
    """
    if partners == "all":
        return rows["hash"]
    if partners == "other-sequence":
        return rows["sequence"].astype(np.int64, copy=False).view(np.uint64)
    return rows["prompt"]


@dataclass(frozen=True)
class _Side:
    """Features of windows, and the size of each: length of the vector, or of the set."""

    matrix: Any
    size: Array

    def rows(self, rows: slice) -> _Side:
        return _Side(self.matrix[rows], self.size[rows])


class Similarity:
    """One way to compare windows of 2w offsets.

    Args:
        kind: one of `SIMILARITIES`.
        gamma: windows at least this alike are similar; in (0, 1].
        offsets: 2w, the number of offsets in a window.
        weight_V: surprisals −ln(n_u/n) by token id, for "surprisal".
        embedding_VD: a row for each token id, for "embedding".
        jobs: threads of the compiled loops.
    """

    def __init__(
        self,
        kind: str,
        gamma: float,
        offsets: int,
        weight_V: Array,
        embedding_VD: Array | None = None,
        jobs: int = 1,
    ) -> None:
        self.many = MANY
        self.kind = kind
        self.jobs = jobs
        self.offsets = offsets
        self.threshold = gamma - EPSILON
        self.weight_V = weight_V
        self.embedding_VD = embedding_VD

    def compiled(self) -> Similarity:
        """The same with compiled loops for any but a few pairs, on one thread."""
        made = copy.copy(self)
        made.jobs, made.many = 1, MANY // 100
        return made

    def count_similar(self, ours: Windows, theirs: Windows) -> Array:
        """(M,) int64: for each of our windows, how many of its partners among theirs are similar.

        The same counts with compiled loops, where there are many pairs, and without.
        """
        if self.kind == "embedding" or len(ours) * len(theirs) < self.many:
            return self.count_similar_scipy(ours, theirs)
        rule = kernels.PairRule(self.kind, self.threshold, self.offsets)
        our_rows = kernels.window_rows(ours.window_MK, self.kind, self.weight_V)
        their_rows = None
        if theirs is not ours:
            their_rows = kernels.window_rows(theirs.window_MK, self.kind, self.weight_V)
        given = (ours.label_M, theirs.label_M)
        return kernels.count_similar(our_rows, their_rows, rule, given, self.jobs)

    def count_similar_scipy(self, ours: Windows, theirs: Windows) -> Array:
        """Twin of the compiled loops, block by block of sparse matrix products."""
        counts_M = np.zeros(len(ours), dtype=np.int64)
        for row_E, _ in self.similar_pairs(ours, theirs):
            counts_M += np.bincount(row_E, minlength=len(ours))
        return counts_M

    def similar_pairs(self, ours: Windows, theirs: Windows) -> Iterator[tuple[Array, Array]]:
        """(row of ours, row of theirs) of every pair of similar partners, block by block."""
        if len(theirs) == 0 or len(ours) == 0:
            return
        our_side, their_side = self._sides(ours.window_MK, theirs.window_MK)
        block = max(1, _BLOCK // len(theirs))
        for start in range(0, len(ours), block):
            rows = slice(start, start + block)
            row_E, other_E = self._similar(our_side.rows(rows), their_side)
            row_E = row_E + start
            partner_E = ours.label_M[row_E] != theirs.label_M[other_E]
            yield row_E[partner_E], other_E[partner_E]

    def _sides(self, ours_MK: Array, theirs_TK: Array) -> tuple[_Side, _Side]:
        # Encoded together, so that both use the same columns.
        both = np.concatenate((ours_MK, theirs_TK))
        if self.kind == "embedding":
            matrix = self._embed(both)
            size = np.sqrt((matrix * matrix).sum(axis=1))
        else:
            matrix = self._sparse(both)
            sums = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
            size = sums if self.kind == "jaccard" else np.sqrt(sums)
        cut = len(ours_MK)
        return _Side(matrix[:cut], size[:cut]), _Side(matrix[cut:], size[cut:])

    def _sparse(self, window_NK: Array) -> Any:
        """CSR of (weighted) token counts, or of (offset, token) marks, columns by token id."""
        from scipy.sparse import csr_matrix

        row_E, offset_E = np.nonzero(window_NK != MISSING)
        token_E = window_NK[row_E, offset_E].astype(np.int64)
        if self.kind == "positional":
            token_E = token_E * window_NK.shape[1] + offset_E
        unique_U, column_E = np.unique(token_E, return_inverse=True)
        shape = (len(window_NK), max(1, len(unique_U)))
        matrix = csr_matrix((np.ones(len(token_E)), (row_E, column_E)), shape=shape)
        matrix.sum_duplicates()
        if self.kind == "jaccard":
            matrix.data[:] = 1.0
        elif self.kind == "surprisal":
            matrix.data *= self.weight_V[unique_U][matrix.indices]
        matrix.sort_indices()
        return matrix

    def _embed(self, window_NK: Array) -> Array:
        """Mean embedding of each window's tokens, (N, D) float64; zeros for an empty window."""
        if self.embedding_VD is None:
            raise ValueError("similarity 'embedding' needs an embedding matrix")
        here_NK = window_NK != MISSING
        if window_NK.size and int(window_NK.max()) >= len(self.embedding_VD):
            raise DataError(
                f"token {int(window_NK.max())} has no row in the embedding matrix of "
                f"{len(self.embedding_VD)} rows; give a matrix with a row for every token id"
            )
        total_ND = np.zeros((len(window_NK), self.embedding_VD.shape[1]))
        for column in range(window_NK.shape[1]):
            rows = here_NK[:, column]
            total_ND[rows] += self.embedding_VD[window_NK[rows, column]]
        mean_ND: Array = total_ND / np.maximum(here_NK.sum(axis=1), 1)[:, None]
        return mean_ND

    def _similar(self, ours: _Side, theirs: _Side) -> tuple[Array, Array]:
        """(row of ours, row of theirs) of every similar pair."""
        dots = ours.matrix @ theirs.matrix.T
        if self.kind == "embedding":
            scale = ours.size[:, None] * theirs.size[None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                row_E, other_E = np.nonzero(dots / scale >= self.threshold)
            return row_E, other_E
        dots = dots.tocoo()
        size_E, size_F = ours.size[dots.row], theirs.size[dots.col]
        if self.kind == "jaccard":
            scale_E = size_E + size_F - dots.data
        elif self.kind == "positional":
            scale_E = np.full(len(dots.data), float(self.offsets))
        else:
            scale_E = size_E * size_F
        with np.errstate(divide="ignore", invalid="ignore"):
            alike_E = dots.data / scale_E >= self.threshold
        return dots.row[alike_E], dots.col[alike_E]


def partner_counts(ours: Windows, theirs: Windows) -> Array:
    """How many partners each of our rows has among theirs: those under another label."""
    unique_U, count_U = np.unique(theirs.label_M, return_counts=True)
    if len(unique_U) == 0:
        return np.zeros(len(ours), dtype=np.int64)
    at_M = np.minimum(np.searchsorted(unique_U, ours.label_M), len(unique_U) - 1)
    own_M = np.where(unique_U[at_M] == ours.label_M, count_U[at_M], 0)
    partners: Array = len(theirs) - own_M
    return partners
