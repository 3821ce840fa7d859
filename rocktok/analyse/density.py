"""Density: how much of each sequence is rock."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rocktok.analyse.accumulate import Batch, quantile

Array = npt.NDArray[Any]


class Density:
    """Per sequence, the share of positions of rock types, and of their retained occurrences."""

    def __init__(self, rocks: Array, retained: tuple[Array, Array] | None) -> None:
        self.rocks = rocks
        self.retained = retained
        self._parts: list[tuple[Array, Array]] = []

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        sequence_N = batch["sequence_id"]
        if len(sequence_N) == 0:
            return
        starts = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
        length_S = np.diff(np.append(starts, len(sequence_N)))
        of_type_N = np.isin(batch["token_id"], self.rocks).astype(np.int64)
        type_S = np.add.reduceat(of_type_N, starts) / length_S
        self._parts.append((type_S, self._retained(sequence_N[starts]) / length_S))

    def _retained(self, sequence_S: Array) -> Array:
        if self.retained is None:
            return np.full(len(sequence_S), np.nan)
        ids, counts = self.retained
        if len(ids) == 0:
            return np.zeros(len(sequence_S))
        at = np.minimum(np.searchsorted(ids, sequence_S), len(ids) - 1)
        held: Array = np.where(ids[at] == sequence_S, counts[at], 0)
        return held

    def merge(self, other: Self) -> None:
        """Append another's sequences."""
        self._parts.extend(other._parts)

    def result(self) -> dict[str, Any]:
        """Median, 10th and 90th percentile of both shares; None where not computed."""
        type_S, retained_S = (np.concatenate(side) for side in zip(*self._parts, strict=True))
        return {"type": _spread(type_S), "retained": _spread(retained_S)}


def _spread(share_S: Array) -> dict[str, float | None]:
    points = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    if np.isnan(share_S).any():
        return dict.fromkeys(points)
    return {name: quantile(share_S, q) for name, q in points.items()}
