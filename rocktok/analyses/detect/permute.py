"""Persistence labels permuted within types: as many occurrences of each, drawn without the loss.

Array suffixes: N rows; T types; V token ids; M rows near a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch

_LARGEST = 2**64 - 1


def draw_hash(seed: int, batch: Batch, rows_M: Array) -> Array:
    """(M,) uint64 by which occurrences are drawn: of (seed, sequence_id, position, 1).

    The 1 keeps it apart from the hash by which samples are taken of what was drawn.
    """
    one_M = np.ones(len(rows_M), dtype=np.int64)
    return hash_rows(seed, batch["sequence_id"][rows_M], batch["position"][rows_M], one_M)


@dataclass(frozen=True)
class Drawn:
    """Stands for O_PH: occurrences of v whose draw hash is at most `limit_V[v]`; 0: none."""

    seed: int
    limit_V: Array

    def chosen(self, batch: Batch) -> Array:
        """Which rows of a batch are drawn."""
        limit_N = self.limit_V[np.minimum(batch["token_id"], len(self.limit_V) - 1)]
        rows_M = np.flatnonzero(limit_N)
        drawn_N = np.zeros(len(limit_N), dtype=bool)
        drawn_N[rows_M] = draw_hash(self.seed, batch, rows_M) <= limit_N[rows_M]
        return drawn_N


class DrawLimits:
    """Finds, for each type, the draw hash below which exactly so many of its occurrences lie.

    Holds the hashes of a band around the expected limit, about 12·√count of a type, and counts
    those below: the limit lies outside of the band once in 10^9.

    Args:
        seed: of the hash.
        token_T: ids. wanted_T: occurrences to draw, at most frequency_T, those there are.
    """

    needs = ("token_id", "sequence_id", "position")

    def __init__(self, seed: int, token_T: Array, wanted_T: Array, frequency_T: Array) -> None:
        self.seed = seed
        self.wanted_V = np.zeros(int(token_T.max(initial=-1)) + 2, dtype=np.int64)
        self.wanted_V[token_T] = wanted_T
        self.low_V, self.high_V = (np.zeros(len(self.wanted_V), dtype=np.uint64) for _ in range(2))
        for v, wanted, count in zip(
            token_T.tolist(), wanted_T.tolist(), frequency_T.tolist(), strict=True
        ):
            if wanted:
                spread = 6 * wanted**0.5
                # A Poisson count of few has a longer tail than its deviation says.
                high = (wanted + spread + 20) / count
                low = max(0.0, (wanted - spread) / count)
                self.high_V[v] = min(_LARGEST, int(high * 2**64))
                self.low_V[v] = int(low * 2**64)
        self.below_V = np.zeros(len(self.wanted_V), dtype=np.int64)
        self._parts: list[tuple[Array, Array]] = []

    def update(self, batch: Batch) -> None:
        """Add a batch's rows."""
        token_N = np.minimum(batch["token_id"], len(self.wanted_V) - 1)
        rows_M = np.flatnonzero(self.wanted_V[token_N])
        token_M, hash_M = token_N[rows_M], draw_hash(self.seed, batch, rows_M)
        below_M = hash_M < self.low_V[token_M]
        self.below_V += np.bincount(token_M[below_M], minlength=len(self.below_V))
        near_M = ~below_M & (hash_M <= self.high_V[token_M])
        self._parts.append((token_M[near_M], hash_M[near_M]))

    def merge(self, other: Self) -> None:
        """Add another's rows."""
        self.below_V += other.below_V
        self._parts.extend(other._parts)

    def result(self) -> Array:
        """By token id, the largest hash drawn (uint64), 0 where none is; the last is for others."""
        limit_V = np.zeros(len(self.wanted_V), dtype=np.uint64)
        if not self._parts:
            return limit_V
        token_M = np.concatenate([token for token, _ in self._parts])
        hash_M = np.concatenate([hashed for _, hashed in self._parts])
        order = np.lexsort((hash_M, token_M))
        token_M, hash_M = token_M[order], hash_M[order]
        token_T = np.flatnonzero(self.wanted_V)
        edge_T, stop_T = (np.searchsorted(token_M, token_T, side) for side in ("left", "right"))
        at_T = edge_T + self.wanted_V[token_T] - self.below_V[token_T] - 1
        found_T = (edge_T <= at_T) & (at_T < stop_T)
        limit_V[token_T] = self.high_V[token_T]
        limit_V[token_T[found_T]] = hash_M[at_T[found_T]]
        return limit_V
