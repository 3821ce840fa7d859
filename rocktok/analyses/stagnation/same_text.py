"""Whether steps have the same text: hashes that add up, whatever the order of the rows.

Array suffixes: N rows; S sequences.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import mix
from rocktok.stats.accumulator import Batch

#: Odd, so that none of the three loses bits; digits of √2, √3 and √5.
_KEYS = tuple(
    np.uint64(odd) for odd in (0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B)
)

#: Rows hashed at a time: what they take stays in a core's cache.
_BLOCK = 1 << 14


def hash_text(batch: Batch) -> Array:
    """(N,) uint64 hashes of (sequence, position, token)."""
    hash_N = np.empty(len(batch["token_id"]), dtype=np.uint64)
    for start in range(0, len(hash_N), _BLOCK):
        part = slice(start, start + _BLOCK)
        key_N = np.zeros(len(hash_N[part]), dtype=np.uint64)
        for name, odd in zip(TextHash.needs, _KEYS, strict=True):
            key_N += batch[name][part].astype(np.int64).view(np.uint64) * odd
        hash_N[part] = mix(key_N)
    return hash_N


class TextHash:
    """One number for all the text of a pass: equal for the same rows, however they are cut."""

    needs = ("sequence_id", "position", "token_id")

    def __init__(self) -> None:
        self.value = 0

    def update(self, batch: Batch) -> None:
        """Add a batch of rows."""
        self._add(int(hash_text(batch).sum(dtype=np.uint64)))

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._add(other.value)

    def _add(self, value: int) -> None:
        self.value = (self.value + value) % 2**64


class SequenceTexts:
    """The same, of each sequence: 16 bytes each. For steps whose `TextHash` differ."""

    needs = TextHash.needs

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        sequence_N = batch["sequence_id"]
        if len(sequence_N):
            starts = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
            self._parts.append((sequence_N[starts], np.add.reduceat(hash_text(batch), starts)))

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._parts += other._parts

    def result(self) -> tuple[Array, Array]:
        """Ascending ids (S,), and the hash of each one's text (S,)."""
        if not self._parts:
            return np.zeros(0, np.int64), np.zeros(0, np.uint64)
        ids, hashes = (np.concatenate(side) for side in zip(*self._parts, strict=True))
        order = np.argsort(ids, kind="stable")
        ids, hashes = ids[order], hashes[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        return ids[starts], np.add.reduceat(hashes, starts)
