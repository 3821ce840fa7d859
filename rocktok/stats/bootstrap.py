"""The bootstrap over prompts: mergeable, the same on any number of workers.

Occurrences of a sequence, and sequences of a prompt, are not independent; prompts are. Each
replicate gives each prompt a weight drawn from Poisson(1), a function of (seed, replicate, prompt):
the Poisson bootstrap (Hanley and MacGibbon 2006; Chamandy et al. 2012), close to drawing prompts
with replacement, which could not be done shard by shard.

Array suffixes: B replicates; P prompts of a batch; T chosen types, with all others together as the
last; M quantities; E pairs of a prompt and a type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.bootstrap_pairs import Columns, Pairs, Waiting, Weighing
from rocktok.stats.exact import ExactSums
from rocktok.stats.intervals import Estimate

REPLICATES = 1_000

Made = TypeVar("Made")

#: Bytes of pairs of a type and a run of rows of one prompt that wait for their weights, at least.
_WAITING = 1 << 23

#: Bytes of weights that are held at once, one each, at least.
_WEIGHTS = 1 << 24

#: Prompts whose weights a thread draws at a time.
_DRAWN = 1 << 10

#: Weighted sums of some types that are made at once and stay in a processor's cache, 8 bytes each.
_AT_ONCE = 1 << 17

#: Weights that are kept for accumulators that ask for the same ones, 8 bytes each.
_KEPT = 1 << 20


def poisson_weights(seed: int, replicates: int, prompt_P: Array) -> Array:
    """(P, B) float64 weights from Poisson(1), by inversion of hash(seed, replicate, prompt).

    Read-only: those of few prompts are kept for the next who asks.
    """
    prompt_P = np.ascontiguousarray(prompt_P)
    if len(prompt_P) * replicates > _KEPT:
        return _drawn(seed, replicates, prompt_P)
    return _kept(seed, replicates, prompt_P.tobytes(), prompt_P.dtype)


@lru_cache(maxsize=4)
def _kept(seed: int, replicates: int, prompts: bytes, dtype: np.dtype[Any]) -> Array:
    return _drawn(seed, replicates, np.frombuffer(prompts, dtype))


def _drawn(seed: int, replicates: int, prompt_P: Array) -> Array:
    replicate_B, prompt_P1 = np.arange(replicates), prompt_P[:, None]
    uniform = (hash_rows(seed, replicate_B, prompt_P1) >> np.uint64(11)).astype(np.float64)
    weight_PB = np.searchsorted(_POISSON_CDF, uniform * 2.0**-53, side="right").astype(np.float64)
    weight_PB.flags.writeable = False
    return weight_PB


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
        compiled: use the compiled loops. The same bits as without, faster in large logs.
        kind_T: of each of the types, from 0 on: types of the same kind are added up together, and
            `places` says where; None: each is of its own, in ascending order.
        threads: that weigh what a pass has summed; the same bits with any number.

    Sums have the same bits however the rows are cut into batches. `largest_M`: of all rows, the
    largest in absolute value.
    """

    def __init__(
        self,
        types: Array,
        quantities: tuple[str, ...],
        seed: int,
        replicates: int = REPLICATES,
        *,
        compiled: bool = False,
        kind_T: Array | None = None,
        threads: int = 1,
    ) -> None:
        self.compiled, self.threads = compiled, threads
        order = np.argsort(types, kind="stable")
        self.types = np.asarray(types)[order]
        self._kind_T = np.arange(len(order)) if kind_T is None else np.asarray(kind_T)[order]
        #: Of what is told apart; all others are the last.
        self._others = int(self._kind_T.max(initial=-1)) + 1
        self.quantities = quantities
        self.seed, self.replicates = seed, replicates
        columns = {name.removesuffix("²") for name in quantities} - {""}
        self.needs = ("token_id", "sequence_id", "prompt", *sorted(columns))
        # Of each quantity (T + 1, 1 + B): the plain sums first.
        self._sums_M = [ExactSums() for _ in quantities]
        self._result_MTB: Array | None = None
        self.largest_M: Array = np.zeros(len(quantities))
        self._columns = Columns(quantities)
        self._waiting = Waiting()

    def places(self, ids: Array) -> Array:
        """Where the sums of some token ids are: each place once, ascending."""
        return np.unique(self._kind_T[np.isin(self.types, ids)])

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        if len(batch["token_id"]) == 0:
            return
        if self.compiled:
            self._add_compiled(batch)
            return
        prompt_P, place_N = places_of_prompts(batch)
        width = self._others + 1
        key_N = place_N * np.int64(width) + self._places(batch["token_id"])
        key_E, pair_N = numbered(key_N, len(prompt_P) * width)
        for m, name in enumerate(self.quantities):
            largest = 1.0 if name == "" else np.abs(self._values(batch, name)).max()
            self.largest_M[m] = max(self.largest_M[m], largest)
        self._add(batch, prompt_P, key_E // width, key_E % width, pair_N)

    def _places(self, token_N: Array) -> Array:
        """Index of each row's type; that of all others where it is not told apart."""
        table = np.full(int(max(token_N.max(), self.types.max(initial=0))) + 1, self._others)
        table[self.types] = self._kind_T
        places: Array = table[token_N]
        return places

    def _values(self, batch: Batch, name: str) -> Array:
        if name == "":
            return np.ones(len(batch["token_id"]))
        values_N: Array = batch[name.removesuffix("²")].astype(np.float64)
        return values_N * values_N if name.endswith("²") else values_N

    def _add(
        self, batch: Batch, prompt_P: Array, prompt_E: Array, type_E: Array, pair_N: Array
    ) -> None:
        from scipy.sparse import csr_matrix

        weight_PB = poisson_weights(self.seed, self.replicates, prompt_P)
        weight_PB = np.concatenate((np.ones((len(prompt_P), 1)), weight_PB), axis=1)
        shape = self._others + 1, len(prompt_P)
        self._result_MTB = None
        for name, sums in zip(self.quantities, self._sums_M, strict=True):
            for number, digit_N in enumerate(sums.split(self._values(batch, name))):
                if digit_N is not None:
                    sum_E = np.bincount(pair_N, digit_N, minlength=len(type_E))
                    sums.add(number, csr_matrix((sum_E, (type_E, prompt_E)), shape) @ weight_PB)

    def _add_compiled(self, batch: Batch) -> None:
        """`update` up to the weights, which many pairs are given at a time."""
        self._result_MTB = None
        largest_M = [self._largest(batch, name) for name in self.quantities]
        self.largest_M = np.maximum(self.largest_M, largest_M)
        pairs, pair_N = Pairs.of(self._place_V, self._others, batch, self._columns)
        for sums, span, name, largest in zip(
            self._sums_M, self._columns.spans, self.quantities, largest_M, strict=True
        ):
            if largest:
                self._waiting.lower(span, sums.rise(largest))
                if name:
                    pairs.add(span, batch, name, pair_N, sums.grid_D)
        self._wait([pairs])

    def _wait(self, parts: list[Pairs]) -> None:
        self._waiting.add(parts)
        if self._waiting.nbytes > max(_WAITING, self._weighted_bytes // 2):
            self._weigh()

    @property
    def _weighted_bytes(self) -> int:
        """What weighted sums take."""
        return 8 * len(self._columns) * (self._others + 1) * (1 + self.replicates)

    @cached_property
    def _place_V(self) -> Array:
        """Place of a token id among the types, of all others after them; the last: ids beyond."""
        place_V = np.full(int(self.types.max(initial=-1)) + 2, self._others, dtype=np.int32)
        place_V[self.types] = self._kind_T
        return place_V

    def _largest(self, batch: Batch, name: str) -> float:
        if name == "":
            return 1.0
        values_N = batch[name.removesuffix("²")]
        largest = max(float(values_N.max()), -float(values_N.min()))
        return largest * largest if name.endswith("²") else largest

    def close(self) -> None:
        """All rows of a task were seen: put its pairs in order, for those of others to follow."""
        # Cheap to make again, and nothing that a partial result need carry.
        self.__dict__.pop("_place_V", None)
        self._waiting.settle()

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self._result_MTB = None
        sums_M = zip(self._sums_M, other._sums_M, self._columns.spans, strict=True)
        for ours, theirs, span in sums_M:
            # What waits must be on the grids that both have then.
            self._waiting.lower(span, ours.rise_to(theirs))
            other._waiting.lower(span, theirs.rise_to(ours))
            ours.merge(theirs)
        self._wait(other._waiting.parts)
        self.largest_M = np.maximum(self.largest_M, other.largest_M)

    def _weigh(self) -> None:
        """Give the pairs that wait their weights, and add them up."""
        prompt_P = self._waiting.prompts()
        step = max(1, _WEIGHTS // (1 + self.replicates))
        for start in range(0, len(prompt_P), step):
            weighing = self._weighing(prompt_P[start : start + step])
            for types, total_TCW in self._on_threads(weighing.sums):
                self._add_weighted(types, total_TCW, weighing.filled_C)
        self._waiting = Waiting()

    def _weighing(self, prompt_P: Array) -> Weighing:
        from rocktok.stats import bootstrap_loops

        # No weight is above 17.
        weight_PW = np.empty((len(prompt_P), 1 + self.replicates), dtype=np.uint8)
        hash_B = hash_rows(self.seed, np.arange(self.replicates))

        def draw(part: slice) -> None:
            bootstrap_loops.poisson_weights(hash_B, prompt_P[part], _POISSON_CDF, weight_PW[part])

        parts = [slice(start, start + _DRAWN) for start in range(0, len(prompt_P), _DRAWN)]
        if self.threads == 1 or len(parts) == 1:
            for part in parts:
                draw(part)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(draw, parts))
        grids = [
            sums.grid_D[: span.stop - span.start]
            for sums, span in zip(self._sums_M, self._columns.spans, strict=True)
        ]
        grid_C = np.concatenate(grids)
        return Weighing(self._waiting, self._others + 1, prompt_P, weight_PW, grid_C)

    def _on_threads(self, made: Callable[[slice], Made]) -> Iterator[tuple[slice, Made]]:
        """What is made of all types, some at a time, in order."""
        step = max(1, _AT_ONCE // (len(self._columns) * (1 + self.replicates)))
        ends = [*range(0, self._others + 1, step), self._others + 1]
        parts = [slice(a, b) for a, b in pairwise(ends)]
        if self.threads == 1 or len(parts) == 1:
            yield from ((types, made(types)) for types in parts)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            # A few at a time: nothing waits for long.
            for start in range(0, len(parts), 4 * self.threads):
                some = parts[start : start + 4 * self.threads]
                yield from zip(some, pool.map(made, some), strict=True)

    def _add_weighted(self, types: slice, total_TCW: Array, filled_C: Array) -> None:
        shape = self._others + 1, 1 + self.replicates
        for sums, span in zip(self._sums_M, self._columns.spans, strict=True):
            for number in range(span.stop - span.start):
                if span.start + number in filled_C:
                    sums.digit(number, shape)[types] += total_TCW[:, span.start + number]

    @property
    def sum_TM(self) -> Array:
        """Plain sums, (T + 1, M)."""
        return self._result()[..., 0].T

    @property
    def sum_BTM(self) -> Array:
        """Sums under the weights of each replicate, (B, T + 1, M)."""
        return self._result()[..., 1:].transpose(2, 1, 0)

    def _result(self) -> Array:
        """(M, T + 1, 1 + B), the plain sums first."""
        if self._result_MTB is None:
            self._result_MTB = self.by_type(len(self.quantities), lambda sums_M: sums_M)
        return self._result_MTB

    def by_type(self, rows: int, function: Callable[[list[Array]], Sequence[Array]]) -> Array:
        """What a function makes of the sums of each of the types, all others the last of them.

        Not kept, and made of a few types at a time, so that only what is made is held of all.

        Args:
            rows: arrays that it makes.
            function: takes for each quantity the sums of some types, (t, 1 + B), the plain ones
                first, which it must not change; returns `rows` arrays like them.

        Returns:
            (rows, T + 1, 1 + B).
        """
        weighing = None
        if len(self._waiting):
            prompt_P = self._waiting.prompts()
            # Weights of all prompts at once spare weighted sums, unless they take as much.
            if len(prompt_P) * (1 + self.replicates) > max(_WEIGHTS, self._weighted_bytes // 2):
                self._weigh()
            else:
                weighing = self._weighing(prompt_P)
        width = 1 + self.replicates
        made_RTW = np.zeros((rows, self._others + 1, width))

        def fill(types: slice) -> None:
            total_TCW = None if weighing is None else weighing.sums(types)
            sums_M = []
            for sums, span in zip(self._sums_M, self._columns.spans, strict=True):
                more_TDW = None if total_TCW is None else total_TCW[:, span]
                sum_TW = sums.of_rows(types, more_TDW)
                if sum_TW is None:
                    sum_TW = np.zeros((types.stop - types.start, width))
                sums_M.append(sum_TW)
            for row, values_TW in enumerate(function(sums_M)):
                made_RTW[row, types] = values_TW

        # Each writes rows of its own.
        for _ in self._on_threads(fill):
            pass
        return made_RTW

    def each(self, quantity: str) -> Estimate:
        """Sums of a quantity by type: (T,)."""
        m = self.quantities.index(quantity)
        # Moments are summed by replicate, in this order of the memory.
        drawn_BT = np.ascontiguousarray(self.sum_BTM[:, :-1, m])
        return self._total(self.sum_TM[:-1, m], drawn_BT, m)

    def of(self, quantity: str, places: Array | None = None) -> Estimate:
        """The sum of a quantity over some of the types (places), by default over all rows."""
        m = self.quantities.index(quantity)
        sum_TB = self._result()[m] if places is None else self._result()[m, places]
        return self._total(np.ascontiguousarray(sum_TB[:, 0]).sum(), sum_TB[:, 1:].sum(axis=0), m)

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
