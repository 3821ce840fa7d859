"""Sums by prompt and type that wait for the weights of the bootstrap.

Array suffixes: N rows of a batch; V token ids; R runs of neighbouring rows of one prompt; E pairs
of a run and a type; P prompts; T types; D digits of a quantity; C columns, the digits of all
quantities side by side; W weights of a prompt, a 1 and those of the replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rocktok._types import Array
from rocktok.stats.accumulator import Batch
from rocktok.stats.exact import DIGITS
from rocktok.stats.kernels import readonly

#: Parts that wait; of more, the smaller half is joined.
_PARTS = 64


@dataclass(frozen=True)
class Columns:
    """Which columns hold the digits of each quantity: one of a count, three of all others."""

    quantities: tuple[str, ...]

    @property
    def spans(self) -> list[slice]:
        """Of each quantity."""
        ends = np.cumsum([0, *(1 if name == "" else DIGITS for name in self.quantities)]).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]

    def __len__(self) -> int:
        return sum(1 if name == "" else DIGITS for name in self.quantities)


@dataclass(frozen=True)
class Pairs:
    """Sums by type and by run of neighbouring rows of one prompt.

    A prompt may have several runs, and a type several pairs in one. `sum_EC`: int32, digits of each
    quantity in units of its grids, the highest first. `by_type`: whether the types ascend.
    """

    prompt_R: Array
    run_E: Array
    type_E: Array
    sum_EC: Array
    by_type: bool = False

    @classmethod
    def of(cls, place_V: Array, others: int, batch: Batch, columns: Columns) -> tuple[Pairs, Array]:
        """The pairs of a batch, with no sums but counts; and the one that each row is of.

        Args:
            place_V: place of a token id among the types; the last stands for all ids beyond.
            others: place of all other types, the last one.
        """
        from rocktok.stats import bootstrap_loops

        token_N = readonly(batch["token_id"], np.int32)
        prompt_N = readonly(batch["prompt"], np.uint64)
        pair_N, run_E, type_E, count_E, first_R = (
            np.empty(len(token_N), np.int32) for _ in range(5)
        )
        mark_T = np.full(others + 1, -1, dtype=np.int32)
        runs, pairs = bootstrap_loops.pairs_in_runs(
            place_V, token_N, prompt_N, mark_T, pair_N, run_E, type_E, count_E, first_R
        )
        sum_EC = np.zeros((pairs, len(columns)), dtype=np.int32)
        for span, name in zip(columns.spans, columns.quantities, strict=True):
            if name == "":
                sum_EC[:, span.start] = count_E[:pairs]
        # Copies: what waits shall not hold on to as much as the rows take.
        found = cls(prompt_N[first_R[:runs]], run_E[:pairs].copy(), type_E[:pairs].copy(), sum_EC)
        return found, pair_N

    def add(self, span: slice, batch: Batch, name: str, pair_N: Array, grid_D: Array) -> None:
        """Add the values of a quantity, taken apart on its grids, in its columns."""
        from rocktok.stats import bootstrap_loops

        values_N = batch[name.removesuffix("²")]
        kind = np.float32 if values_N.dtype == np.float32 else np.float64
        bootstrap_loops.add_digits(
            pair_N, readonly(values_N, kind), name.endswith("²"), grid_D, self.sum_EC[:, span]
        )

    def lower(self, span: slice, by: int) -> None:
        """Take the digits of a quantity as those of grids that are so many higher."""
        sum_ED = self.sum_EC[:, span]
        kept = max(0, sum_ED.shape[1] - by)
        sum_ED[:, sum_ED.shape[1] - kept :] = sum_ED[:, :kept].copy()
        sum_ED[:, : sum_ED.shape[1] - kept] = 0

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        """One part of all, in which the types ascend, and each prompt has one run."""
        if len(parts) == 1 and parts[0].by_type:
            return parts[0]
        before = np.cumsum([0, *(len(part.prompt_R) for part in parts)])
        run_E = np.concatenate([part.run_E + at for part, at in zip(parts, before, strict=False)])
        prompt_P, place_R = np.unique(
            np.concatenate([part.prompt_R for part in parts]), return_inverse=True
        )
        type_E = np.concatenate([part.type_E for part in parts])
        # NumPy sorts 16 bits several times as fast.
        few = type_E.max(initial=0) < 1 << 16
        order = np.argsort(type_E.astype(np.uint16) if few else type_E, kind="stable")
        sum_EC = np.concatenate([part.sum_EC for part in parts])[order]
        run_E = place_R.astype(np.int32)[run_E[order]]
        return Pairs(prompt_P, run_E, type_E[order], sum_EC, by_type=True)


class Waiting:
    """Pairs of many batches, in few parts; 8 bytes each, and 4 for every column."""

    def __init__(self) -> None:
        self.parts: list[Pairs] = []

    def __len__(self) -> int:
        return sum(len(part.run_E) for part in self.parts)

    @property
    def nbytes(self) -> int:
        """What the pairs take."""
        return sum(p.run_E.nbytes + p.type_E.nbytes + p.sum_EC.nbytes for p in self.parts)

    def add(self, parts: Sequence[Pairs]) -> None:
        """Pairs that nothing else adds to."""
        self.parts += [part for part in parts if len(part.run_E)]
        if len(self.parts) > _PARTS:
            # The smaller half: a pair is copied as often as its part doubles.
            self.parts.sort(key=lambda part: len(part.run_E))
            half = len(self.parts) // 2
            self.parts = [Pairs.joined(self.parts[:half]), *self.parts[half:]]

    def settle(self) -> None:
        """Make one part of all."""
        if self.parts:
            self.parts = [Pairs.joined(self.parts)]

    def lower(self, span: slice, by: int) -> None:
        """`Pairs.lower` of all."""
        for part in self.parts if by else []:
            part.lower(span, by)

    def prompts(self) -> Array:
        """Distinct prompts of all, ascending."""
        none = np.zeros(0, dtype=np.uint64)
        prompts: Array = np.unique(np.concatenate([none, *(part.prompt_R for part in self.parts)]))
        return prompts


class Weighing:
    """Sums of types over some prompts, under each of the weights of these.

    Args:
        waiting: pairs.
        types: how many there are, all others among them.
        prompt_P: the prompts, ascending; pairs of others do not count.
        weight_PW: uint8.
        grid_C: grid of each column.
    """

    def __init__(
        self, waiting: Waiting, types: int, prompt_P: Array, weight_PW: Array, grid_C: Array
    ) -> None:
        self.weight_PW, self._grid_C = weight_PW, grid_C
        self.parts = [Pairs.joined([part]) for part in waiting.parts]
        self._place_R = [_places(prompt_P, part.prompt_R) for part in self.parts]
        self._start_T = [_starts(types, part.type_E) for part in self.parts]
        #: Columns that hold anything: whole numbers leave those of the lower grids empty.
        self.filled_C = np.flatnonzero(
            np.any([part.sum_EC.any(axis=0) for part in self.parts], axis=0)
        )

    def sums(self, types: slice) -> Array:
        """(T, C, W) exact sums of the digits of some types."""
        from rocktok.stats import bootstrap_loops

        shape = types.stop - types.start, len(self._grid_C), self.weight_PW.shape[1]
        total_TCW = np.zeros(shape)
        for part, place_R, start_T in zip(self.parts, self._place_R, self._start_T, strict=True):
            bootstrap_loops.weigh_pairs(
                start_T[types.start : types.stop + 1],
                part.run_E,
                place_R,
                part.sum_EC,
                self._grid_C,
                self.filled_C,
                self.weight_PW,
                total_TCW,
            )
        return total_TCW


def _starts(types: int, type_E: Array) -> Array:
    """First pair of each type, which ascend, and the end of the last one's."""
    count_T = np.bincount(type_E, minlength=types)
    return np.concatenate(([0], np.cumsum(count_T)))


def _places(prompt_P: Array, prompt_R: Array) -> Array:
    """int32 place of each run's prompt; −1 where it is none of them."""
    place_R = np.minimum(np.searchsorted(prompt_P, prompt_R), len(prompt_P) - 1)
    return np.where(prompt_P[place_R] == prompt_R, place_R, -1).astype(np.int32)
