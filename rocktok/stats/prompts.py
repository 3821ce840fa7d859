"""How many distinct prompts hold each token type."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class PromptCounts:
    """Of some token types, the number of distinct prompts that hold each.

    Exact up to `most` prompts of a type; above, estimated from the `most` smallest of their
    hashes (k minimum values: Bar-Yossef et al. 2002) with a standard error of 1/√most, 0.4%.
    """

    def __init__(self, types: Array, most: int = 1 << 16) -> None:
        self.needs = ("token_id", "prompt")
        self.most = most
        self._types = np.sort(types)
        self._token_P: Array = np.zeros(0, dtype=np.int64)
        self._hash_P: Array = np.zeros(0, dtype=np.uint64)

    def update(self, batch: Batch) -> None:
        """Add the batch's (prompt, token_id) pairs."""
        rows_M = np.flatnonzero(is_among(batch["token_id"], self._types))
        token_M = batch["token_id"][rows_M].astype(np.int64)
        # Two prompts of a type share a hash once in 10^19: a set of hashes is a set of prompts.
        self._add(token_M, hash_rows(0, batch["prompt"][rows_M], token_M))

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        self._add(other._token_P, other._hash_P)

    def _add(self, token_M: Array, hash_M: Array) -> None:
        token_P = np.concatenate((self._token_P, token_M))
        hash_P = np.concatenate((self._hash_P, hash_M))
        order = np.lexsort((hash_P, token_P))
        token_P, hash_P = token_P[order], hash_P[order]
        new_P = np.ones(len(order), dtype=bool)
        new_P[1:] = (token_P[1:] != token_P[:-1]) | (hash_P[1:] != hash_P[:-1])
        token_P, hash_P = token_P[new_P], hash_P[new_P]
        rank_P = np.arange(len(token_P)) - np.searchsorted(token_P, token_P)
        kept = rank_P < self.most
        self._token_P, self._hash_P = token_P[kept], hash_P[kept]

    def result(self) -> dict[int, int]:
        """Token id → distinct prompts."""
        starts, stops = (np.searchsorted(self._token_P, self._types, side=s) for s in _SIDES)
        counts = {}
        for v, start, stop in zip(self._types.tolist(), starts, stops, strict=True):
            counts[v] = int(stop - start)
            if stop - start == self.most:
                largest = int(self._hash_P[stop - 1]) / 2**64
                counts[v] = max(self.most, round((self.most - 1) / largest))
        return counts


class PromptFloor:
    """Per token type, the number of distinct prompts that hold it, counted no further than `most`.

    Types that have reached it cost nothing more: rows are taken in slices, of which each leaves
    fewer types to look at.
    """

    needs = ("token_id", "prompt")

    def __init__(self, most: int) -> None:
        self.most = most
        self._pairs: Array = np.zeros((0, 2), dtype=np.uint64)
        self._done_V: Array = np.zeros(0, dtype=bool)

    def update(self, batch: Batch) -> None:
        """Add the batch's (token_id, prompt) pairs."""
        token_N, prompt_N = batch["token_id"], batch["prompt"]
        start, size = 0, 1 << 12
        while start < len(token_N):
            part = slice(start, start + size)
            self._add(token_N[part].astype(np.uint64), prompt_N[part])
            start, size = start + size, size * 2

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        self._add(other._pairs[:, 0], other._pairs[:, 1])

    def _add(self, token_M: Array, prompt_M: Array) -> None:
        if len(self._done_V):
            open_M = ~self._done_V[np.minimum(token_M, np.uint64(len(self._done_V) - 1))]
            token_M, prompt_M = token_M[open_M], prompt_M[open_M]
        pairs = np.concatenate((self._pairs, np.stack([token_M, prompt_M], axis=1)))
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        pairs = pairs[np.concatenate(([True], (pairs[1:] != pairs[:-1]).any(axis=1)))[: len(pairs)]]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
        self._pairs = pairs[rank < self.most]
        if len(self._pairs):
            count_V = self.result(int(self._pairs[-1, 0]) + 2)
            self._done_V = count_V >= self.most

    def result(self, length: int) -> Array:
        """int64 counts by token id, none above `most`."""
        return np.bincount(self._pairs[:, 0].astype(np.int64), minlength=length)
