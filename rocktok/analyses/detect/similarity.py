"""How alike two contexts are, and how many partners of one are like it.

The paper leaves the similarity open; these are ours (definitions.md, "Context consistency").
Sums run in ascending token id in float64, and s ≥ γ means s ≥ γ − 1e-9, so that every
implementation and every cut of the log counts the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.windows import MISSING, contents_of
from rocktok.errors import DataError
from rocktok.pairs import few, few_sparse, levels, sketches
from rocktok.pairs.count import count_similar
from rocktok.pairs.few import PartnersByType
from rocktok.pairs.rows import KINDS, PairRule, ranked, window_rows, window_rows_numpy

SIMILARITIES = ("surprisal", "bag", "jaccard", "positional", "embedding", "hidden")

#: Slack of the comparison with γ, against the last bits of a float64 sum.
EPSILON = 1e-9

#: Similarities held at once, in numbers: rows of a block times partners.
_BLOCK = 4_000_000


#: Windows up to which a dense product with each is faster than a sparse one.
_FEW = 64

#: Windows, as many as a null draws, up to which they are indexed and others looked up. Many of one
#: type are not: they are alike too often.
MOST_DRAWN = 1 << 11

#: Pairs of windows from which compiled loops pay: loading them takes as long as these in SciPy.
MANY = 3_000_000


@dataclass(frozen=True)
class _Side:
    """Features of windows, and the size of each: length of the vector, or of the set."""

    matrix: Any
    size: Array

    def rows(self, rows: slice) -> _Side:
        """Some of the rows; of all of them no copy is made."""
        start, stop, _ = rows.indices(len(self.size))
        if (start, stop) == (0, len(self.size)):
            return self
        return _Side(_rows_of(self.matrix, start, stop), self.size[start:stop])


@dataclass(frozen=True)
class Similarity:
    """One way to compare windows of 2w offsets, or sketches of hidden states.

    Attributes:
        kind: one of `SIMILARITIES`.
        gamma: windows at least this alike are similar; in (0, 1].
        offsets: 2w, the number of offsets in a window.
        weight_V: surprisals −ln(n_u/n) by token id, for "surprisal".
        embedding_VD: a row for each token id, for "embedding".
        jobs: threads of the compiled loops.
        loaded: compiled loops for any but a few pairs: what loads them does so once for many calls.
    """

    kind: str
    gamma: float
    offsets: int
    weight_V: Array
    embedding_VD: Array | None = None
    jobs: int = 1
    loaded: bool = False

    @property
    def threshold(self) -> float:
        """What a similarity must reach."""
        return self.gamma - EPSILON

    @property
    def contents(self) -> str:
        """What is compared: "window" or "sketch"."""
        return contents_of(self.kind)

    @property
    def by_type(self) -> bool:
        """Whether `count_by_type` compares the windows of many types at once."""
        return self.kind in KINDS or (self.kind == "hidden" and self.loaded)

    def compiled(self) -> Similarity:
        """The same with compiled loops for any but a few pairs, on one thread."""
        return replace(self, jobs=1, loaded=True)

    def at(self, gamma: float) -> Similarity:
        """The same at another γ."""
        return replace(self, gamma=gamma)

    def count_similar(self, ours: Windows, theirs: Windows) -> Array:
        """(M,) int64: for each of our windows, how many of its partners among theirs are similar.

        The same counts with compiled loops, where there are many pairs, and without.
        """
        if self.kind == "embedding" or len(ours) * len(theirs) < (
            MANY // 100 if self.loaded else MANY
        ):
            return self.count_similar_scipy(ours, theirs)
        if self.kind == "hidden":
            most = sketches.most_different(self.threshold)
            others = None if theirs is ours else (theirs.window_MK, theirs.label_M)
            return sketches.count_near((ours.window_MK, ours.label_M), others, most, self.jobs)
        rule = self._rule
        our_rows = window_rows(ours.window_MK, self.kind, self.weight_V)
        their_rows = None
        if theirs is not ours:
            their_rows = window_rows(theirs.window_MK, self.kind, self.weight_V)
        if their_rows is not None and len(ours) <= MOST_DRAWN:
            all_M, our_ptr, their_ptr = np.arange(len(ours)), _whole(ours), _whole(theirs)
            return few.count_drawn(
                our_rows, ours.label_M, their_rows, theirs.label_M, their_ptr, all_M, our_ptr, rule
            )
        both_labels = (ours.label_M, theirs.label_M)
        return count_similar(our_rows, their_rows, rule, both_labels, self.jobs)

    def count_with_draws(self, ours: Windows, draws: Windows) -> tuple[Array, Array]:
        """`count_similar` of ours among ours, and of some drawn windows among ours."""
        few_drawn = len(ours) * len(draws) >= MANY // 100 and len(draws) <= MOST_DRAWN
        if not (self.loaded and self.kind in KINDS and few_drawn):
            return self.count_similar(ours, ours), self.count_similar(draws, ours)
        rule, all_D = self._rule, np.arange(len(draws))
        # Ours are made ready once for both.
        rows, drawn = (
            window_rows(windows.window_MK, self.kind, self.weight_V) for windows in (ours, draws)
        )
        similar_M = count_similar(rows, None, rule, (ours.label_M, ours.label_M), self.jobs)
        similar_D = few.count_drawn(
            drawn, draws.label_M, rows, ours.label_M, _whole(ours), all_D, _whole(draws), rule
        )
        return similar_M, similar_D

    def count_between(self, ours: Windows, others: Sequence[Windows]) -> list[tuple[Array, Array]]:
        """Of each of the others: `count_similar` of ours among them, and of them among ours.

        Compiled, where loops are loaded, with one index of ours for all.
        """
        if self.loaded and self.kind in KINDS and len(ours) <= MOST_DRAWN:
            our_rows = window_rows(ours.window_MK, self.kind, self.weight_V)
            rows = [
                our_rows
                if windows is ours
                else window_rows(windows.window_MK, self.kind, self.weight_V)
                for windows in others
            ]
            labelled = [(each, windows.label_M) for each, windows in zip(rows, others, strict=True)]
            return few.count_between(our_rows, ours.label_M, labelled, self._rule)
        counts = []
        for theirs in others:
            our_M = self.count_similar(ours, theirs)
            # Each pair is seen from both sides where they are the same.
            counts.append((our_M, our_M if theirs is ours else self.count_similar(theirs, ours)))
        return counts

    def count_by_type(
        self, types: Sequence[Windows], draws: Windows, picks: Sequence[Array]
    ) -> PartnersByType:
        """Partners of the windows of each type, and of some of the draws, among those of the type.

        Not for "embedding"; "hidden" compiled only. The same counts by compiled loops, where these
        are loaded, and by sparse products. Twins: `count_similar_scipy`, `partner_counts`.
        """
        if self.kind == "hidden":
            return sketches.count_near_by_type(
                [windows.window_MK for windows in types],
                [windows.label_M for windows in types],
                draws.window_MK,
                draws.label_M,
                picks,
                sketches.most_different(self.threshold),
            )
        ours = np.concatenate([windows.window_MK for windows in types])
        count, rows = few_sparse.count_by_type, window_rows_numpy
        if self.loaded:
            count, rows = few.count_by_type, window_rows
        return count(
            rows(ours, self.kind, self.weight_V),
            np.concatenate([windows.label_M for windows in types]),
            np.cumsum([0, *map(len, types)]),
            rows(draws.window_MK, self.kind, self.weight_V),
            draws.label_M,
            np.concatenate(picks),
            np.cumsum([0, *map(len, picks)]),
            self._rule,
        )

    def count_levels(
        self, types: Sequence[Windows], draws: Windows, picks: Sequence[Array], gammas: Array
    ) -> tuple[Array, Array]:
        """Similar partners at several γ, ascending, whatever the own γ is.

        Of the windows of each type among those of the type, (N, γ) int64, one type after another;
        and of some of the draws, (E, γ). The same counts by compiled loops, where these are loaded,
        and without.
        """
        least, threshold_G = self.at(float(gammas[0])), gammas - EPSILON
        if self.kind in KINDS and self.loaded:
            whole = np.concatenate([windows.window_MK for windows in types])
            return levels.count_levels(
                window_rows(whole, self.kind, self.weight_V),
                np.concatenate([windows.label_M for windows in types]),
                np.cumsum([0, *map(len, types)]),
                window_rows(draws.window_MK, self.kind, self.weight_V),
                draws.label_M,
                np.concatenate(picks),
                np.cumsum([0, *map(len, picks)]),
                least._rule,
                threshold_G,
            )
        everything = [
            windows.joined(Windows(draws.window_MK[picked], draws.label_M[picked]))
            for windows, picked in zip(types, picks, strict=True)
        ]
        edges = np.cumsum([0, *map(len, everything)])
        counts_NG = np.zeros((edges[-1], len(gammas)), dtype=np.int64)
        if self.kind in KINDS:
            for row_E, _, alike_E in least.similar_by_type(everything, types):
                counts_NG += levels.by_level(row_E, alike_E, threshold_G, len(counts_NG))
        else:
            for start, rows, windows in zip(edges.tolist(), everything, types, strict=False):
                counts = counts_NG[start : start + len(rows)]
                for row_E, _, alike_E in least.similar_values(rows, windows):
                    counts += levels.by_level(row_E, alike_E, threshold_G, len(counts))
        own = np.repeat(
            np.tile([True, False], len(types)),
            np.ravel([(len(w), len(p)) for w, p in zip(types, picks, strict=True)]),
        )
        return counts_NG[own], counts_NG[~own]

    def similar_by_type(
        self, ours: Sequence[Windows], theirs: Sequence[Windows]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """`similar_values` of the windows of many types at once, by sparse products.

        Rows are numbered through the types, in their order. Not for "embedding" and "hidden".
        """
        sides = []
        for types in (ours, theirs):
            windows = np.concatenate([windows.window_MK for windows in types])
            label_N = np.concatenate([windows.label_M for windows in types])
            type_N = np.repeat(np.arange(len(types)), [len(windows) for windows in types])
            sides.append((window_rows_numpy(windows, self.kind, self.weight_V), type_N, label_N))
        (our_rows, our_type_N, our_N), (their_rows, their_type_N, their_N) = sides
        pairs = few_sparse.similar_pairs(our_rows, their_rows, our_type_N, their_type_N, self._rule)
        for row_E, other_E, alike_E in pairs:
            partner_E = our_N[row_E] != their_N[other_E]
            yield row_E[partner_E], other_E[partner_E], alike_E[partner_E]

    def count_similar_scipy(self, ours: Windows, theirs: Windows) -> Array:
        """Twin of the compiled loops, block by block, of sparse matrix products or in NumPy."""
        counts_M = np.zeros(len(ours), dtype=np.int64)
        for row_E, _ in self.similar_pairs(ours, theirs):
            counts_M += np.bincount(row_E, minlength=len(ours))
        return counts_M

    def similar_pairs(self, ours: Windows, theirs: Windows) -> Iterator[tuple[Array, Array]]:
        """(row of ours, row of theirs) of every pair of similar partners, block by block."""
        for row_E, other_E, _ in self.similar_values(ours, theirs):
            yield row_E, other_E

    def similar_values(
        self, ours: Windows, theirs: Windows
    ) -> Iterator[tuple[Array, Array, Array]]:
        """(row of ours, row of theirs, similarity) of every pair of similar partners, by blocks."""
        if len(theirs) == 0 or len(ours) == 0:
            return
        if self.kind == "hidden":
            most = sketches.most_different(self.threshold)
            for row_E, other_E, bits_E in sketches.near_pairs(
                ours.window_MK, theirs.window_MK, most
            ):
                partner_E = ours.label_M[row_E] != theirs.label_M[other_E]
                alike_E = sketches.SIMILARITY[bits_E[partner_E]]
                yield row_E[partner_E], other_E[partner_E], alike_E
            return
        our_side, their_side = self._sides(ours.window_MK, theirs.window_MK)
        block = max(1, _BLOCK // len(theirs))
        for start in range(0, len(ours), block):
            rows = slice(start, start + block)
            row_E, other_E, alike_E = self._similar(our_side.rows(rows), their_side)
            row_E = row_E + start
            partner_E = ours.label_M[row_E] != theirs.label_M[other_E]
            yield row_E[partner_E], other_E[partner_E], alike_E[partner_E]

    def _sides(self, ours_MK: Array, theirs_TK: Array) -> tuple[_Side, _Side]:
        # Encoded together, so that both use the same columns; once, where they are the same.
        cut = len(ours_MK)
        both = ours_MK if ours_MK is theirs_TK else np.concatenate((ours_MK, theirs_TK))
        if self.kind == "embedding":
            matrix = self._embed(both)
            size = np.sqrt((matrix * matrix).sum(axis=1))
        else:
            matrix, size = self._sparse(both)
        whole = _Side(matrix, size)
        ours = whole.rows(slice(0, cut))
        return ours, ours if both is ours_MK else whole.rows(slice(cut, len(both)))

    def _sparse(self, window_NK: Array) -> tuple[Any, Array]:
        """CSR of (weighted) token counts, or of (offset, token) marks; the size of each row."""
        from scipy.sparse import csr_matrix

        rows = window_rows_numpy(window_NK, self.kind, self.weight_V)
        column_E, columns = ranked(rows.column_E)
        shape = (len(window_NK), max(1, columns))
        return csr_matrix((rows.value_E, column_E, rows.ptr_N), shape=shape), rows.size_N

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

    def _similar(self, ours: _Side, theirs: _Side) -> tuple[Array, Array, Array]:
        """(row of ours, row of theirs, similarity) of every similar pair."""
        if self.kind == "embedding":
            return self._dense(ours.matrix @ theirs.matrix.T, ours, theirs)
        if theirs.matrix.shape[0] <= _FEW:
            # Of few windows most pairs share a token: no use in looking for those that do. Each
            # sum runs in the same order.
            return self._dense(ours.matrix @ theirs.matrix.T.toarray(), ours, theirs)
        dots = (ours.matrix @ theirs.matrix.T).tocoo()
        alike_E = self._alike(dots.data, ours.size[dots.row], theirs.size[dots.col])
        similar_E = alike_E >= self.threshold
        return dots.row[similar_E], dots.col[similar_E], alike_E[similar_E]

    def _dense(self, dots: Array, ours: _Side, theirs: _Side) -> tuple[Array, Array, Array]:
        alike = self._alike(dots, ours.size[:, None], theirs.size[None, :])
        # As in a sparse product: windows without a common token are alike at no γ.
        shared = self.kind == "embedding" or dots != 0
        row_E, other_E = np.nonzero((alike >= self.threshold) & shared)
        return row_E, other_E, alike[row_E, other_E]

    @property
    def _rule(self) -> PairRule:
        return PairRule(self.kind, self.threshold, self.offsets)

    def _alike(self, dots: Array, ours: Array, theirs: Array) -> Array:
        """Similarities from products and sizes; NaN of two empty windows, which are not alike."""
        if self.kind == "embedding":
            with np.errstate(divide="ignore", invalid="ignore"):
                cosine: Array = dots / (ours * theirs)
            return cosine
        return self._rule.alike(dots, ours, theirs)


def _rows_of(matrix: Any, start: int, stop: int) -> Any:
    """Rows of a CSR or a dense matrix; of a CSR without its own slicing, which checks far more."""
    if isinstance(matrix, np.ndarray):
        return matrix[start:stop]
    first, last = matrix.indptr[start], matrix.indptr[stop]
    parts = (
        matrix.data[first:last],
        matrix.indices[first:last],
        matrix.indptr[start : stop + 1] - first,
    )
    return type(matrix)(parts, shape=(stop - start, matrix.shape[1]))


def _whole(windows: Windows) -> Array:
    """Where the rows of a single type begin and end."""
    return np.array([0, len(windows)])
