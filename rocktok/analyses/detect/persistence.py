"""Persistent occurrences: hard at both steps, on the same text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.windows import (
    CONTENTS,
    SKETCH_COLUMNS,
    offsets,
    sketched,
    sketches,
    smallest_below,
    window_tokens,
)
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import add_counts


def reaches(values_N: Array, least: float) -> Array:
    """Which values are at least a number: of float32 as if these were float64, without a copy."""
    if values_N.dtype == np.float32:
        with np.errstate(over="ignore"):
            single = np.float32(least)
        # The smallest float32 that is not below it.
        if float(single) < least:
            single = np.nextafter(single, np.float32(np.inf))
        reached_N: Array = values_N >= single
        return reached_N
    reached_N = values_N.astype(np.float64) >= least
    return reached_N


@dataclass(frozen=True)
class Thresholds:
    """Thresholds in nats: of the loss at pre and at post, or (recalcitrant) of the change."""

    pre: float
    post: float | None = None
    change: float | None = None

    def persistent(self, pre_N: Array, post_N: Array) -> Array:
        """Which rows (float32 losses) belong to O_PH."""
        hard_N = reaches(pre_N, self.pre)
        if self.change is not None:
            return hard_N & ((pre_N - post_N).astype(np.float64) < self.change)
        assert self.post is not None
        return hard_N & reaches(post_N, self.post)

    def chosen(self, batch: Batch) -> Array:
        """Which rows of a joined batch belong to O_PH."""
        return self.persistent(batch["loss_pre"], batch["loss_post"])


class Choice(Protocol):
    """Which rows of a joined batch are collected: O_PH, or others in their place."""

    def chosen(self, batch: Batch) -> Array:
        """(N,) bool."""


@dataclass(frozen=True)
class Others:
    """The rows that are not persistent."""

    thresholds: Thresholds

    def chosen(self, batch: Batch) -> Array:
        """Which rows of a joined batch do not belong to O_PH."""
        rest_N: Array = ~self.thresholds.chosen(batch)
        return rest_N


class HardCounts:
    """Per token type, the rows that are hard at pre, at post, and persistent.

    `count_V`: name ("pre", "post", "both") → int64 array by token id.
    """

    needs = ("token_id", "loss_pre", "loss_post")

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.count_V: dict[str, Array] = {
            name: np.zeros(0, dtype=np.int64) for name in ("both", "pre", "post")
        }

    def update(self, batch: Batch) -> None:
        """Count a joined batch."""
        pre_N, post_N = batch["loss_pre"], batch["loss_post"]
        both_N = self.thresholds.persistent(pre_N, post_N)
        hard_post_N = both_N
        if self.thresholds.post is not None:
            hard_post_N = reaches(post_N, self.thresholds.post)
        hard_pre_N = reaches(pre_N, self.thresholds.pre)
        for name, hard_N in (("both", both_N), ("pre", hard_pre_N), ("post", hard_post_N)):
            counts_V = np.bincount(batch["token_id"][hard_N])
            self.count_V[name] = add_counts(self.count_V[name], counts_V)

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        for name, counts_V in other.count_V.items():
            self.count_V[name] = add_counts(self.count_V[name], counts_V)


def sample_limits(persistent: dict[int, int], size: int, sampled: Callable[[int], bool]) -> Array:
    """By token id, the largest hash (uint64) that `PersistentWindows` needs to keep.

    Args:
        persistent: token id → persistent occurrences, of the types wanted; 0 for all others.
        size: of a sample. Of types for which `sampled` says so, a few more than `size` hashes lie
            below the limit: the smallest `size` are a uniform sample.
    """
    limit_V = np.zeros(max(persistent) + 2, dtype=np.uint64)
    for v, count in persistent.items():
        limit_V[v] = smallest_below(size, count) if sampled(count) else np.uint64(2**64 - 1)
    return limit_V


def needs_of(contents: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that `PersistentWindows` needs."""
    needs = ("token_id", "sequence_id", "position", "prompt", "loss_pre", "loss_post")
    return (*needs, *(SKETCH_COLUMNS if "sketch" in contents else ()))


class PersistentWindows:
    """Collects persistent occurrences with what they are compared by.

    Args:
        choice: which rows; `Thresholds` chooses the persistent ones.
        reach: tokens on each side of a window.
        seed: of the hash of (sequence_id, position) by which samples are taken.
        limit_V: by token id, the largest hash to keep (`sample_limits`), the last for ids beyond;
            None: keep all.
        contents: "window": the tokens around; "sketch": of the hidden state, and rows without one
            are left out.
        compiled: the same rows, faster in large logs.
    """

    def __init__(
        self,
        choice: Choice,
        reach: int,
        seed: int,
        limit_V: Array | None = None,
        *,
        contents: tuple[str, ...] = CONTENTS[:1],
        compiled: bool = False,
    ) -> None:
        self.contents, self.compiled = contents, compiled
        self.needs = needs_of(contents)
        self.choice = choice
        self.offset_K = offsets(reach)
        self.seed = seed
        self.limit_V = limit_V
        self._parts: list[dict[str, Array]] = []

    @property
    def count(self) -> int:
        """Rows collected so far."""
        return sum(len(part["hash"]) for part in self._parts)

    def update(self, batch: Batch) -> None:
        """Add a joined batch of whole sequences."""
        chosen_N = self.choice.chosen(batch)
        if "sketch" in self.contents:
            chosen_N = chosen_N & sketched(batch)
        rows_M = np.flatnonzero(chosen_N)
        limit_M = None
        if self.limit_V is not None:
            limit_M = self.limit_V[np.minimum(batch["token_id"][rows_M], len(self.limit_V) - 1)]
            wanted_M = limit_M > 0
            rows_M, limit_M = rows_M[wanted_M], limit_M[wanted_M]
        hash_M = hash_rows(self.seed, batch["sequence_id"][rows_M], batch["position"][rows_M])
        if limit_M is not None:
            below_M = hash_M <= limit_M
            rows_M, hash_M = rows_M[below_M], hash_M[below_M]
        rows = {
            "sequence": batch["sequence_id"][rows_M],
            "position": batch["position"][rows_M],
            "prompt": batch["prompt"][rows_M],
            "token": batch["token_id"][rows_M],
            "loss": batch["loss_post"][rows_M],
            "loss_pre": batch["loss_pre"][rows_M],
            "hash": hash_M,
        }
        if "window" in self.contents:
            rows["window"] = window_tokens(batch, rows_M, self.offset_K, compiled=self.compiled)
        if "sketch" in self.contents:
            rows["sketch"] = sketches(batch, rows_M)
        self._parts.append(rows)

    def merge(self, other: Self) -> None:
        """Append another's rows."""
        self._parts.extend(other._parts)

    def result(self) -> dict[str, Array]:
        """All rows, sorted by token (stable: within a type in the order of the log).

        sequence, position, prompt (uint64), token, loss (at post), loss_pre, hash (uint64): (N,);
        window: (N, 2w); sketch: (N, 4) uint64.
        """
        if not self._parts:
            return {}
        order = np.argsort(np.concatenate([part["token"] for part in self._parts]), kind="stable")
        place_N = np.empty(len(order), dtype=np.int64)
        place_N[order] = np.arange(len(order))
        del order
        ends = np.cumsum([len(part["token"]) for part in self._parts])[:-1]
        places = np.split(place_N, ends)
        # A column at a time, and without joining the parts: of each value at most one copy.
        return {name: self._placed(name, places) for name in list(self._parts[0])}

    def _placed(self, name: str, places: list[Array]) -> Array:
        """A column whose values are put where they belong; the parts lose theirs."""
        first = self._parts[0][name]
        rows = sum(map(len, places))
        values = np.empty((rows, *first.shape[1:]), dtype=first.dtype)
        for part, place_M in zip(self._parts, places, strict=True):
            values[place_M] = part.pop(name)
        return values


def of_type(rows: dict[str, Array], v: int, most: int | None = None) -> dict[str, Array]:
    """One type's rows from `PersistentWindows.result`: those of the `most` smallest hashes."""
    start = stop = 0
    if rows:
        # Of the same type: NumPy would convert all tokens otherwise.
        ends = np.array([v, v + 1], dtype=rows["token"].dtype)
        start, stop = np.searchsorted(rows["token"], ends)
    of_v = {name: values[start:stop] for name, values in rows.items()}
    if most is None or stop - start <= most:
        return of_v
    smallest = np.sort(np.argsort(of_v["hash"], kind="stable")[:most])
    return {name: values[smallest] for name, values in of_v.items()}
