"""Similar pairs of windows, counted exactly: equal windows merged, the rest by `pair_loops`.

Importing this module imports neither numba nor SciPy.

Array suffixes: N windows; M of ours; T of theirs; E entries of sparse rows; K offsets;
R distinct rows of ours; U units (a distinct row of ours under a label).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Similarities that can be counted, and the arithmetic of each: cosine, Jaccard, positional.
KINDS = {"surprisal": 0, "bag": 0, "jaccard": 1, "positional": 2}

#: Pairs below which threads cost more than they save.
_SMALL = 2_000_000


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
    from rocktok.analyse import compiled

    count, width = window_NK.shape
    ptr_N = np.zeros(count + 1, dtype=np.int64)
    column_E = np.empty(count * width, dtype=np.int64)
    count_E = np.empty(count * width, dtype=np.float64)
    window_NK = np.ascontiguousarray(window_NK, dtype=np.int32)
    compiled.encode(window_NK, kind == "positional", ptr_N, column_E, count_E)
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


def count_similar(
    ours: SparseRows,
    theirs: SparseRows | None,
    rule: PairRule,
    labels: tuple[Array, Array] | None = None,
    jobs: int = 1,
) -> Array:
    """For each of our rows, how many rows of theirs are similar and no partners by the labels.

    Args:
        ours: M rows.
        theirs: T rows, or None: ours again, and no row is similar to itself.
        rule: the similarity and its threshold.
        labels: (M,) and (T,), integers of one type: rows under the same label are not counted.
            None: all are. Without `theirs` the first is enough, and the second is ignored.
        jobs: threads.

    Returns:
        (M,) int64: for every pair the answer of `Similarity.count_similar`, ties included.
    """
    pairs = SimilarPairs(ours, theirs, rule, labels)
    ranges = pairs.ranges(jobs)
    tallies = [pairs.tally() for _ in range(max(1, min(jobs, len(ranges))))]
    # The ranges are handed out one by one: whoever is done takes the next.
    shared = iter(ranges)
    if len(tallies) == 1:
        _count_ranges(pairs, shared, tallies[0])
    else:
        with ThreadPoolExecutor(len(tallies)) as pool:
            for future in [pool.submit(_count_ranges, pairs, shared, t) for t in tallies]:
                future.result()
    for other in tallies[1:]:
        tallies[0].merge(other)
    return pairs.counts(tallies[0])


def _count_ranges(pairs: SimilarPairs, ranges: Iterator[tuple[int, int]], tally: Tally) -> None:
    for start, stop in ranges:
        pairs.add(tally, start, stop)


@dataclass
class Tally:
    """Pairs counted so far: by distinct row of ours, and of those under the same label by unit."""

    similar_R: Array
    own_U: Array

    def merge(self, other: Tally) -> None:
        """Add another's counts."""
        self.similar_R += other.similar_R
        self.own_U += other.own_U


class SimilarPairs:
    """Rows made ready, equal ones merged, for counting similar pairs range by range.

    `add(tally, start, stop)` may run in threads at once, each with its own tally, over ranges that
    together cover 0 … `rows` (distinct rows of ours); `counts` of the merged tallies is what
    `count_similar` returns. Arguments as there.
    """

    def __init__(
        self,
        ours: SparseRows,
        theirs: SparseRows | None,
        rule: PairRule,
        labels: tuple[Array, Array] | None = None,
    ) -> None:
        # The index imports numba.
        from rocktok.analyse import pair_index

        self.mirrored = theirs is None
        self._index = pair_index.make_index(ours, theirs, rule, labels)
        self.rows = len(self._index.ours.weight_R)

    def ranges(self, jobs: int) -> list[tuple[int, int]]:
        """Ranges of about equal work, many for each thread; one where there is little to do."""
        size = self.rows * len(self._index.theirs.weight_R)
        share = np.linspace(0, 1, (16 * jobs if jobs > 1 and size > _SMALL else 1) + 1)
        edges = (self.rows * (np.sqrt(share) if self.mirrored else share)).astype(int).tolist()
        return [(a, b) for a, b in pairwise(edges) if a < b]

    def tally(self) -> Tally:
        """Zeros to count into."""
        units = len(self._index.labels.weight_U)
        return Tally(np.zeros(self.rows, dtype=np.int64), np.zeros(units, dtype=np.int64))

    def add(self, tally: Tally, start: int, stop: int) -> None:
        """Count the pairs of distinct rows start … stop − 1 of ours."""
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} are not within 0 to {self.rows}")
        self._index.count(start, stop, tally.similar_R, tally.own_U)

    def counts(self, tally: Tally) -> Array:
        """(M,) int64: similar partners of each of our rows, from a tally of all ranges."""
        index = self._index
        similar_R, own_U = tally.similar_R.copy(), tally.own_U.copy()
        if self.mirrored:
            # The loops look at pairs of distinct rows: those of equal rows are added here.
            like_R = index.like_themselves()
            similar_R += like_R * index.ours.weight_R
            own_U += like_R[index.labels.row_U] * index.labels.weight_U
            if not index.labelled:
                similar_R -= like_R
        counts_M: Array = similar_R[index.ours.row_N]
        if index.labelled:
            counts_M = counts_M - own_U[index.labels.unit_N]
        return counts_M
