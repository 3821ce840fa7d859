"""Whole sequences for the text view: their random sample, and their rows.

Array suffixes: N rows; S sequences.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch

#: A sequence's rows at a step, by column.
Occurrences = dict[str, Array]


class DrawnSequences:
    """Uniform random sample: the sequences with the smallest hashes of (seed, sequence_id).

    `seen`: sequences offered. `rows_S`: structured, `hash`, `sequence` and `rows` (how many).
    """

    needs = ("sequence_id",)

    def __init__(self, seed: int, most: int) -> None:
        self.seed, self.most, self.seen = seed, most, 0
        kind = [("hash", np.uint64), ("sequence", np.int64), ("rows", np.int64)]
        self.rows_S = np.zeros(0, dtype=kind)

    def update(self, batch: Batch) -> None:
        """Add the sequences of a batch."""
        sequence_N = batch["sequence_id"]
        if not len(sequence_N):
            return
        start_S = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
        offered_S = np.zeros(len(start_S), dtype=self.rows_S.dtype)
        offered_S["sequence"] = sequence_N[start_S]
        offered_S["hash"] = hash_rows(self.seed, offered_S["sequence"])
        offered_S["rows"] = np.diff(np.append(start_S, len(sequence_N)))
        self.seen += len(start_S)
        self._join(offered_S)

    def merge(self, other: Self) -> None:
        """Add another's sequences."""
        self.seen += other.seen
        self._join(other.rows_S)

    def _join(self, offered_S: Array) -> None:
        rows = np.concatenate((self.rows_S, offered_S))
        self.rows_S = np.sort(rows, order=["hash", "sequence"])[: self.most]

    def result(self) -> list[int]:
        """Ids of the sampled sequences, in ascending order of their hashes."""
        return [int(v) for v in self.rows_S["sequence"]]


class SequenceRows:
    """All rows of some sequences.

    Args:
        columns: beside keys and token ids.
        only: ascending ids of the sequences; None: all that the source has.
    """

    def __init__(self, columns: tuple[str, ...], only: Array | None = None) -> None:
        self.columns, self.only = columns, only
        self.needs = ("sequence_id", "position", "token_id", *columns)
        self._parts: list[dict[str, Array]] = []

    def update(self, batch: Batch) -> None:
        """Keep a batch."""
        kept: Array | slice = slice(None)
        if self.only is not None:
            kept = np.isin(batch["sequence_id"], self.only)
        part = {name: batch[name][kept] for name in self.needs}
        if len(part["sequence_id"]):
            # A slice would keep the whole batch alive.
            self._parts.append({name: values.copy() for name, values in part.items()})

    def merge(self, other: Self) -> None:
        """Append another's rows."""
        self._parts.extend(other._parts)

    def result(self) -> dict[int, Occurrences]:
        """Sequence id → its columns, in the order of position."""
        by_sequence: dict[int, dict[str, Array]] = {}
        for part in self._parts:
            ids, start_S = np.unique(part["sequence_id"], return_index=True)
            stop_S = np.append(np.sort(start_S)[1:], len(part["sequence_id"]))
            for v, start in zip(ids.tolist(), start_S.tolist(), strict=True):
                stop = int(stop_S[np.searchsorted(stop_S, start, side="right")])
                by_sequence[v] = {name: values[start:stop] for name, values in part.items()}
        return by_sequence
