"""Density: how much of each sequence is rock."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.quantiles import quantile

_ROW = np.dtype([("hash", np.uint64), ("type", np.float64), ("retained", np.float64)])


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
    """

    def __init__(
        self,
        rocks: Array,
        retained: tuple[Array, Array] | None,
        sampled: dict[int, float] | None = None,
        thresholds: Thresholds | None = None,
        seed: int = 0,
        most: int = 1 << 16,
    ) -> None:
        self.needs: tuple[str, ...] = ("token_id", "sequence_id")
        self.rocks = np.sort(rocks)
        self.retained = retained
        self.sampled = dict(sorted((sampled or {}).items()))
        self.thresholds = thresholds
        if self.sampled:
            self.needs += ("loss_pre", "loss_post")
        self.seed, self.most = seed, most
        self.seen = 0
        self._rows = np.zeros(0, dtype=_ROW)

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        sequence_N = batch["sequence_id"]
        if len(sequence_N) == 0:
            return
        starts = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
        rows = np.zeros(len(starts), dtype=_ROW)
        length_S = np.diff(np.append(starts, len(sequence_N)))
        of_type_N = is_among(batch["token_id"], self.rocks).astype(np.int64)
        rows["hash"] = hash_rows(self.seed, sequence_N[starts])
        rows["type"] = np.add.reduceat(of_type_N, starts) / length_S
        retained_S = self._judged(sequence_N[starts])
        if self.sampled:
            retained_S = retained_S + np.add.reduceat(self._expected(batch), starts)
        rows["retained"] = retained_S / length_S
        self.seen += len(starts)
        self._join(rows)

    def _judged(self, sequence_S: Array) -> Array:
        if self.retained is None:
            return np.full(len(sequence_S), np.nan)
        ids, counts = self.retained
        if len(ids) == 0:
            return np.zeros(len(sequence_S))
        at = np.minimum(np.searchsorted(ids, sequence_S), len(ids) - 1)
        held: Array = np.where(ids[at] == sequence_S, counts[at], 0)
        return held

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
            rows = np.sort(rows, order=["hash", "type", "retained"])[: self.most]
        self._rows = rows

    def result(self) -> dict[str, Any]:
        """Median, 10th and 90th percentile of both shares; None where not computed."""
        return {
            "type": _spread(self._rows["type"]),
            "retained": _spread(self._rows["retained"]),
            "sequences": len(self._rows),
        }

    def histogram(self, bins: int = 20) -> dict[str, Any]:
        """Sequences by share: the edges of the bins, and for both shares how many are in each.

        None for a share that was not computed.
        """
        edges = np.linspace(0.0, 1.0, bins + 1)
        counts = {}
        for name in ("type", "retained"):
            share_S = self._rows[name]
            known = not np.isnan(share_S).any()
            counts[name] = np.histogram(share_S, edges)[0].tolist() if known else None
        return {"edges": edges.tolist(), **counts, "sequences": len(self._rows), "seen": self.seen}


def _spread(share_S: Array) -> dict[str, float | None]:
    points = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    if np.isnan(share_S).any():
        return dict.fromkeys(points)
    return {name: quantile(share_S, q) for name, q in points.items()}
