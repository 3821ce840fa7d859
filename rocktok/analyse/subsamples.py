"""Rock Scores of chosen types in many subsamples of the prompts, added up in one pass.

Array suffixes: P prompts of a batch; T types; R repeats; S sizes; C cells (subsamples) of a
repeat; E pairs of a prompt and a type.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rocktok.analyse.accumulate import Batch
from rocktok.analyse.bootstrap import numbered, places_of_prompts
from rocktok.hashing import halves, hash_rows

Array = npt.NDArray[Any]

#: Bytes of membership that are multiplied at a time.
_CHUNK = 1 << 24


def shuffled(seed: int, repeat: int, prompt_P: Array) -> Array:
    """uint64 that order the prompts of a repeat; its subsamples are the first of them."""
    return hash_rows(seed, np.full(len(prompt_P), repeat), np.ones(len(prompt_P), int), prompt_P)


def limits(seed: int, repeats: int, sizes: list[int], prompt_P: Array) -> Array:
    """(R, S) uint64, for each size n the n-th smallest of a repeat's `shuffled`.

    Args:
        sizes: ascending, none above the number of prompts.
        prompt_P: all distinct prompts.
    """
    at = [size - 1 for size in sizes]
    return np.stack([np.sort(shuffled(seed, r, prompt_P))[at] for r in range(repeats)])


class Subsamples:
    """Counts and sums of the losses of chosen types, in halves and in nested subsamples.

    A prompt is in the first size that its place allows and in all larger ones, so it is added once
    a repeat; `result` adds the sizes up.

    Args:
        types: token ids.
        limit_RS: as `limits` gives them.
    """

    needs = ("token_id", "sequence_id", "prompt", "loss_post")

    def __init__(self, types: Array, seed: int, limit_RS: Array) -> None:
        self.types, self.seed, self.limit_RS = np.sort(types), seed, limit_RS
        repeats, sizes = limit_RS.shape
        # Of each repeat: one cell for each size, then the second half of the prompts.
        self.cells = sizes + 1
        self.sum_TRC = np.zeros((2, len(types), repeats * self.cells))
        self.whole_T = np.zeros((2, len(types)))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        prompt_P, place_N = places_of_prompts(batch)
        # A table, as a search in thousands of types would take longer than all the rest.
        table = np.full(int(self.types[-1]) + 2, -1, dtype=np.int32)
        table[self.types] = np.arange(len(self.types))
        place = table[np.minimum(batch["token_id"], len(table) - 1)]
        rows_M = np.flatnonzero(place >= 0)
        if not len(rows_M):
            return
        type_M = place[rows_M]
        key_M = place_N[rows_M] * np.int64(len(self.types)) + type_M
        key_E, pair_M = numbered(key_M, len(prompt_P) * len(self.types))
        loss_M = batch["loss_post"][rows_M].astype(np.float64)
        count_E = np.bincount(pair_M, minlength=len(key_E))
        self._add(prompt_P, key_E, (count_E, np.bincount(pair_M, loss_M, minlength=len(key_E))))

    def _add(self, prompt_P: Array, key_E: Array, sums_E: tuple[Array, Array]) -> None:
        from scipy.sparse import csr_matrix

        prompt_E, type_E = np.divmod(key_E, len(self.types))
        step = max(1, _CHUNK // (self.sum_TRC.shape[2] * 8))
        for start in range(0, len(prompt_P), step):
            part = slice(*np.searchsorted(prompt_E, [start, start + step]))
            member_PC = self._membership(prompt_P[start : start + step])
            where = type_E[part], prompt_E[part] - start
            for q, values_E in enumerate(sums_E):
                shape = len(self.types), len(member_PC)
                by_type = csr_matrix((values_E[part].astype(np.float64), where), shape=shape)
                self.sum_TRC[q] += by_type @ member_PC
                self.whole_T[q] += np.bincount(type_E[part], values_E[part], minlength=shape[0])

    def _membership(self, prompt_P: Array) -> Array:
        """(P, R·C) float64: 1 where a prompt comes in."""
        repeats, sizes = self.limit_RS.shape
        member = np.zeros((len(prompt_P), repeats, self.cells))
        at = np.arange(len(prompt_P))
        for r in range(repeats):
            first = np.searchsorted(self.limit_RS[r], shuffled(self.seed, r, prompt_P))
            inside = first < sizes
            member[at[inside], r, first[inside]] = 1
            member[:, r, sizes] = halves(prompt_P, int(hash_rows(self.seed, np.array([r]))[0]))
        return member.reshape(len(prompt_P), -1)

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.sum_TRC += other.sum_TRC
        self.whole_T += other.whole_T

    def result(self) -> tuple[Array, Array]:
        """Counts and sums of the losses, each (2, T, R, ·): of the halves, and of the sizes."""
        repeats, sizes = self.limit_RS.shape
        cell = self.sum_TRC.reshape(2, len(self.types), repeats, self.cells)
        second = cell[..., sizes]
        both = np.stack([self.whole_T[:, :, None] - second, second], axis=-1)
        return both, np.cumsum(cell[..., :sizes], axis=-1)
