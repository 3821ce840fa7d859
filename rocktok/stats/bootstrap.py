"""The bootstrap over prompts: mergeable, the same on any number of workers.

Occurrences of a sequence, and sequences of a prompt, are not independent; prompts are. Each
replicate gives each prompt a weight drawn from Poisson(1), a function of (seed, replicate, prompt):
the Poisson bootstrap (Hanley and MacGibbon 2006; Chamandy et al. 2012), close to drawing prompts
with replacement, which could not be done shard by shard.

Array suffixes: B replicates; P prompts of a batch; T chosen types, with all others together as the
last; M quantities; E pairs of a prompt and a type.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.intervals import Estimate

REPLICATES = 1_000


def poisson_weights(seed: int, replicates: int, prompt_P: Array) -> Array:
    """(P, B) float64 weights from Poisson(1), by inversion of hash(seed, replicate, prompt)."""
    replicate_B = np.arange(replicates)
    repeated = np.tile(replicate_B, len(prompt_P)), np.repeat(prompt_P, replicates)
    uniform = (hash_rows(seed, *repeated) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    weights = np.searchsorted(_POISSON_CDF, uniform, side="right")
    return weights.reshape(len(prompt_P), replicates).astype(np.float64)


def _poisson_cdf() -> Array:
    terms = np.exp(-1.0) / np.cumprod(np.concatenate(([1.0], np.arange(1.0, 18.0))))
    cdf: Array = np.cumsum(terms)
    return cdf


_POISSON_CDF = _poisson_cdf()


class PromptBootstrap:
    """Sums by type under the weights of each replicate.

    Args:
        types: token ids to tell apart; all others are added up together.
        quantities: columns to sum; "" counts rows, and "x²" sums the squares of x.
        seed, replicates: of the weights.

    `sum_TM`: plain sums, (T + 1, M). `sum_BTM`: those of the replicates, (B, T + 1, M).
    `largest_M`: of all rows, the largest in absolute value.
    """

    def __init__(
        self,
        types: Array,
        quantities: tuple[str, ...],
        seed: int,
        replicates: int = REPLICATES,
    ) -> None:
        self.types = np.sort(types)
        self.quantities = quantities
        self.seed, self.replicates = seed, replicates
        columns = {name.removesuffix("²") for name in quantities} - {""}
        self.needs = ("token_id", "sequence_id", "prompt", *sorted(columns))
        shape = len(self.types) + 1, len(quantities)
        self.sum_TM: Array = np.zeros(shape)
        self.sum_BTM: Array = np.zeros((replicates, *shape))
        self.largest_M: Array = np.zeros(len(quantities))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        prompt_P, place_N = places_of_prompts(batch)
        width = len(self.types) + 1
        key_N = place_N * np.int64(width) + self._places(batch["token_id"])
        key_E, pair_N = numbered(key_N, len(prompt_P) * width)
        sums = []
        for m, name in enumerate(self.quantities):
            values_N = self._values(batch, name)
            largest = 1.0 if values_N is None else np.abs(values_N).max()
            self.largest_M[m] = max(self.largest_M[m], largest)
            sums.append(np.bincount(pair_N, values_N, minlength=len(key_E)))
        self._add(prompt_P, key_E // width, key_E % width, np.stack(sums, axis=1))

    def _places(self, token_N: Array) -> Array:
        """Index of each row's type; that of all others where it is not told apart."""
        table = np.full(int(max(token_N.max(), self.types.max(initial=0))) + 1, len(self.types))
        table[self.types] = np.arange(len(self.types))
        places: Array = table[token_N]
        return places

    def _values(self, batch: Batch, name: str) -> Array | None:
        if name == "":
            return None
        values_N = batch[name.removesuffix("²")].astype(np.float64)
        return values_N * values_N if name.endswith("²") else values_N

    def _add(self, prompt_P: Array, prompt_E: Array, type_E: Array, sum_EM: Array) -> None:
        from scipy.sparse import csr_matrix

        weight_PB = poisson_weights(self.seed, self.replicates, prompt_P)
        shape = len(self.sum_TM), len(prompt_P)
        for m in range(len(self.quantities)):
            by_type = csr_matrix((sum_EM[:, m], (type_E, prompt_E)), shape=shape)
            self.sum_TM[:, m] += np.bincount(type_E, sum_EM[:, m], minlength=shape[0])
            self.sum_BTM[:, :, m] += (by_type @ weight_PB).T

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.sum_TM += other.sum_TM
        self.sum_BTM += other.sum_BTM
        self.largest_M = np.maximum(self.largest_M, other.largest_M)

    @property
    def of_types(self) -> tuple[Array, Array]:
        """Sums of the chosen types without all others: (T, M), and of the replicates (B, T, M)."""
        return self.sum_TM[:-1], self.sum_BTM[:, :-1]

    def each(self, quantity: str) -> Estimate:
        """Sums of a quantity by type: (T,)."""
        m = self.quantities.index(quantity)
        return self._total(self.sum_TM[:-1, m], self.sum_BTM[:, :-1, m], m)

    def of(self, quantity: str, places: Array | None = None) -> Estimate:
        """The sum of a quantity over some of the types (places), by default over all rows."""
        m = self.quantities.index(quantity)
        at = np.arange(len(self.types) + 1) if places is None else places
        return self._total(self.sum_TM[at, m].sum(), self.sum_BTM[:, at, m].sum(axis=1), m)

    def _total(self, sums: Array, drawn_B: Array, m: int) -> Estimate:
        return Estimate.total(sums, drawn_B - sums, float(self.largest_M[m]))


def places_of_prompts(batch: Batch) -> tuple[Array, Array]:
    """Distinct prompts of a batch of whole sequences, ascending, and the place of each row's."""
    sequence_N = batch["sequence_id"]
    starts = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
    prompt_P, place_S = np.unique(batch["prompt"][starts], return_inverse=True)
    return prompt_P, np.repeat(place_S, np.diff(np.append(starts, len(sequence_N))))


def numbered(key_N: Array, limit: int) -> tuple[Array, Array]:
    """Distinct keys, ascending, and the number of each row's; without sorting where few can be."""
    if limit > max(1 << 16, 8 * len(key_N)):
        key_E, pair_N = np.unique(key_N, return_inverse=True)
        return key_E, pair_N
    seen = np.zeros(limit, dtype=bool)
    seen[key_N] = True
    number = np.cumsum(seen) - 1
    return np.flatnonzero(seen), number[key_N]


def two_sided_p(values_B: Array) -> float:
    """Twice the share of replicates on the far side of 0, never 0 (Davison and Hinkley 1997)."""
    finite = values_B[np.isfinite(values_B)]
    below, above = int((finite <= 0).sum()), int((finite >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(finite) + 1))


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for all of a family (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
