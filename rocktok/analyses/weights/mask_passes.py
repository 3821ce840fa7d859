"""A mask: the weight of every position of fixed text, in the order of the text.

Array suffixes: N positions of a range of sequences; M retained occurrences in it.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa

from rocktok._types import Array
from rocktok.analyses.occurrences.file_passes import PLACES, RowGroups
from rocktok.analyses.weights.result import MaskCounts
from rocktok.analyses.weights.retained_passes import Places, RetainedPlaces
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.weighting import Weights

SCHEMA = pa.schema([*PLACES, ("weight", pa.float32())])


class TextPlaces:
    """Collects the text of a range of sequences: sequence, position and token of each row."""

    needs = ("sequence_id", "position", "token_id")

    def __init__(self) -> None:
        self._parts: list[dict[str, Array]] = []

    def update(self, batch: Batch) -> None:
        """Add a batch."""
        self._parts.append({name: batch[name].copy() for name in self.needs})

    def merge(self, other: Self) -> None:
        """Append another's rows."""
        self._parts += other._parts

    def result(self) -> dict[str, Array]:
        """The columns (N,) by sequence and position; empty without rows."""
        if not self._parts:
            return {name: np.zeros(0, np.int64) for name in self.needs}
        rows = {name: np.concatenate([p[name] for p in self._parts]) for name in self.needs}
        order = np.lexsort((rows["position"], rows["sequence_id"]))
        return {name: values[order] for name, values in rows.items()}


def write_mask(
    file: BinaryIO,
    engine: Engine,
    source: Source,
    weights: Weights,
    retained: RetainedPlaces | None,
) -> MaskCounts:
    """Write the weights of all rows of a source; one pass. `retained`: for a radius."""
    about: dict[str, Any] = {**weights.to_dict(), "schema": "rocktok.mask/1"}
    with RowGroups(file, SCHEMA, about) as writer:
        selected = np.array(sorted(weights.token_ids), dtype=np.int64)
        weighted = by_radius = unpaired = 0
        for part in engine.partials(source, TextPlaces()):
            unpaired += part.unpaired
            (text,) = part.accumulators
            assert isinstance(text, TextPlaces)
            rows = text.result()
            if not len(rows["token_id"]):
                continue
            of_type_N = is_among(rows["token_id"], selected)
            near_N = np.zeros(len(of_type_N), dtype=bool)
            if retained is not None:
                places = retained.until(int(rows["sequence_id"][-1]))
                near_N = within(rows["sequence_id"], rows["position"], places, weights.radius)
            either_N = of_type_N | near_N
            weighted += int(either_N.sum())
            by_radius += int((near_N & ~of_type_N).sum())
            columns = {
                "sequence_id": pa.array(rows["sequence_id"], pa.int64()),
                "position": pa.array(rows["position"].astype(np.int32)),
                "weight": pa.array(np.where(either_N, weights.weight, 1.0).astype(np.float32)),
            }
            writer.add(pa.table(columns, schema=SCHEMA))
    return {
        "positions": writer.rows,
        "weighted": weighted,
        "by_radius": by_radius,
        "unpaired_sequences": unpaired,
    }


def within(sequence_N: Array, position_N: Array, places: Places, radius: int) -> Array:
    """(N,) bool, which positions lie at most so far from a place in their sequence.

    Rows and places are sorted by sequence and position.
    """
    if not len(places.sequence_M):
        return np.zeros(len(sequence_N), dtype=bool)
    # No radius reaches from one sequence into the next.
    ids_S = np.unique(np.concatenate((sequence_N, places.sequence_M)))
    own_N = (np.searchsorted(ids_S, sequence_N) << np.int64(33)) + position_N
    place_M = (np.searchsorted(ids_S, places.sequence_M) << np.int64(33)) + places.position_M
    after_N = np.searchsorted(place_M, own_N)
    right_N = place_M[np.minimum(after_N, len(place_M) - 1)]
    left_N = place_M[np.maximum(after_N - 1, 0)]
    distance_N = np.minimum(np.abs(right_N - own_N), np.abs(own_N - left_N))
    near: Array = distance_N <= min(radius, 2**32 - 1)
    return near
