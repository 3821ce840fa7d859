"""Contexts of an occurrence: the tokens around it, by position, within its completion; or a sketch
of the hidden state by which the teacher predicted it, from contexts/.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch

#: Stands in a window where the completion has no recorded token at that offset.
MISSING = -1

#: Positions kept to draw the null from. A type that leaves fewer than 1,000 of them free of
#: itself is drawn for by a pass of its own.
POOL_SIZE = 1 << 16


_LARGEST = np.uint64(2**64 - 1)


def smallest_below(size: int, total: int | None) -> np.uint64:
    """A hash below which the `size` smallest of `total` hashes lie, but for once in 10^9."""
    if total is None or total <= size:
        return _LARGEST
    share = (size + 6.0 * np.sqrt(size)) / total
    return np.uint64(min(2**64 - 1, int(share * 2**64)))


#: Columns of a batch that hold a sketch, and say whether there is one.
SKETCH_COLUMNS = ("context", "has_context")

#: What an occurrence is compared by: "window", or for similarity "hidden" "sketch".
CONTENTS = ("window", "sketch")


def contents_of(similarity: str) -> str:
    """What of `CONTENTS` a similarity compares."""
    return "sketch" if similarity == "hidden" else "window"


#: How far before an occurrence the hidden state is that stands for its context. The state at its
#: own place says which token the teacher is about to write: of one type all are alike by that.
BEFORE = 1


def sketched(batch: Batch) -> Array:
    """(N,) bool, which rows have a sketch of their context."""
    has_N = batch["has_context"].copy()
    if BEFORE:
        key_N = _keys(batch)
        has_N[BEFORE:] = has_N[:-BEFORE] & (key_N[BEFORE:] - key_N[:-BEFORE] == BEFORE)
        has_N[:BEFORE] = False
    return has_N


def sketches(batch: Batch, rows_M: Array) -> Array:
    """(M, 4) uint64, the sketches of some rows, all of which have one."""
    words_MW: Array = np.ascontiguousarray(batch["context"][rows_M - BEFORE]).view(np.uint64)
    return words_MW


def offsets(reach: int) -> Array:
    """−reach … −1, +1 … +reach."""
    return np.concatenate((np.arange(-reach, 0), np.arange(1, reach + 1)))


def window_tokens(batch: Batch, rows_M: Array, offset_K: Array, *, compiled: bool = False) -> Array:
    """Token ids (M, K) at each row's position plus each offset; `MISSING` where there is none.

    Offsets are all from −reach to +reach, with or without 0. They count positions, not rows: text
    that was masked out (tool output) leaves a gap. `compiled`: the same ids, faster in large logs.
    """
    window_MK = np.full((len(rows_M), len(offset_K)), MISSING, dtype=np.int32)
    if len(rows_M) == 0:
        return window_MK
    if compiled:
        from rocktok.analyses.detect import window_loops

        reach, with_own = int(offset_K[-1]), bool(len(offset_K) % 2)
        columns = window_loops.columns_of(batch)
        window_loops.window_tokens(*columns, rows_M, reach, with_own, window_MK)
        return window_MK
    key_N = _keys(batch)
    token_N = batch["token_id"]
    step_N = np.diff(key_N)
    gaps = bool(np.any((step_N != 1) & (step_N < 1 << 31)))
    for column, offset in enumerate(offset_K.tolist()):
        target_M = key_N[rows_M] + offset
        if gaps:
            at_M = np.minimum(np.searchsorted(key_N, target_M), len(key_N) - 1)
        else:
            at_M = np.clip(rows_M + offset, 0, len(key_N) - 1)
        hit_M = key_N[at_M] == target_M
        window_MK[hit_M, column] = token_N[at_M[hit_M]]
    return window_MK


def _keys(batch: Batch) -> Array:
    """Ascending keys in which positions of a sequence are neighbours and sequences far apart."""
    sequence_N = batch["sequence_id"]
    new_N = np.concatenate(([0], sequence_N[1:] != sequence_N[:-1])).astype(np.int64)
    keys: Array = (np.cumsum(new_N) << np.int64(32)) + batch["position"]
    return keys


class Pool:
    """The positions with the smallest hashes of (seed, sequence_id, position): a uniform draw.

    The same however the log is cut. `result` gives rows in ascending order of the hash, with the
    tokens around each (offsets −reach … +reach, the position itself in the middle).

    `total`: how many positions will be offered in all, where that is known: few of those that
    cannot be among the smallest are then carried along. `sketched`: of the positions that have a
    sketch, with it. `compiled`: the same rows, faster in large logs.
    """

    needs: tuple[str, ...] = ("token_id", "sequence_id", "position", "prompt")

    def __init__(
        self,
        seed: int,
        reach: int,
        size: int = POOL_SIZE,
        total: int | None = None,
        *,
        sketched: bool = False,
        compiled: bool = False,
    ) -> None:
        self.seed = seed
        self.sketched, self.compiled = sketched, compiled
        if sketched:
            self.needs = (*Pool.needs, *SKETCH_COLUMNS)
        self.size = size
        self.limit = smallest_below(size, total)
        self.offset_K = np.arange(-reach, reach + 1)
        self.seen = 0
        self._rows: dict[str, Array] = {}

    def update(self, batch: Batch) -> None:
        """Offer all positions of a batch."""
        if self.compiled and not self.sketched:
            from rocktok.analyses.detect import window_loops

            self.seen += len(batch["token_id"])
            self._take(batch, *window_loops.near_rows(self.seed, batch, self._limit))
            return
        self.offer(batch, np.arange(len(batch["token_id"])))

    def offer(self, batch: Batch, rows_M: Array) -> None:
        """Offer some positions of a batch."""
        if self.sketched:
            rows_M = rows_M[sketched(batch)[rows_M]]
        self.seen += len(rows_M)
        hash_M = hash_rows(self.seed, batch["sequence_id"][rows_M], batch["position"][rows_M])
        if self._limit < _LARGEST:
            near_M = hash_M <= self._limit
            rows_M, hash_M = rows_M[near_M], hash_M[near_M]
        self._take(batch, rows_M, hash_M)

    @property
    def _limit(self) -> np.uint64:
        """The largest hash that may be among the smallest."""
        if len(self._rows) and len(self._rows["hash"]) == self.size:
            return min(self.limit, np.uint64(self._rows["hash"][-1]))
        return self.limit

    def _take(self, batch: Batch, rows_M: Array, hash_M: Array) -> None:
        """Keep the smallest of the hashes of some rows."""
        if len(rows_M) > self.size:
            near_M = np.sort(np.argpartition(hash_M, self.size - 1)[: self.size])
            rows_M, hash_M = rows_M[near_M], hash_M[near_M]
        rows = {
            "hash": hash_M,
            "sequence": batch["sequence_id"][rows_M],
            "position": batch["position"][rows_M],
            "prompt": batch["prompt"][rows_M],
            "around": window_tokens(batch, rows_M, self.offset_K, compiled=self.compiled),
        }
        if self.sketched:
            rows["sketch"] = sketches(batch, rows_M)
        self._join(rows)

    def merge(self, other: Self) -> None:
        """Keep the smallest hashes of both."""
        self.seen += other.seen
        if other._rows:
            self._join(other._rows)

    def _join(self, rows: dict[str, Array]) -> None:
        if self._rows:
            rows = {k: np.concatenate((self._rows[k], v)) for k, v in rows.items()}
        order = np.lexsort((rows["position"], rows["sequence"], rows["hash"]))[: self.size]
        self._rows = {k: v[order] for k, v in rows.items()}

    @property
    def complete(self) -> bool:
        """Whether every position that was offered is in the pool."""
        return self.seen <= self.size and (self.limit == _LARGEST or not self.sketched)

    def result(self) -> dict[str, Array]:
        """hash, sequence, position, prompt: (P,); around: (P, 2·reach + 1) int32; where asked for
        sketch: (P, 4) uint64.
        """
        return self._rows


class FreePools:
    """For types too frequent for the shared pool: a pool of positions with none of the type near.

    One small pool for each (type, distance).
    """

    def __init__(
        self,
        seed: int,
        reach: int,
        types: list[int],
        distances: tuple[int, ...],
        draws: int,
        *,
        sketched: bool = False,
        compiled: bool = False,
    ) -> None:
        self.reach = reach
        self.needs = (*Pool.needs, *(SKETCH_COLUMNS if sketched else ()))
        self.pools = {
            (v, distance): Pool(seed, reach, draws, sketched=sketched, compiled=compiled)
            for v in types
            for distance in distances
        }

    def size(self, v: int, distance: int) -> int:
        """How many positions were drawn for a type."""
        return len(self.pools[(v, distance)].result().get("hash", ()))

    def update(self, batch: Batch) -> None:
        """Offer each pool the positions far enough from its type."""
        for (v, distance), pool in self.pools.items():
            pool.offer(batch, np.flatnonzero(far_from(batch, v, distance)))

    def merge(self, other: Self) -> None:
        """Merge pool by pool."""
        for key, pool in self.pools.items():
            pool.merge(other.pools[key])


class SketchCount:
    """Rows, and those among them without a sketch."""

    needs = ("has_context",)

    def __init__(self) -> None:
        self.rows = 0
        self.missing = 0

    def update(self, batch: Batch) -> None:
        """Count a batch."""
        self.rows += len(batch["has_context"])
        self.missing += int((~batch["has_context"]).sum())

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        self.rows += other.rows
        self.missing += other.missing


def far_from(batch: Batch, v: int, distance: int) -> Array:
    """Rows with no occurrence of v at positions within `distance` in their sequence."""
    key_N = _keys(batch)
    hit_H = key_N[batch["token_id"] == v]
    if len(hit_H) == 0:
        return np.ones(len(key_N), dtype=bool)
    after_N = np.searchsorted(hit_H, key_N)
    right_N = hit_H[np.minimum(after_N, len(hit_H) - 1)]
    left_N = hit_H[np.maximum(after_N - 1, 0)]
    far: Array = (np.abs(right_N - key_N) > distance) & (np.abs(key_N - left_N) > distance)
    return far
