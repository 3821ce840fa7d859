"""The types of a log in the order of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.geometry_passes import geometry_at
from rocktok.analyses.controls.passes import controls
from rocktok.analyses.lenses.lens import BY_NAME, Lens, cuts_of
from rocktok.analyses.lenses.passes import find_cuts, usable_lenses
from rocktok.analyses.lenses.quantities import POST, Cuts, Rows
from rocktok.analyses.lenses.thresholds import CutsByEnding, Quantiles, needs
from rocktok.analyses.run import Run
from rocktok.analyses.weights.rocks_passes import Rocks
from rocktok.analyses.weights.selecting import Types
from rocktok.engine.source import Source
from rocktok.errors import LogError, UsageError
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import add_counts, padded
from rocktok.stats.sums import TypeSums
from rocktok.weighting import LENS


def check_lens(select: str) -> None:
    """Raise `UsageError` for a lens that there is none of, or that ranks no positions."""
    if not select.startswith(LENS):
        return
    name = select.removeprefix(LENS)
    ranking = [lens.name for lens in BY_NAME.values() if lens.score is not None]
    if name not in ranking:
        why = "ranks no positions" if name in BY_NAME else "does not exist"
        raise UsageError(
            f"select is {select!r}, but a lens {name!r} {why}; choose from {', '.join(ranking)}",
            parameter="select",
        )


@dataclass(frozen=True)
class Ordering:
    """All types of a log, and their order under a selection.

    Attributes:
        run: the log. source: rows of the later step.
        rocks: that the selection is held against.
        select: a selection other than "rocks".
    """

    run: Run
    source: Source
    rocks: Rocks
    select: str

    def result(self) -> tuple[Types, Array]:
        """(all types, ids in order). Raises `LogError` for what the log lacks."""
        columns = ("loss", *self._column())
        sums = TypeSums(columns, compiled=self.source.large)
        lens = self._lens()
        self.run.engine.run(self.source, sums)
        token_T = np.flatnonzero(sums.count_V)
        types = Types(token_T, sums.count_V[token_T], sums.sum_V["loss"][token_T])
        if int(types.count_T.sum()) != self.rocks.positions:
            raise LogError(
                f"{self.run.log.name}: has {int(types.count_T.sum()):,} positions at these steps, "
                f"but the rocks of {self.rocks.name} were found in {self.rocks.positions:,}; run "
                "`rocktok detect` on it again"
            )
        if self.select == "frequency":
            return types, types.by_score(types.count_T.astype(np.float64))
        if self.select == "random":
            return types, types.at_random(self.run.seed)
        if self.select == "control":
            return types, self._controls()
        if self.select == "aligned":
            return types, types.by_score(self._alignment(token_T))
        if lens is not None:
            top_V = padded(self._top(*lens), int(token_T[-1]) + 1)
            return types, types.by_score(types.means(top_V[token_T].astype(np.float64)))
        return types, types.by_score(types.means(sums.sum_V[columns[-1]][token_T]))

    def _column(self) -> tuple[str, ...]:
        """Of the table, beside the loss."""
        if self.select != "grad-norm":
            return ()
        if "grad_norm" not in self.run.log.columns(self.run.table):
            raise LogError(
                f"{self.run.log.name}: {self.run.table}/ has no column grad_norm; record it with "
                "Recorder(columns=[…, 'grad_norm']), or select otherwise"
            )
        return ("grad_norm",)

    def _alignment(self, token_T: Array) -> Array:
        """(T,) cosine of a type's gradient with that of all other occurrences, of other prompts."""
        _, measured = geometry_at(self.run.log)
        values_T = np.full(len(token_T), np.nan)
        here = np.isin(measured.token_T, token_T)
        values_T[np.searchsorted(token_T, measured.token_T[here])] = measured.split_cos_global[here]
        return values_T

    def _controls(self) -> Array:
        """The matched control of each rock, in the order of the rocks."""
        matched = controls(
            self.run.log,
            rocks=self.rocks.token_ids,
            kinds=("frequency",),
            table=self.run.table,
            seed=self.run.seed,
            engine=self.run.engine,
        ).kinds["frequency"]
        control = {int(str(rock)): int(str(other)) for rock, other in matched["pairs"]}
        ids = [control[v] for v in self.rocks.token_ids if v in control]
        if not ids:
            raise LogError(
                f"{self.run.log.name}: no rock has a matched control here; select otherwise"
            )
        return np.array(ids, dtype=np.int64)

    # -- lenses ----------------------------------------------------------------------------

    def _lens(self) -> tuple[Lens, list[str]] | None:
        """The lens and the columns that it needs; None: another selection."""
        if not self.select.startswith(LENS):
            return None
        name, log = self.select.removeprefix(LENS), self.run.log
        usable, missing = usable_lenses(log, self.run.table)
        if name not in usable:
            lacks = next(row for row in missing if row["lens"] == name)
            raise LogError(f"{log.name}: lens {name}: {lacks['why']}; {lacks['remedy']}")
        return BY_NAME[name], sorted(set(usable[name]))

    def _top(self, lens: Lens, columns: list[str]) -> Array:
        """By token id, occurrences among the top 10% of a lens."""
        engine, seed = self.run.engine, self.run.seed

        def found(wanted: list[tuple[str, float]], cuts: CutsByEnding) -> CutsByEnding:
            quantiles = Quantiles((POST, name, q) for name, q in wanted)
            return find_cuts(
                engine, self.source, quantiles, columns, cuts=cuts, correct=None, seed=seed
            )

        cuts = found(cuts_of([lens]), {})
        scaled = found(cuts_of([lens], later=True), cuts)
        cuts = {POST: {**cuts.get(POST, {}), **scaled.get(POST, {})}}
        top = TopCounts(lens.name, columns, cuts[POST])
        engine.run(self.source, top)
        return top.count_V


class TopCounts:
    """By token id, the rows among the top 10% of a lens.

    Args:
        lens: its name. columns: that it needs.
        cuts: its thresholds at the later step.
    """

    def __init__(self, lens: str, columns: list[str], cuts: Cuts) -> None:
        self.lens, self.cuts = lens, cuts
        self.needs = tuple(sorted({*needs(columns, [POST]), "token_id"}))
        self.count_V: Array = np.zeros(0, dtype=np.int64)

    def update(self, batch: Batch) -> None:
        """Count a batch of whole sequences."""
        if len(batch["sequence_id"]):
            top_N = BY_NAME[self.lens].top(Rows(batch, POST, self.cuts))
            self.count_V = add_counts(self.count_V, np.bincount(batch["token_id"][top_N]))

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        self.count_V = add_counts(self.count_V, other.count_V)
