"""What is measured in a pass: shares of the loss, ends and loops of texts, means of the loss.

All are sums over prompts, so that they have an interval, and do not depend on how the log is cut.

Array suffixes: N rows of a batch; S sequences; W tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Accumulator, Batch, Closing
from rocktok.stats.arrays import is_among
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.exact_types import ExactTypeSums

#: Positions at the beginning of a text that are told apart.
OPENING = 5

#: Last tokens of a text that are looked at, and the longest block that may repeat in them.
LOOP_WINDOW, LOOP_BLOCK = 64, 16

#: Sequences whose losses are dealt into micro-batches.
SAMPLED = 1 << 16

Derive = Callable[[Batch], Batch]


class Derived:
    """Accumulators that get rows made of a batch's, fewer or others, by a picklable function.

    Args:
        needs: columns that the function looks at.
        derive: batch → batch.
        inner: what gets these.
    """

    def __init__(self, needs: tuple[str, ...], derive: Derive, *inner: Accumulator) -> None:
        self.needs = needs
        self._derive = derive
        self.inner = inner

    def update(self, batch: Batch) -> None:
        """Make rows, and add them where there are any."""
        rows = self._derive(batch)
        if len(rows["sequence_id"]):
            for one in self.inner:
                one.update(rows)

    def merge(self, other: Self) -> None:
        """Add another's."""
        for ours, theirs in zip(self.inner, other.inner, strict=True):
            ours.merge(theirs)

    def close(self) -> None:
        """Have those close that can."""
        for one in self.inner:
            if isinstance(one, Closing):
                one.close()


# --- where the loss is -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """Class of each row: its position up to `OPENING`, twice; plus 1 if its token is special."""

    special: Array

    def __call__(self, batch: Batch) -> Batch:
        place_N = 2 * np.minimum(batch["position"], OPENING).astype(np.int32)
        place_N += is_among(batch["token_id"], self.special)
        return {**batch, "token_id": place_N}


#: Classes of `_Places`.
SPECIAL = np.arange(1, 2 * OPENING + 2, 2)
BEGINNING = np.arange(2 * OPENING)
REST = np.arange(2 * OPENING, 2 * OPENING + 2)


def loss_places(
    special: Array, seed: int, replicates: int, *, compiled: bool = False
) -> tuple[Derived, PromptBootstrap]:
    """Rows and loss by class of place and token; `special`: ascending token ids."""
    classes = np.arange(2 * OPENING + 2)
    sums = PromptBootstrap(classes, ("", "loss"), seed, replicates, compiled=compiled)
    needs = ("token_id", "sequence_id", "position", "prompt", "loss")
    return Derived(needs, _Places(special), sums), sums


def _surprisal(batch: Batch) -> Batch:
    return {**batch, "surprisal": -batch["student_logprob"].astype(np.float64)}


def surprisals(
    seed: int, replicates: int, *, compiled: bool = False
) -> tuple[Derived, PromptBootstrap]:
    """Rows, −log p of their tokens, and what that is on average: the student's entropy."""
    nothing, names = np.zeros(0, np.int64), ("", "surprisal", "student_entropy")
    sums = PromptBootstrap(nothing, names, seed, replicates, compiled=compiled)
    needs = ("token_id", "sequence_id", "prompt", "student_logprob", "student_entropy")
    return Derived(needs, _surprisal, sums), sums


# --- texts -------------------------------------------------------------------------------------


def _sequences(batch: Batch) -> tuple[Array, Array]:
    """First row of each sequence, and how many rows it has."""
    sequence_N = batch["sequence_id"]
    if len(sequence_N) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts_S = np.flatnonzero(np.concatenate(([True], sequence_N[1:] != sequence_N[:-1])))
    return starts_S, np.diff(np.append(starts_S, len(sequence_N)))


def text_rows(batch: Batch, starts_S: Array) -> dict[str, Array]:
    """Keys of some rows, one a sequence, all of one class."""
    return {
        "token_id": np.zeros(len(starts_S), np.int64),
        "sequence_id": batch["sequence_id"][starts_S],
        "prompt": batch["prompt"][starts_S],
    }


def _means(batch: Batch) -> Batch:
    starts_S, length_S = _sequences(batch)
    rows = text_rows(batch, starts_S)
    if len(starts_S):
        sum_S = np.add.reduceat(batch["loss"].astype(np.float64), starts_S)
        rows |= {"mean": sum_S / length_S}
    return rows


def sequence_means(seed: int, replicates: int) -> tuple[Derived, PromptBootstrap]:
    """Number of sequences, and the sum of their mean losses."""
    sums = PromptBootstrap(np.zeros(1, np.int64), ("", "mean"), seed, replicates)
    return Derived(("sequence_id", "prompt", "loss"), _means, sums), sums


class SequenceSample:
    """Sum of the loss and length of sequences, of `most` with the smallest hashes."""

    needs = ("sequence_id", "loss")

    def __init__(self, seed: int, most: int = SAMPLED) -> None:
        self.seed, self.most = seed, most
        self._hash_S: Array = np.zeros(0, np.uint64)
        self._rows_S2: Array = np.zeros((0, 2))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        starts_S, length_S = _sequences(batch)
        if len(starts_S):
            sum_S = np.add.reduceat(batch["loss"].astype(np.float64), starts_S)
            hash_S = hash_rows(self.seed, batch["sequence_id"][starts_S])
            self._add(hash_S, np.stack([sum_S, length_S], axis=1))

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._add(other._hash_S, other._rows_S2)

    def _add(self, hash_S: Array, rows_S2: Array) -> None:
        hash_S = np.concatenate((self._hash_S, hash_S))
        rows_S2 = np.concatenate((self._rows_S2, rows_S2))
        order = np.argsort(hash_S)[: self.most]
        self._hash_S, self._rows_S2 = hash_S[order], rows_S2[order]

    def micro_batches(self, size: int) -> float | None:
        """Mean over random micro-batches of so many sequences of their mean loss by token.

        The sequences in the order of their hashes, the last ones left out where they fill none;
        None where there are fewer.
        """
        number = len(self._rows_S2) // size
        if number == 0:
            return None
        sums_B2 = self._rows_S2[: number * size].reshape(number, size, 2).sum(axis=1)
        return float((sums_B2[:, 0] / sums_B2[:, 1]).mean())


def repeats(window_SW: Array, block: int = LOOP_BLOCK) -> Array:
    """(S,) bool: whether a block of at most so many tokens repeats all through a window."""
    found_S = np.zeros(len(window_SW), dtype=bool)
    for length in range(1, min(block, window_SW.shape[1] - 1) + 1):
        found_S |= (window_SW[:, length:] == window_SW[:, :-length]).all(axis=1)
    return found_S


def _loops(batch: Batch) -> Batch:
    starts_S, length_S = _sequences(batch)
    rows = text_rows(batch, starts_S)
    loop_S, judged_S = np.zeros(len(starts_S)), np.zeros(len(starts_S))
    last_S = starts_S + length_S
    # The token that ends a text is none of its loop.
    for less in (0, 1):
        long = np.flatnonzero(length_S >= LOOP_WINDOW + less)
        at_SW = (last_S[long] - less - LOOP_WINDOW)[:, None] + np.arange(LOOP_WINDOW)
        position_SW = batch["position"][at_SW].astype(np.int64)
        whole = position_SW[:, -1] - position_SW[:, 0] == LOOP_WINDOW - 1
        long, at_SW = long[whole], at_SW[whole]
        judged_S[long] = 1
        loop_S[long[repeats(batch["token_id"][at_SW])]] = 1
    return rows | {"loop": loop_S, "judged": judged_S}


def loops(seed: int, replicates: int) -> tuple[Derived, PromptBootstrap]:
    """Number of sequences, of those that end in a loop, and of those that are long enough."""
    sums = PromptBootstrap(np.zeros(1, np.int64), ("", "loop", "judged"), seed, replicates)
    return Derived(("sequence_id", "prompt", "position", "token_id"), _loops, sums), sums


# --- ends --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopped:
    """Sequences that ended with a terminal token: ascending ids, and the position of that."""

    sequence_S: Array
    last_S: Array

    def rows(self, batch: Batch) -> Array:
        """Rows of a batch that are such an end."""
        starts_S, length_S = _sequences(batch)
        if len(self.sequence_S) == 0 or len(starts_S) == 0:
            return np.zeros(0, np.int64)
        end_S = starts_S + length_S - 1
        id_S = batch["sequence_id"][end_S]
        at_S = np.minimum(np.searchsorted(self.sequence_S, id_S), len(self.sequence_S) - 1)
        ended_S = (self.sequence_S[at_S] == id_S) & (self.last_S[at_S] == batch["position"][end_S])
        rows: Array = end_S[ended_S]
        return rows


# --- ids that are no token -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Untold:
    known_V: Array

    def __call__(self, batch: Batch) -> Batch:
        at = np.flatnonzero(batch["has_alternatives"])
        rows = {"sequence_id": batch["sequence_id"][at], "token_id": np.zeros(len(at), np.int64)}
        for model in ("student", "teacher"):
            ids = batch[f"{model}_ids"][at]
            probs = np.nan_to_num(batch[f"{model}_probs"][at].astype(np.float64))
            no_token = (ids >= 0) & ~self.known_V[np.clip(ids, 0, len(self.known_V) - 1)]
            rows[model] = np.where(no_token, probs, 0.0).sum(axis=1)
        return rows


class UntoldMass:
    """Mass that each model puts on ids that are no token, as far as its likeliest tokens tell.

    `known_V`: which ids are tokens; its last element stands for all ids beyond.
    """

    def __init__(self, known_V: Array) -> None:
        self._sums = ExactTypeSums(("student", "teacher"))
        needs = ["sequence_id", "has_alternatives"]
        needs += [f"{m}_{part}" for m in ("student", "teacher") for part in ("ids", "probs")]
        self._derived = Derived(tuple(needs), _Untold(known_V), self._sums)
        self.needs = self._derived.needs

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        self._derived.update(batch)

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._derived.merge(other._derived)

    def result(self) -> dict[str, float]:
        """Model → mean mass over the positions that have alternatives; none without any."""
        count_V = self._sums.count_V
        if not len(count_V):
            return {}
        return {model: float(sum_V[0] / count_V[0]) for model, sum_V in self._sums.sum_V.items()}
