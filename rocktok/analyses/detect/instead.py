"""What the teacher held likely where a type is persistently hard: the other tokens, by probability.

Of each position a log holds the likeliest tokens of both models, so that a mean over occurrences is
a lower bound: where a token is not among them, it counts as 0. Sums are whole multiples of 2⁻²⁴, as
every float16 is: the same however the rows are cut.

Array suffixes: N rows of a batch; M chosen ones; K tokens of a row; T types; P pairs of a type and
another token, or entries that are yet to be added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.stats.accumulator import Batch
from rocktok.stats.exact_types import ExactTypeSums

#: Tokens that are named for a type.
NAMED = 3

#: A probability of 1 in units of the sums.
_ONE = 1 << 24

#: Bits of a pair's key that hold the other token.
_TOKEN_BITS = 32

#: Entries that may wait to be added up, beside as many as there are pairs.
_LOOSE = 1 << 18

_MODELS = ("teacher", "student")


class InsteadRow(TypedDict):
    """Another token, and its mean probabilities in the place of a type: lower bounds."""

    token_id: int
    token: str
    teacher: float
    student: float


class InsteadColumns(TypedDict):
    """Of a type: what the teacher held likely at its persistent occurrences; None: not known.

    `instead_occurrences`: those whose alternatives are known, which the others are means over.
    """

    instead: list[InsteadRow] | None
    instead_occurrences: int | None
    teacher_on_token: float | None
    student_on_token: float | None


def instead_text(row: InsteadColumns, most: int | None = None) -> str | None:
    """The others in words, likeliest first: "' Thus' 61%, ' Hence' 30%"; None: not known."""
    if row["instead"] is None:
        return None
    return ", ".join(
        f"{other['token']!r} {_rounded(other['teacher'])}" for other in row["instead"][:most]
    )


def _rounded(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.005 else "<1%"


@dataclass(frozen=True)
class Other:
    """A token in the place of a type: its mean probabilities, which are lower bounds."""

    token_id: int
    teacher: float
    student: float


@dataclass(frozen=True)
class Instead:
    """Of one type: the likeliest others by the teacher, and what each model gave the type itself.

    `occurrences`: persistent ones whose alternatives are known; means are over these. `teacher` and
    `student` are None where they cannot be told.
    """

    others: tuple[Other, ...]
    occurrences: int
    teacher: float | None
    student: float | None


class Alternatives:
    """Sums of both models' probabilities of other tokens, by type, over persistent occurrences.

    Args:
        tokens: the types (token ids).
        thresholds: what is persistent.
        recorded: models whose probability of the token itself is a column of the log; of others
            it is known where the type is among the likeliest at each of its occurrences.
        compiled: use compiled loops; the same bits.
    """

    def __init__(
        self,
        tokens: Array,
        thresholds: Thresholds,
        recorded: tuple[str, ...] = (),
        *,
        compiled: bool = False,
    ) -> None:
        self.token_T = np.sort(tokens).astype(np.int64)
        self.thresholds = thresholds
        self.recorded = tuple(f"{model}_probability" for model in recorded)
        self.needs: tuple[str, ...] = (
            "token_id", "loss_pre", "loss_post", "has_alternatives",
            *(f"{model}_{what}" for model in _MODELS for what in ("ids", "probs")),
            *self.recorded,
        )  # fmt: skip
        #: Positions, and those without alternatives.
        self.rows = self.lacking = 0
        self.count_T = np.zeros(len(tokens), np.int64)
        # By model: how often the type is among the likeliest, and its probabilities there.
        self.listed = {model: np.zeros((2, len(tokens)), np.int64) for model in _MODELS}
        self._own = ExactTypeSums(self.recorded, compiled=compiled) if recorded else None
        self._key_P = np.zeros(0, np.int64)
        self._sum_2P = np.zeros((2, 0), np.int64)
        self._loose: list[tuple[Array, Array]] = []
        self._waiting = 0

    def update(self, batch: Batch) -> None:
        """Add a joined batch."""
        self.rows += len(batch["token_id"])
        self.lacking += int(np.count_nonzero(~batch["has_alternatives"]))
        if len(self.token_T) == 0:
            return
        type_N = np.minimum(np.searchsorted(self.token_T, batch["token_id"]), len(self.token_T) - 1)
        chosen_N = self.token_T[type_N] == batch["token_id"]
        chosen_N &= batch["has_alternatives"] & self.thresholds.chosen(batch)
        rows_M = np.flatnonzero(chosen_N)
        if len(rows_M) == 0:
            return
        type_M, token_M = type_N[rows_M], batch["token_id"][rows_M]
        self.count_T += np.bincount(type_M, minlength=len(self.token_T))
        if self._own is not None:
            own = {name: batch[name][rows_M] for name in self.recorded}
            self._own.update({"token_id": token_M, **own})
        for number, model in enumerate(_MODELS):
            id_MK = batch[f"{model}_ids"][rows_M].astype(np.int64)
            # Rows with fewer tokens than others end in −1 and NaN.
            probability_MK = np.where(id_MK < 0, 0.0, batch[f"{model}_probs"][rows_M])
            units_MK = np.rint(probability_MK * _ONE).astype(np.int64)
            self._add(number, model, type_M, token_M, id_MK, units_MK)

    def _add(
        self, number: int, model: str, type_M: Array, token_M: Array, id_MK: Array, units_MK: Array
    ) -> None:
        itself_MK = id_MK == token_M[:, None]
        type_MK = np.broadcast_to(type_M[:, None], id_MK.shape)
        np.add.at(self.listed[model][0], type_MK[itself_MK], 1)
        np.add.at(self.listed[model][1], type_MK[itself_MK], units_MK[itself_MK])
        other_MK = ~itself_MK & (id_MK >= 0) & (units_MK > 0)
        key_P = (type_MK[other_MK] << _TOKEN_BITS) | id_MK[other_MK]
        sum_2P = np.zeros((2, len(key_P)), np.int64)
        sum_2P[number] = units_MK[other_MK]
        self._put(*_added_up(key_P, sum_2P))

    def _put(self, key_P: Array, sum_2P: Array) -> None:
        self._loose.append((key_P, sum_2P))
        self._waiting += len(key_P)
        if self._waiting > max(_LOOSE, len(self._key_P)):
            self._settle()

    def _settle(self) -> None:
        """Add up what waits."""
        if self._loose:
            parts = [(self._key_P, self._sum_2P), *self._loose]
            self._key_P, self._sum_2P = _added_up(
                np.concatenate([key_P for key_P, _ in parts]),
                np.concatenate([sum_2P for _, sum_2P in parts], axis=1),
            )
            self._loose, self._waiting = [], 0

    def close(self) -> None:
        """All rows of a task were seen."""
        self._settle()

    def merge(self, other: Self) -> None:
        """Add another's sums, of the same types."""
        other._settle()
        self.rows += other.rows
        self.lacking += other.lacking
        self.count_T += other.count_T
        for model in _MODELS:
            self.listed[model] += other.listed[model]
        if self._own is not None:
            assert other._own is not None
            self._own.merge(other._own)
        self._put(other._key_P, other._sum_2P)

    def result(self) -> dict[int, Instead]:
        """By token id; without others, and 0 occurrences, where alternatives are known of none."""
        self._settle()
        type_P, other_P = self._key_P >> _TOKEN_BITS, self._key_P & ((1 << _TOKEN_BITS) - 1)
        teacher_P, student_P = self._sum_2P
        order = np.lexsort((other_P, -teacher_P, type_P))
        order = order[teacher_P[order] > 0]
        start_T = np.searchsorted(type_P[order], np.arange(len(self.token_T) + 1))
        found = {}
        for index, v in enumerate(self.token_T.tolist()):
            count = int(self.count_T[index])
            first = order[start_T[index] : min(start_T[index + 1], start_T[index] + NAMED)]
            others = tuple(
                Other(int(other_P[p]), _mean(teacher_P[p], count), _mean(student_P[p], count))
                for p in first.tolist()
            )
            teacher, student = (self._itself(model, index, v, count) for model in _MODELS)
            found[v] = Instead(others, count, teacher, student)
        return found

    def _itself(self, model: str, index: int, v: int, count: int) -> float | None:
        if count == 0:
            return None
        name = f"{model}_probability"
        if name in self.recorded:
            assert self._own is not None
            return float(self._own.sum_V[name][v]) / count
        times, units = self.listed[model][:, index].tolist()
        return _mean(units, count) if times == count else None


def _mean(units: int, count: int) -> float:
    return int(units) / (_ONE * count)


def _added_up(key_P: Array, sum_2P: Array) -> tuple[Array, Array]:
    """Ascending keys, each once, and the sums of its entries."""
    if len(key_P) == 0:
        return key_P, sum_2P
    order = np.argsort(key_P, kind="stable")
    key_P = key_P[order]
    starts = np.flatnonzero(np.concatenate(([True], key_P[1:] != key_P[:-1])))
    return key_P[starts], np.add.reduceat(sum_2P[:, order], starts, axis=1)


def within(persistent_T: Array, vocabulary: int, listed: int, most: int) -> int:
    """How many types, the first ones, have at most `most` pairs together.

    Args:
        persistent_T: persistent occurrences of the types, in order.
        vocabulary: tokens that there are.
        listed: tokens that alternatives name at a position at most, of both models.
    """
    pairs_T = np.minimum(vocabulary, listed * persistent_T.astype(np.float64))
    return int(np.searchsorted(np.cumsum(pairs_T), most, side="right"))
