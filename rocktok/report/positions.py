"""Loss by relative position in a sequence: sums for rocks and for all other types."""

from __future__ import annotations

from typing import NotRequired, Self, TypedDict, cast

import numpy as np

from rocktok._types import Array
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.group_names import OTHERS, ROCKS

#: Bins of the relative position.
BINS = 20


class MeanLosses(TypedDict):
    """Mean losses in nats, at pre where two steps are joined; None without positions."""

    loss_pre: NotRequired[float | None]
    loss_post: float | None


class PositionBin(MeanLosses):
    """A group of types, "rocks" or "others", between two relative positions."""

    group: str
    low: float
    high: float
    positions: int


class LossByPosition:
    """Positions and losses by relative position (position + ½) / length, in `BINS` bins.

    The length of a sequence is its last recorded position + 1.

    Args:
        rocks: token ids.
        earlier: ("loss_pre",) where two steps are joined, else nothing; beside `loss`.

    `count_GB`: positions of others (row 0) and of rocks (row 1); `sum_GB`: name → nats.
    """

    def __init__(self, rocks: Array, earlier: tuple[str, ...]) -> None:
        self.rocks = np.sort(rocks)
        #: Name in the result → column.
        self.columns = {**{name: name for name in earlier}, "loss_post": "loss"}
        self.needs = ("sequence_id", "position", "token_id", *self.columns.values())
        self.count_GB = np.zeros((2, BINS), dtype=np.int64)
        self.sum_GB = {name: np.zeros((2, BINS)) for name in self.columns}

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        sequence_N, position_N = batch["sequence_id"], batch["position"].astype(np.int64)
        if not len(sequence_N):
            return
        last_N = np.concatenate((sequence_N[1:] != sequence_N[:-1], [True]))
        stop_S = np.flatnonzero(last_N)
        length_N = np.repeat(position_N[stop_S] + 1, np.diff(stop_S, prepend=-1))
        bin_N = (2 * position_N + 1) * BINS // (2 * length_N)
        cell_N = bin_N + BINS * is_among(batch["token_id"], self.rocks)
        self.count_GB += np.bincount(cell_N, minlength=2 * BINS).reshape(2, BINS)
        for name, total_GB in self.sum_GB.items():
            weight_N = batch[self.columns[name]].astype(np.float64)
            total_GB += np.bincount(cell_N, weight_N, minlength=2 * BINS).reshape(2, BINS)

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self.count_GB += other.count_GB
        for name, total_GB in self.sum_GB.items():
            total_GB += other.sum_GB[name]

    def result(self) -> list[PositionBin]:
        """Rows by bin: first of the other types, then of the rocks."""
        return [
            {
                "group": name,
                "low": at / BINS,
                "high": (at + 1) / BINS,
                "positions": int(self.count_GB[group, at]),
                **self._means(group, at),
            }
            for group, name in enumerate((OTHERS.name, ROCKS.name))
            for at in range(BINS)
        ]

    def _means(self, group: int, at: int) -> MeanLosses:
        count = int(self.count_GB[group, at])
        means = {
            column: float(total_GB[group, at]) / count if count else None
            for column, total_GB in self.sum_GB.items()
        }
        return cast(MeanLosses, means)
