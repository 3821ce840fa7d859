"""Rock Scores of chosen types in many samples of the prompts, added up in one pass.

A sample gives each prompt a small whole weight: 1 or 0 in halves and subsamples, one from
Poisson(1) in bootstrap replicates. A batch is summed by type and prompt once, for all samples.

Array suffixes: N rows; P prompts of a batch; T types; R repeats; S sizes; C cells of a repeat;
W all weights of a prompt; B replicates.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import halves, hash_rows
from rocktok.stats import kernels
from rocktok.stats.accumulator import Batch
from rocktok.stats.bootstrap import places_of_prompts, poisson_weights
from rocktok.stats.intervals import Estimate

#: Sums by type and prompt that are held at once, of 16 bytes each.
_HELD = 1 << 21


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
    """Counts and sums of the losses of chosen types in halves, nested subsamples and replicates.

    A prompt is in the first size that its place allows and in all larger ones, so it is added once
    a repeat; `result` adds the sizes up.

    Args:
        types: token ids.
        seed: of the halves, the subsamples and the replicates.
        limit_RS: as `limits` gives them.
        replicates: of the bootstrap, with the weights of `bootstrap.poisson_weights`.
        compiled: use compiled loops; the same bits.
    """

    needs = ("token_id", "sequence_id", "prompt", "loss")

    def __init__(
        self,
        types: Array,
        seed: int,
        limit_RS: Array,
        replicates: int = 0,
        *,
        compiled: bool = False,
    ) -> None:
        self.types, self.seed, self.limit_RS = np.sort(types), seed, limit_RS
        self.replicates, self.compiled = replicates, compiled
        repeats, sizes = limit_RS.shape
        # Of each repeat: one cell for each size, then the second half of the prompts. Then all
        # prompts, then the replicates.
        self.cells = sizes + 1
        self.sum_TW = np.zeros((2, len(types), repeats * self.cells + 1 + replicates))
        self.largest = 0.0

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        prompt_P, place_N = places_of_prompts(batch)
        # A table, as a search in thousands of types would take longer than all the rest.
        table_V = np.full(int(self.types[-1]) + 2, -1, dtype=np.int32)
        table_V[self.types] = np.arange(len(self.types))
        columns = batch["token_id"], place_N, batch["loss"]
        self.largest = max(self.largest, float(np.abs(batch["loss"]).max()))
        step = max(1, _HELD // len(self.types))
        for start in range(0, len(prompt_P), step):
            part_P = prompt_P[start : start + step]
            if len(part_P) < len(prompt_P):
                rows_N = (place_N >= start) & (place_N < start + step)
                token_N, here_N, loss_N = (values[rows_N] for values in columns)
                self._add(table_V, token_N, here_N - start, loss_N, part_P)
            else:
                self._add(table_V, *columns, part_P)

    def _add(
        self, table_V: Array, token_N: Array, place_N: Array, loss_N: Array, prompt_P: Array
    ) -> None:
        sum_TP = np.zeros((2, len(self.types), len(prompt_P)))
        weight_PW = self._weights(prompt_P)
        if self.compiled:
            kernels.sums_by_prompt(table_V, token_N, place_N, loss_N, sum_TP)
            kernels.weigh(sum_TP, weight_PW, self.sum_TW)
        else:
            kernels.sums_by_prompt_numpy(table_V, token_N, place_N, loss_N, sum_TP)
            kernels.weigh_numpy(sum_TP, weight_PW, self.sum_TW)

    def _weights(self, prompt_P: Array) -> Array:
        """(P, W) uint8: how often a prompt comes into each sample."""
        repeats, sizes = self.limit_RS.shape
        weight_PW = np.zeros((len(prompt_P), self.sum_TW.shape[2]), dtype=np.uint8)
        at = np.arange(len(prompt_P))
        for r in range(repeats):
            first = np.searchsorted(self.limit_RS[r], shuffled(self.seed, r, prompt_P))
            inside = first < sizes
            weight_PW[at[inside], r * self.cells + first[inside]] = 1
            half_P = halves(prompt_P, int(hash_rows(self.seed, np.array([r]))[0]))
            weight_PW[:, r * self.cells + sizes] = half_P
        weight_PW[:, repeats * self.cells] = 1
        if self.replicates:
            drawn_PB = poisson_weights(self.seed, self.replicates, prompt_P)
            weight_PW[:, repeats * self.cells + 1 :] = drawn_PB
        return weight_PW

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.sum_TW += other.sum_TW
        self.largest = max(self.largest, other.largest)

    def result(self) -> tuple[Array, Array]:
        """Counts and sums of the losses, each (2, T, R, ·): of the halves, and of the sizes."""
        repeats, sizes = self.limit_RS.shape
        cells = repeats * self.cells
        cell = self.sum_TW[..., :cells].reshape(2, len(self.types), repeats, self.cells)
        second, whole = cell[..., sizes], self.sum_TW[..., cells, None]
        both = np.stack([whole - second, second], axis=-1)
        return both, np.cumsum(cell[..., :sizes], axis=-1)

    def replicated(self) -> Array:
        """Counts and sums of the losses in each replicate, (2, T, B)."""
        drawn: Array = self.sum_TW[..., self.sum_TW.shape[2] - self.replicates :]
        return drawn

    @property
    def few_prompts(self) -> Array:
        """Which types have too few effective prompts behind their loss for an interval: (T,)."""
        whole_T = self.sum_TW[1, :, self.limit_RS.shape[0] * self.cells]
        effect_BT = (self.replicated()[1] - whole_T[:, None]).T
        few: Array = Estimate.total(whole_T, effect_BT, self.largest).few_prompts
        return few
