"""Sketches of the teacher's hidden states: the signs of random projections, 256 for each position.

The vector is the one that enters the teacher's output head where it predicted the token. A sign is
that of its projection less the mean of the projections over all positions of one scoring, which is
the projection of the vector less the mean vector. Two sketches that differ in h bits have a
similarity of cos(π·h/256), an estimate of the cosine of the two vectors.

The mean is known only when all of the text has been scored, so that projections are kept until
then, in float32: 1 KiB a position.

Source: M. Charikar, Similarity estimation techniques from rounding algorithms (STOC 2002).

Shape suffixes: N positions, S sequences, K projections, H hidden size, B bytes of a sketch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rocktok.schema as schema

Array = NDArray[Any]

BITS = 8 * schema.CONTEXT_BYTES
SEED = 0
#: Positions whose projections one process keeps at most: 1 GiB.
MOST_POSITIONS = 1 << 20


def projection(hidden_size: int, seed: int = SEED) -> NDArray[np.float32]:
    """(H, K) matrix of standard normal numbers, the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(seed=seed))
    return generator.standard_normal((hidden_size, BITS), dtype=np.float32)


def describe_contexts(hidden_size: int | None) -> dict[str, int]:
    """What run.json says of them."""
    said = {"bits": BITS, "seed": SEED}
    return said if hidden_size is None else {**said, "hidden_size": hidden_size}


def pack(projected_NK: Array, mean_K: Array) -> NDArray[np.uint8]:
    """(N, B) signs of the projections less their mean: bit i of a row is bit i % 8 of byte i // 8.

    `mean_K`: float64; the difference is taken in float64.
    """
    above_NK = projected_NK.astype(np.float64) > mean_K
    return np.packbits(above_NK, axis=1, bitorder="little")


@dataclass(frozen=True)
class ProjectionSums:
    """Sums over the positions of each of S sequences, which add up the same on any ranks.

    Attributes:
        sequence_S: (S,) int64.
        count_S: (S,) int64 positions.
        sum_SK: (S, K) float64.
    """

    sequence_S: Array
    count_S: Array
    sum_SK: Array


def mean_projection(parts: Sequence[ProjectionSums]) -> NDArray[np.float64]:
    """(K,) mean over all positions; in order of sequence id, so that any split gives the same."""
    sequence_S = np.concatenate([part.sequence_S for part in parts])
    order_S = np.argsort(sequence_S, kind="stable")
    count = int(sum(part.count_S.sum() for part in parts))
    sum_SK = np.concatenate([part.sum_SK for part in parts])[order_S]
    mean_K: NDArray[np.float64] = sum_SK.sum(axis=0) / max(1, count)
    return mean_K


@dataclass
class Projections:
    """The projections of one scoring of kept text, until the mean over all of it is known.

    Attributes:
        known: sequences that have their sketches already; they count in the mean alone.
        fault: why projections are missing, if some are.
    """

    known: Collection[int] = ()
    fault: str | None = None
    _kept: list[tuple[Array, Array, Array]] = field(default_factory=list)
    _sums: list[ProjectionSums] = field(default_factory=list)

    def add(self, sequence_N: Array, position_N: Array, projected_NK: Array) -> None:
        """Add whole sequences, each once; rows of a sequence stand together.

        Raises `ValueError` for projections that are not finite.
        """
        if not len(sequence_N):
            return
        if not np.isfinite(projected_NK).all():
            raise ValueError("the teacher's hidden state is NaN or infinite")
        start_S = np.flatnonzero(np.diff(sequence_N, prepend=sequence_N[0] - 1))
        count_S = np.diff(np.append(start_S, len(sequence_N)))
        # One sequence at a time: float64 copies of all rows would be twice as large as the rows.
        sum_SK = np.stack(
            [
                projected_NK[start : start + count].sum(axis=0, dtype=np.float64)
                for start, count in zip(start_S.tolist(), count_S.tolist(), strict=True)
            ]
        )
        self._sums.append(ProjectionSums(sequence_N[start_S].astype(np.int64), count_S, sum_SK))
        new_N = ~np.isin(sequence_N, list(self.known))
        if new_N.all():
            self._kept.append((sequence_N, position_N, projected_NK))
        elif new_N.any():
            self._kept.append((sequence_N[new_N], position_N[new_N], projected_NK[new_N]))

    def sums(self) -> ProjectionSums:
        """Of all sequences that were added."""
        empty = np.zeros(0, dtype=np.int64)
        parts = [ProjectionSums(empty, empty, np.zeros((0, BITS))), *self._sums]
        return ProjectionSums(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("sequence_S", "count_S", "sum_SK")
            )
        )

    def rows(self, mean_K: Array) -> dict[str, Array]:
        """Rows of contexts/ without their step, of the sequences that have no sketch yet."""
        empty = np.zeros(0, dtype=np.int64)
        parts = [
            (empty, empty, np.zeros((0, schema.CONTEXT_BYTES), np.uint8)),
            *(
                (sequence_N, position_N, pack(projected_NK, mean_K))
                for sequence_N, position_N, projected_NK in self._kept
            ),
        ]
        sequence_N, position_N, context_NB = map(np.concatenate, zip(*parts, strict=True))
        return {"sequence_id": sequence_N, "position": position_N, "context": context_NB}
