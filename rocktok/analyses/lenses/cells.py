"""Sums by class of every lens, under the weights of each replicate of the prompts.

Array suffixes: N rows of a batch; P its prompts; C cells of a table; B replicates, of sums the
plain ones first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.lenses.lens import BY_NAME, Lens
from rocktok.analyses.lenses.quantities import POST, PRE, SHUFFLED, Correct, Cuts, Rows, rows_at
from rocktok.analyses.lenses.thresholds import needs
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.bootstrap import places_of_prompts, poisson_weights
from rocktok.stats.exact import ExactSums
from rocktok.stats.intervals import Estimate

#: Kinds of positions: others, of the rocks' types though not hard, hard though of other types,
#: and rock occurrences.
OTHER, OF_TYPE, HARD, ROCK = range(4)
KINDS = 4


@dataclass(frozen=True)
class LensSums:
    """Sums of one lens over all rows.

    Attributes:
        lens: which.
        count_C: rows by class, top 10% or not, and kind of position: (classes·2·4, 1 + B).
        value_C: quantity → its sums by class: (classes, 1 + B).
        largest: quantity → largest absolute value of a row.
        dealt_C: with losses dealt out anew, rows that are no rock occurrences, those that are, and
            those in the top 10%: (3, 1 + B).
        moved_C: rows by class at pre and class at post: (classes², 1 + B); None: one step.
    """

    lens: Lens
    count_C: Array
    value_C: dict[str, Array]
    largest: dict[str, float]
    dealt_C: Array
    moved_C: Array | None

    def dealt(self, *, top: bool | None = None) -> Estimate:
        """Rock occurrences with losses dealt out anew, in the top 10% or not (None: either)."""
        at = [1, 2] if top is None else [2] if top else [1]
        return _total(self.dealt_C[at].sum(axis=0), 1.0)

    def count(
        self, classes: Iterable[int] | None = None, *, top: bool | None = None,
        kinds: Iterable[int] = range(KINDS),
    ) -> Estimate:  # fmt: skip
        """Rows of some classes, in the top 10% or not (None: either), of some kinds."""
        number = len(self.lens.classes)
        shaped = self.count_C.reshape(number, 2, KINDS, -1)
        at = list(range(number) if classes is None else classes)
        sides = [0, 1] if top is None else [int(top)]
        return _total(shaped[np.ix_(at, sides, list(kinds))].sum(axis=(0, 1, 2)), 1.0)

    def total(self, quantity: str, classes: Iterable[int] | None = None) -> Estimate:
        """Sum of a quantity over some classes."""
        at = list(range(len(self.lens.classes)) if classes is None else classes)
        return _total(self.value_C[quantity][at].sum(axis=0), self.largest[quantity])

    def moved(self, before: int | None, after: int | None) -> Estimate:
        """Rows of one class at pre and one at post; None: of any."""
        assert self.moved_C is not None
        number = len(self.lens.classes)
        shaped = self.moved_C.reshape(number, number, -1)
        rows = slice(None) if before is None else slice(before, before + 1)
        columns = slice(None) if after is None else slice(after, after + 1)
        return _total(shaped[rows, columns].sum(axis=(0, 1)), 1.0)


def _total(sum_B: Array, largest: float) -> Estimate:
    return Estimate.total(sum_B[0], sum_B[1:] - sum_B[0], largest)


class Cells:
    """Counts and sums of rows by class of each lens; the same bits however rows are cut.

    Args:
        lenses: names.
        columns: that they need, as they are at post.
        cuts: ending → thresholds, of post, with two steps of pre, and of shuffled rows.
        thresholds: who is persistent; None without persistence.
        rocks: ascending token ids.
        quantities: columns to sum by class.
        seed, replicates: of the weights, and of the shuffle.
        correct: which sequences were right; None where no lens needs that.
        compiled: use the compiled loop.
    """

    def __init__(
        self,
        lenses: Iterable[str],
        columns: Iterable[str],
        *,
        cuts: Mapping[str, Cuts],
        thresholds: Thresholds | None,
        rocks: Array,
        quantities: tuple[str, ...],
        seed: int,
        replicates: int,
        correct: Correct | None = None,
        compiled: bool = False,
    ) -> None:
        self.lenses, self.cuts = tuple(lenses), {name: dict(of) for name, of in cuts.items()}
        self.thresholds, self.rocks, self.quantities = thresholds, rocks, quantities
        self.seed, self.replicates, self.correct = seed, replicates, correct
        self.compiled = compiled
        losses = () if thresholds is None else ("loss_pre", "loss_post")
        own = needs(columns, sorted(self.cuts))
        self.needs = tuple(sorted({*own, *losses, *quantities, "token_id", "prompt"}))
        width = 1 + replicates
        sizes = {name: len(BY_NAME[name].classes) for name in self.lenses}
        self._count = {name: np.zeros((k * 2 * KINDS, width)) for name, k in sizes.items()}
        self._moved = {
            name: np.zeros((k * k, width))
            for name, k in sizes.items()
            if PRE in self.cuts and BY_NAME[name].moves
        }
        self._dealt = {name: np.zeros((3, width)) for name in sizes}
        # All lenses below one another: a row's value is taken apart once.
        self._start = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        self._height = sum(sizes.values())
        self._values = {name: ExactSums() for name in quantities}
        self.largest = dict.fromkeys(quantities, 0.0)
        #: Rows in all.
        self.rows = 0

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        if not len(batch["sequence_id"]):
            return
        self.rows += len(batch["sequence_id"])
        prompt_P, place_N = places_of_prompts(batch)
        weight_PB = poisson_weights(self.seed, self.replicates, prompt_P)
        weight_PB = np.concatenate((np.ones((len(prompt_P), 1)), weight_PB), axis=1)
        rows = self._rows_at(batch, POST)
        kind_N = self._kinds(batch)
        code_N = {name: BY_NAME[name].codes(rows) for name in self.lenses}
        parts: list[tuple[Array, Array]] = []
        for name, sums in self._count.items():
            top_N = BY_NAME[name].top(rows)
            parts.append((sums, (code_N[name] * 2 + top_N) * KINDS + kind_N))
        if self._moved:
            early = self._rows_at(batch, PRE)
            for name, sums in self._moved.items():
                lens = BY_NAME[name]
                parts.append((sums, lens.codes(early) * len(lens.classes) + code_N[name]))
        if self.thresholds is not None:
            dealt = self._rows_at(batch, SHUFFLED)
            rock_N = self._kinds(dealt.batch) == ROCK
            for name, sums in self._dealt.items():
                parts.append((sums, rock_N.astype(np.int64) * (1 + BY_NAME[name].top(dealt))))
        counted = [(place_N, cell_N, len(sums)) for sums, cell_N in parts]
        weighted = _weighted(counted, weight_PB, compiled=self.compiled)
        for (sums, _), more in zip(parts, weighted, strict=True):
            sums += more
        sizes = {name: len(BY_NAME[name].classes) for name in self.lenses}
        for quantity, exact in self._values.items():
            values_N = batch[quantity].astype(np.float64)
            self.largest[quantity] = max(self.largest[quantity], float(np.abs(values_N).max()))
            cells = [(place_N, code_N[name], size) for name, size in sizes.items()]
            for number, digit_N in enumerate(exact.split(values_N)):
                if digit_N is not None:
                    by_lens = _weighted(cells, weight_PB, digit_N, compiled=self.compiled)
                    exact.add(number, np.concatenate(by_lens))

    def _rows_at(self, batch: Batch, ending: str) -> Rows:
        return rows_at(
            batch, ending, self.cuts, correct=self.correct, seed=self.seed, compiled=self.compiled
        )

    def _kinds(self, batch: Batch) -> Array:
        kind_N: Array = is_among(batch["token_id"], self.rocks) * OF_TYPE
        if self.thresholds is not None:
            kind_N = kind_N + self.thresholds.chosen(batch) * HARD
        return kind_N

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.rows += other.rows
        for name, sums in other._count.items():
            self._count[name] += sums
        for name, sums in other._dealt.items():
            self._dealt[name] += sums
        for name, sums in other._moved.items():
            self._moved[name] += sums
        for name, exact in other._values.items():
            self._values[name].merge(exact)
            self.largest[name] = max(self.largest[name], other.largest[name])

    def result(self) -> list[LensSums]:
        """Sums of each lens, in their order."""
        values = {}
        for name, exact in self._values.items():
            whole = exact.result()
            values[name] = np.zeros((self._height, 1 + self.replicates)) if whole is None else whole
        found = []
        for name in self.lenses:
            lens, start = BY_NAME[name], self._start[name]
            mine = slice(start, start + len(lens.classes))
            of_class = {quantity: whole[mine] for quantity, whole in values.items()}
            found.append(
                LensSums(
                    lens,
                    self._count[name],
                    of_class,
                    self.largest,
                    self._dealt[name],
                    self._moved.get(name),
                )
            )
        return found


def _weighted(
    parts: Iterable[tuple[Array, Array, int]],
    weight_PB: Array,
    values_N: Array | None = None,
    *,
    compiled: bool = False,
) -> list[Array]:
    """Weighted sums by cell, (C, 1 + B) each: exact in any order, as all numbers are on grids.

    `parts`: prompt and cell of each row, and the number of cells. One product for all of them: of
    few cells it takes hardly longer for many more.
    """
    sum_of = _sums if compiled else _sums_numpy
    sums_PC = [
        sum_of(*part, values_N, len(weight_PB) * part[2]).reshape(len(weight_PB), part[2])
        for part in parts
    ]
    weighted = np.ascontiguousarray(np.concatenate(sums_PC, axis=1).T) @ weight_PB
    return np.split(weighted, np.cumsum([sum_PC.shape[1] for sum_PC in sums_PC])[:-1])


def _sums(place_N: Array, cell_N: Array, cells: int, values_N: Array | None, size: int) -> Array:
    """Rows, or sums of values, of each prompt and cell, float64. Twin: `_sums_numpy`."""
    from rocktok.analyses.lenses import cell_loops

    sum_E = np.zeros(size)
    if values_N is None:
        cell_loops.count(place_N, cell_N, cells, sum_E)
    else:
        cell_loops.add(place_N, cell_N, cells, values_N, sum_E)
    return sum_E


def _sums_numpy(
    place_N: Array, cell_N: Array, cells: int, values_N: Array | None, size: int
) -> Array:
    key_N = place_N * np.int64(cells) + cell_N
    return np.bincount(key_N, values_N, minlength=size).astype(np.float64)
