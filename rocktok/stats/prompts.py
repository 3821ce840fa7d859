"""How many distinct prompts hold each token type."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats import kernels
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import longer, padded

#: Prompts of a type up to which they are told apart.
MOST = 1 << 16

#: Pairs that wait, at least, before equal ones are dropped.
_LOOSE = 1 << 20


class PromptCounts:
    """Of some token types, the number of distinct prompts that hold each.

    Exact up to `most` prompts of a type; above, estimated from the `most` smallest of their
    hashes (k minimum values: Bar-Yossef et al. 2002) with a standard error of 1/√most, 0.4%.
    12 bytes for each pair of a type and a prompt that is counted, and 12 MB for those that wait.

    Args:
        types: token ids.
        most: prompts of a type that are told apart.
        compiled: use the compiled loop. The same counts as without, faster in large logs.
    """

    def __init__(self, types: Array, most: int = MOST, *, compiled: bool = False) -> None:
        self.needs = ("token_id", "prompt")
        self.most, self.compiled = most, compiled
        self._types = np.sort(types)
        #: Pairs by their hash and the place of their type; those of the first part once each.
        self._parts: list[tuple[Array, Array]] = []
        self._loose = 0

    def update(self, batch: Batch) -> None:
        """Add the batch's (prompt, token_id) pairs."""
        if len(self._types) == 0:
            return
        types = len(self._types)
        table_V = np.full(int(self._types[-1]) + 2, types, dtype=np.int32)
        table_V[self._types] = np.arange(types)
        first = kernels.first_in_runs if self.compiled else kernels.first_in_runs_numpy
        rows_M = first(table_V, batch["token_id"], batch["prompt"], types)
        token_M = batch["token_id"][rows_M].astype(np.int64)
        # Two prompts of a type share a hash once in 10^19: a set of hashes is a set of prompts.
        self._add(hash_rows(0, batch["prompt"][rows_M], token_M), table_V[token_M])

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        for part in other._parts:
            self._add(*part)

    def _add(self, hash_P: Array, type_P: Array) -> None:
        self._parts.append((hash_P, type_P))
        self._loose += len(hash_P)
        # In proportion to what has settled: sorting costs a constant for each pair then.
        if self._loose > max(_LOOSE, len(self._parts[0][0])):
            self._settle()

    def _settle(self) -> tuple[Array, Array]:
        """Distinct pairs, by hash; no more of a type than are told apart."""
        if self._loose:
            hash_P, type_P = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
            self._parts = []
            order = np.argsort(hash_P)
            hash_P, type_P = hash_P[order], type_P[order]
            same_P = hash_P[1:] == hash_P[:-1]
            if (same_P & (type_P[1:] != type_P[:-1])).any():
                # The hash of two types' prompts: equal pairs need not be neighbours.
                order = np.lexsort((type_P, hash_P))
                hash_P, type_P = hash_P[order], type_P[order]
                same_P = hash_P[1:] == hash_P[:-1]
            new_P = np.ones(len(hash_P), dtype=bool)
            new_P[1:] = ~same_P | (type_P[1:] != type_P[:-1])
            hash_P, type_P = hash_P[new_P], type_P[new_P]
            count_T = np.bincount(type_P, minlength=1)
            if count_T.max() > self.most:
                order = np.argsort(type_P, kind="stable")
                rank_P = np.empty(len(order), dtype=np.int64)
                rank_P[order] = (
                    np.arange(len(order)) - (np.cumsum(count_T) - count_T)[type_P[order]]
                )
                hash_P, type_P = hash_P[rank_P < self.most], type_P[rank_P < self.most]
            self._parts, self._loose = [(hash_P, type_P)], 0
        return self._parts[0] if self._parts else (np.zeros(0, np.uint64), np.zeros(0, np.int32))

    def result(self) -> dict[int, int]:
        """Token id → distinct prompts."""
        hash_P, type_P = self._settle()
        count_T = np.bincount(type_P, minlength=len(self._types))
        counts = dict(zip(self._types.tolist(), count_T.tolist(), strict=True))
        for at in np.flatnonzero(count_T == self.most).tolist():
            largest = int(hash_P[type_P == at].max()) / 2**64
            counts[int(self._types[at])] = max(self.most, round((self.most - 1) / largest))
        return counts


class PromptFloor:
    """Per token type, the number of distinct prompts that hold it, counted no further than `most`.

    Types that have reached it cost nothing more. `compiled`: use the compiled loop, which looks the
    prompts of a type up in a table; without it rows are taken in slices, each of which leaves fewer
    types to look at.
    """

    needs = ("token_id", "prompt")

    def __init__(self, most: int, *, compiled: bool = False) -> None:
        self.most, self.compiled = most, compiled
        self._pairs: Array = np.zeros((0, 2), dtype=np.uint64)
        self._done_V: Array = np.zeros(0, dtype=bool)
        # Compiled: the prompts of each type, and how many they are.
        self._prompt_VK: Array = np.zeros((0, most), dtype=np.uint64)
        self._count_V: Array = np.zeros(0, dtype=np.int64)

    def update(self, batch: Batch) -> None:
        """Add the batch's (token_id, prompt) pairs."""
        token_N, prompt_N = batch["token_id"], batch["prompt"]
        if self.compiled:
            self._look_up(token_N, prompt_N)
            return
        start, size = 0, 1 << 12
        while start < len(token_N):
            part = slice(start, start + size)
            self._add(token_N[part].astype(np.uint64), prompt_N[part])
            start, size = start + size, size * 2

    def merge(self, other: Self) -> None:
        """Add another's pairs."""
        if self.compiled and not len(other._pairs):
            if not len(self._count_V):
                self._prompt_VK, self._count_V = other._prompt_VK, other._count_V
                return
            self._reach(len(other._count_V))
            kernels.merge_prompts(other._prompt_VK, other._count_V, self._prompt_VK, self._count_V)
            return
        pairs = other._all_pairs()
        if self.compiled:
            self._look_up(pairs[:, 0].astype(np.int64), pairs[:, 1])
        else:
            self._add(pairs[:, 0], pairs[:, 1])

    def _look_up(self, token_N: Array, prompt_N: Array) -> None:
        self._reach(int(token_N.max(initial=-1)) + 1)
        kernels.prompts_up_to(token_N, prompt_N, self._prompt_VK, self._count_V)

    def _reach(self, length: int) -> None:
        """Room for types below this id."""
        self._count_V = longer(self._count_V, length)
        self._prompt_VK = longer(self._prompt_VK, length)

    def _all_pairs(self) -> Array:
        if not self.compiled or len(self._pairs):
            return self._pairs
        filled_VK = np.arange(self.most) < self._count_V[:, None]
        token_M = np.nonzero(filled_VK)[0].astype(np.uint64)
        return np.stack([token_M, self._prompt_VK[filled_VK]], axis=1)

    def __getstate__(self) -> dict[str, Any]:
        """Only the pairs: the table of 150,000 types would be 7 MB."""
        fresh = {name: getattr(type(self)(self.most), name) for name in ("_prompt_VK", "_count_V")}
        return {**self.__dict__, "_pairs": self._all_pairs(), **fresh}

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
            count_V = np.bincount(self._pairs[:, 0].astype(np.int64))
            self._done_V = padded(count_V, len(count_V) + 1) >= self.most

    def result(self, length: int) -> Array:
        """int64 counts by token id, none above `most`."""
        token_M = self._all_pairs()[:, 0].astype(np.int64)
        return np.bincount(token_M, minlength=length)
