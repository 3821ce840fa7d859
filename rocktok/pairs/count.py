"""Similar pairs of windows, counted exactly: equal windows merged, the rest by `pairs.loops`.

Importing this module imports neither numba nor SciPy.

Array suffixes: N windows; M of ours; T of theirs; E entries of sparse rows; K offsets;
R distinct rows of ours; U units (a distinct row of ours under a label).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rocktok._types import Array
from rocktok.pairs.rows import PairRule, SparseRows

#: Pairs below which threads cost more than they save.
_SMALL = 2_000_000


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
        from rocktok.pairs import index as pair_index

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
