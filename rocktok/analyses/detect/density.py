"""Density: how much of each sequence is rock."""

from __future__ import annotations

from typing import Self, TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DensityRow, Spread
from rocktok.hashing import hash_rows
from rocktok.runs import run_starts
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.quantiles import quantile

_ROW = np.dtype([("hash", np.uint64), ("type", np.float64), ("retained", np.float64)])


class DensityHistogram(TypedDict):
    """Sequences by share: edges of the bins, and how many sequences each has, by kind of share.

    A kind is None where it was not computed. `sequences`: looked at, of those `seen`.
    """

    edges: list[float]
    type: list[int] | None
    retained: list[int] | None
    sequences: int
    seen: int


class Density:
    """Per sequence, the share of positions of rock types, and of their retained occurrences.

    Of many sequences, those with the smallest hashes of (seed, sequence_id) are looked at.

    Args:
        rocks: token ids.
        retained: (ascending sequence ids, retained occurrences of rocks in each), of the types
            whose contexts were judged one by one; None: context consistency was not computed.
        sampled: token id → share of the persistent occurrences that is retained, of the types
            judged by a sample: each of their persistent occurrences counts as that much.
        thresholds: what is persistent; needed for `sampled`.
        seed, most: which sequences are looked at, and how many.
        without: sequences without rocks, of a log whose contexts were not judged, counted already.
    """

    def __init__(
        self,
        rocks: Array,
        retained: tuple[Array, Array] | None,
        sampled: dict[int, float] | None = None,
        thresholds: Thresholds | None = None,
        seed: int = 0,
        most: int = 1 << 16,
        without: int = 0,
    ) -> None:
        self.needs: tuple[str, ...] = ("token_id", "sequence_id")
        self.rocks = np.sort(rocks)
        self.retained = retained
        self.sampled = dict(sorted((sampled or {}).items()))
        self.thresholds = thresholds
        if self.sampled:
            self.needs += ("loss_pre", "loss_post")
        self.seed, self.most = seed, most
        self.seen = without
        self._rows = np.zeros(min(without, most), dtype=_ROW)
        self._rows["retained"] = np.nan

    @classmethod
    def without_rocks(cls, sequences: int, seed: int) -> Self:
        """What a pass comes to where there are no rocks, and no contexts were judged."""
        return cls(np.zeros(0, dtype=np.int64), None, seed=seed, without=sequences)

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        sequence_N = batch["sequence_id"]
        if len(sequence_N) == 0:
            return
        starts = run_starts(sequence_N)
        rows = np.zeros(len(starts), dtype=_ROW)
        length_S = np.diff(np.append(starts, len(sequence_N)))
        rows["hash"] = hash_rows(self.seed, sequence_N[starts])
        if len(self.rocks):
            of_type_N = is_among(batch["token_id"], self.rocks).astype(np.int64)
            rows["type"] = np.add.reduceat(of_type_N, starts) / length_S
        retained_S = self._counted(sequence_N[starts])
        if self.sampled:
            retained_S = retained_S + np.add.reduceat(self._expected(batch), starts)
        rows["retained"] = retained_S / length_S
        self.seen += len(starts)
        self._join(rows)

    def _counted(self, sequence_S: Array) -> Array:
        """Retained occurrences of the types that were judged one by one; NaN without contexts."""
        if self.retained is None:
            return np.full(len(sequence_S), np.nan)
        ids, counts = self.retained
        if len(ids) == 0:
            return np.zeros(len(sequence_S))
        at = np.minimum(np.searchsorted(ids, sequence_S), len(ids) - 1)
        count_S: Array = np.where(ids[at] == sequence_S, counts[at], 0)
        return count_S

    def _expected(self, batch: Batch) -> Array:
        """What each row counts, as a retained occurrence of a sampled type."""
        assert self.thresholds is not None
        share_V = np.zeros(max(self.sampled) + 2)
        share_V[list(self.sampled)] = list(self.sampled.values())
        share_N = share_V[np.minimum(batch["token_id"], len(share_V) - 1)]
        expected: Array = share_N * self.thresholds.persistent(
            batch["loss_pre"], batch["loss_post"]
        )
        return expected

    def merge(self, other: Self) -> None:
        """Add another's sequences."""
        self.seen += other.seen
        self._join(other._rows)

    def _join(self, rows: Array) -> None:
        rows = np.concatenate((self._rows, rows))
        if len(rows) > self.most:
            cut = np.partition(rows["hash"], self.most - 1)[self.most - 1]
            below, ties = rows[rows["hash"] < cut], rows[rows["hash"] == cut]
            ties = np.sort(ties, order=["type", "retained"])[: self.most - len(below)]
            rows = np.concatenate((below, ties))
        self._rows = rows

    def result(self) -> DensityRow:
        """Median, 10th and 90th percentile of both shares; None where not computed."""
        return {
            "type": _spread(self._rows["type"]),
            "retained": _spread(self._rows["retained"]),
            "sequences": len(self._rows),
        }

    def histogram(self, bins: int = 20) -> DensityHistogram:
        """Sequences by share."""
        edges = np.linspace(0.0, 1.0, bins + 1)
        return {
            "edges": edges.tolist(),
            "type": _histogram(self._rows["type"], edges),
            "retained": _histogram(self._rows["retained"], edges),
            "sequences": len(self._rows),
            "seen": self.seen,
        }


def density_of(types: TypeTable, rocks: Array, thresholds: Thresholds | None, seed: int) -> Density:
    """The density of rocks (indices), yet to be fed; `thresholds` None: no contexts were judged."""
    retained = None if thresholds is None else _retained_sequences(types, rocks)
    sampled = _sampled_shares(types, rocks)
    return Density(types.token_T[rocks], retained, sampled, thresholds, seed)


def _retained_sequences(types: TypeTable, rocks: Array) -> tuple[Array, Array]:
    """(sequence ids, retained occurrences in each) of the rocks that were judged in full."""
    sequences: list[Array] = [np.zeros(0, dtype=np.int64)]
    for index in rocks.tolist():
        context = types.context[index]
        if context.hit_sequences is not None and not context.sampled:
            sequences.append(context.hit_sequences)
    ids, counts = np.unique(np.concatenate(sequences), return_counts=True)
    return ids, counts


def _sampled_shares(types: TypeTable, rocks: Array) -> dict[int, float]:
    """Token id → retained share of the persistent occurrences, of the rocks that were sampled."""
    contexts = {int(types.token_T[i]): types.context.get(i) for i in rocks.tolist()}
    return {v: context.share for v, context in contexts.items() if context and context.sampled}


def _spread(share_S: Array) -> Spread:
    if np.isnan(share_S).any():
        return {"median": None, "p10": None, "p90": None}
    median, p10, p90 = (quantile(share_S, q) for q in (0.5, 0.1, 0.9))
    return {"median": median, "p10": p10, "p90": p90}


def _histogram(share_S: Array, edges: Array) -> list[int] | None:
    if np.isnan(share_S).any():
        return None
    counts: list[int] = np.histogram(share_S, edges)[0].tolist()
    return counts
