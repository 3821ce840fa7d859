"""Samples of occurrences with what they are matched on: the same however the log is cut.

Array suffixes: N rows of a batch; M rows that are kept; F features.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among

#: What is kept of an occurrence beside its features.
KEYS = ("hash", "sequence_id", "position", "token_id", "bin")

FEATURES = ("relative position", "log10 length", "log10 loss", "window tokens",
            "window log10 frequency", "rocks in window")  # fmt: skip

#: Rows of a sample, by column, and their features (M, F).
Sampled = tuple[dict[str, Array], Array]


class Occurrences:
    """The smallest hashes of (seed, sequence, position) among rock or among other occurrences.

    Args:
        rocks: ascending token ids; `of_rocks`: whether theirs are sampled, or all others.
        most: how many are kept of each bin.
        edge_B: ascending inner edges of the bins of the loss; none: one bin. Losses below the first
            or above the last edge are in no bin.
        count_V: occurrences by token id, for the frequencies of a window's tokens.
        window: offsets on each side.
    """

    needs = ("sequence_id", "position", "token_id", "loss")

    def __init__(
        self, rocks: Array, *, of_rocks: bool, most: int, edge_B: Array, count_V: Array,
        window: int, seed: int,
    ) -> None:  # fmt: skip
        self.rocks, self.of_rocks, self.most = rocks, of_rocks, most
        self.edge_B, self.window, self.seed = edge_B, window, seed
        self.log_V = np.log10(np.maximum(count_V, 1))
        self.rows: dict[str, Array] = {name: np.zeros(0, np.int64) for name in KEYS}
        self.rows["hash"] = np.zeros(0, np.uint64)
        self.feature_MF = np.zeros((0, len(FEATURES)))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        wanted = is_among(batch["token_id"], self.rocks) == self.of_rocks
        wanted &= batch["loss"] > 0
        bin_N = np.searchsorted(self.edge_B, batch["loss"])
        if len(self.edge_B):
            wanted &= (bin_N > 0) & (bin_N < len(self.edge_B))
        at = np.flatnonzero(wanted)
        hash_M = hash_rows(self.seed, batch["sequence_id"][at], batch["position"][at])
        # Nearly all, once there are enough: what cannot be kept need not be sorted.
        able = hash_M <= self._limits()[bin_N[at]]
        at, hash_M = at[able], hash_M[able]
        kept = _smallest(hash_M, bin_N[at], self.most)
        at = at[kept]
        rows = {"hash": hash_M[kept], "bin": bin_N[at]}
        rows |= {name: batch[name][at] for name in ("sequence_id", "position", "token_id")}
        self._add(rows, self._features(batch, at))

    def _limits(self) -> Array:
        """Of each bin the largest hash that may still be kept."""
        bins = len(self.edge_B) + 1
        limits_B = np.full(bins, np.iinfo(np.uint64).max)
        full_B = np.bincount(self.rows["bin"], minlength=bins) >= self.most
        for full in np.flatnonzero(full_B):
            limits_B[full] = self.rows["hash"][self.rows["bin"] == full].max(initial=0)
        return limits_B

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._add(other.rows, other.feature_MF)

    def _add(self, rows: dict[str, Array], feature_MF: Array) -> None:
        joined = {name: np.concatenate((self.rows[name], rows[name])) for name in KEYS}
        kept = _smallest(joined["hash"], joined["bin"], self.most)
        self.rows = {name: values[kept] for name, values in joined.items()}
        self.feature_MF = np.concatenate((self.feature_MF, feature_MF))[kept]

    def _features(self, batch: Batch, at: Array) -> Array:
        sequence_N, position_N = batch["sequence_id"], batch["position"].astype(np.int64)
        starts = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
        length_N = np.repeat(np.diff(np.append(starts, len(sequence_N))), np.diff(
            np.append(starts, len(sequence_N))))  # fmt: skip
        tokens, logs, hits = np.zeros((3, len(at)))
        for offset in (*range(-self.window, 0), *range(1, self.window + 1)):
            there = np.clip(at + offset, 0, len(sequence_N) - 1)
            # By position, as windows go: where rows are missing the neighbour is further away.
            inside = (there == at + offset) & (sequence_N[there] == sequence_N[at])
            inside &= np.abs(position_N[there] - position_N[at]) <= self.window
            token_M = batch["token_id"][there]
            tokens += inside
            logs += np.where(inside, self.log_V[np.minimum(token_M, len(self.log_V) - 1)], 0.0)
            hits += inside & is_among(token_M, self.rocks)
        mean_log = np.divide(logs, tokens, out=np.full(len(at), np.nan), where=tokens > 0)
        loss = np.log10(batch["loss"][at].astype(np.float64))
        last = position_N[np.append(starts[1:], len(sequence_N)) - 1]
        span = np.repeat(last, np.diff(np.append(starts, len(sequence_N))))[at]
        relative = position_N[at] / np.maximum(1, span)
        return np.stack([relative, np.log10(length_N[at]), loss, tokens, mean_log, hits], axis=1)

    def result(self) -> Sampled:
        """Rows and their features (M, F), in the order of sequence and position."""
        order = np.lexsort((self.rows["position"], self.rows["sequence_id"]))
        return {name: values[order] for name, values in self.rows.items()}, self.feature_MF[order]


def _smallest(hash_M: Array, bin_M: Array, most: int) -> Array:
    """Places of the `most` smallest hashes of each bin."""
    order = np.lexsort((hash_M, bin_M))
    sorted_M = bin_M[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_M, sorted_M)
    kept: Array = order[rank < most]
    return kept
