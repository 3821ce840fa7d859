"""What lenses look at: a number at each position, from the columns of whole sequences.

Numbers of a sequence are added up within it, in its order: the same bits however rows are cut into
batches. All are float32, of which exact quantiles are known.

Array suffixes: N rows of a batch; S its sequences; G sequences of one length L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch

#: Tokens that follow, of which `future_gap` is a mean.
FUTURE = 16

#: γ of IW-OPD: how much more the first token of a sequence weighs than none would.
GAMMA = 1.0

#: Thresholds of a step: (quantity, quantile) → value; NaN where no row has the quantity.
Cuts = Mapping[tuple[str, float], float]


@dataclass(frozen=True)
class Correct:
    """Which sequences were right: ascending ids (int64), and whether (bool). Others: not known."""

    sequence_S: Array
    correct_S: Array

    def of(self, sequence_S: Array) -> Array:
        """(S,) int8 of some ids: 1 right, 0 wrong, −1 not known."""
        if not len(self.sequence_S):
            return np.full(len(sequence_S), -1, np.int8)
        at_S = np.minimum(np.searchsorted(self.sequence_S, sequence_S), len(self.sequence_S) - 1)
        found_S: Array = np.where(
            self.sequence_S[at_S] == sequence_S, self.correct_S[at_S].astype(np.int8), np.int8(-1)
        )
        return found_S


#: Endings of the columns at post and at pre, and what stands for rows at post with losses dealt
#: out anew among those of a sequence.
POST, PRE, SHUFFLED = "", "_pre", "shuffled"

#: Columns that are dealt out.
_DEALT = ("loss", "loss_pre", "loss_post")


def rows_at(
    batch: Batch,
    ending: str,
    cuts: Mapping[str, Cuts],
    *,
    correct: Correct | None,
    seed: int,
    compiled: bool = False,
) -> Rows:
    """Rows of a batch of whole sequences at post, at pre, or `SHUFFLED` by a seed.

    `cuts`: ending → thresholds; those of shuffled rows that it lacks are those of post.
    `compiled`: the same rows, shuffled faster.
    """
    if ending != SHUFFLED:
        return Rows(batch, ending, cuts.get(ending), correct)
    own = {**cuts.get(POST, {}), **cuts.get(SHUFFLED, {})}
    return Rows(shuffled(batch, seed, compiled=compiled), POST, own, correct)


def shuffled(batch: Batch, seed: int, *, compiled: bool = False) -> Batch:
    """The batch with the losses of each sequence dealt out among its rows, of both steps alike.

    In the order of a hash of (seed, sequence, position): the same however rows are cut.
    """
    order_N = (_deal_order if compiled else _deal_order_numpy)(batch, seed)
    dealt = {name: batch[name][order_N] for name in _DEALT if name in batch}
    return {**batch, **dealt}


def _deal_order(batch: Batch, seed: int) -> Array:
    """Whose loss each row gets (int64). Twin, which compiles nothing: `_deal_order_numpy`."""
    from rocktok.analyses.lenses import deal_loops

    rows = len(batch["sequence_id"])
    keys = []
    for name, dtype in (("sequence_id", np.int64), ("position", np.int32)):
        # Of one kind for the compiler, wherever they come from.
        keys.append(np.ascontiguousarray(batch[name], dtype).view())
        keys[-1].setflags(write=False)
    order_N = np.empty(rows, np.int64)
    deal_loops.deal_order(
        np.uint64(seed & 0xFFFFFFFFFFFFFFFF), keys[0], keys[1], np.empty(rows, np.uint64),
        np.empty(rows + 1, np.int64), order_N,
    )  # fmt: skip
    return order_N


def _deal_order_numpy(batch: Batch, seed: int) -> Array:
    rows = Rows(batch)
    hash_N = hash_rows(seed, batch["sequence_id"], batch["position"])
    order_N: Array = np.lexsort((hash_N, rows.of_rows(np.arange(len(rows.start_S)))))
    return order_N


class Rows:
    """Rows of a batch of whole sequences as they are at one step.

    Args:
        batch: the rows.
        ending: of the names of the columns at that step: "" at post, "_pre" at pre.
        cuts: thresholds of the step; needed for classes and for what is scaled by them.
        correct: which sequences were right, where a quantity needs that.
    """

    def __init__(
        self,
        batch: Batch,
        ending: str = "",
        cuts: Cuts | None = None,
        correct: Correct | None = None,
    ) -> None:
        self.batch, self.ending, self.cuts = batch, ending, cuts or {}
        self._correct = correct
        self._values: dict[str, Array] = {}

    def of(self, name: str) -> Array:
        """A quantity: (N,) float32; of quantities of sequences one value each."""
        if name not in self._values:
            made = QUANTITIES[name](self) if name in QUANTITIES else self.column(name)
            self._values[name] = np.asarray(made, dtype=np.float32)
        return self._values[name]

    def column(self, name: str) -> Array:
        """A column of the table, (N,)."""
        return self.batch[name + self.ending]

    def cut(self, name: str, q: float) -> np.float32:
        """The q-quantile of a quantity at the step."""
        return np.float32(self.cuts[name, q])

    def high(self, name: str, q: float) -> Array:
        """Which rows have no less than the q-quantile of a quantity: (N,) bool."""
        above_N: Array = self.of(name) >= self.cut(name, q)
        return above_N

    def low(self, name: str, q: float) -> Array:
        """Which rows have no more than the q-quantile of a quantity: (N,) bool."""
        below_N: Array = self.of(name) <= self.cut(name, q)
        return below_N

    def scaled(self, name: str) -> Array:
        """A quantity clipped at its 5% and 95% quantiles, which become 0 and 1: (N,) float64."""
        low, high = (float(self.cut(name, q)) for q in CLIP)
        values_N = self.of(name).astype(np.float64)
        if low == high:
            return (values_N > low).astype(np.float64)
        clipped_N: Array = np.clip((values_N - low) / (high - low), 0.0, 1.0)
        return clipped_N

    @cached_property
    def start_S(self) -> Array:
        """Where sequences begin."""
        sequence_N = self.batch["sequence_id"]
        new_N = np.ones(len(sequence_N), dtype=bool)
        np.not_equal(sequence_N[1:], sequence_N[:-1], out=new_N[1:])
        return np.flatnonzero(new_N)

    @cached_property
    def length_S(self) -> Array:
        """Rows of each sequence."""
        return np.diff(self.start_S, append=len(self.batch["sequence_id"]))

    def of_rows(self, values_S: Array) -> Array:
        """Values of the sequences, at each of their rows."""
        repeated_N: Array = np.repeat(values_S, self.length_S)
        return repeated_N

    @cached_property
    def correct_S(self) -> Array:
        """1 right, 0 wrong, −1 not known."""
        assert self._correct is not None
        return self._correct.of(self.batch["sequence_id"][self.start_S])

    @cached_property
    def advantage_N(self) -> Array:
        """log q(x) − log p(x), float64: from both, or where one is missing from `log_ratio`."""
        names = [name + self.ending for name in ("teacher_logprob", "student_logprob")]
        if all(name in self.batch for name in names):
            teacher_N, student_N = (self.batch[name].astype(np.float64) for name in names)
            gap_N: Array = teacher_N - student_N
            return gap_N
        return -self.column("log_ratio").astype(np.float64)

    def running(self, values_N: Array) -> Array:
        """Sums over each sequence up to a row and with it, float64."""
        sum_N = np.empty(len(values_N))
        for length in np.unique(self.length_S).tolist():
            start_G = self.start_S[self.length_S == length]
            row_GL = start_G[:, None] + np.arange(length)
            sum_N[row_GL] = np.cumsum(values_N[row_GL], axis=1)
        return sum_N

    def surprise_S(self, column: str) -> Array:
        """Mean of −log probability over each sequence, the log of its perplexity: float32."""
        sum_N = self.running(-self.column(column).astype(np.float64))
        mean_S: Array = sum_N[self.start_S + self.length_S - 1] / self.length_S
        return mean_S.astype(np.float32)


#: Quantiles at which quantities are clipped before they are scaled.
CLIP = (0.05, 0.95)


def relative_position(rows: Rows) -> Array:
    """Position over the last recorded one of its sequence plus 1."""
    position_N = rows.batch["position"].astype(np.int64)
    length_S = position_N[rows.start_S + rows.length_S - 1] + 1
    relative_N: Array = position_N / rows.of_rows(length_S)
    return relative_N


def iw_weight(rows: Rows) -> Array:
    """1 + γ·(1 − Σ |a| before the row / Σ |a| of the sequence); without any gap 1 + γ."""
    size_N = np.abs(rows.advantage_N)
    sum_N = rows.running(size_N)
    before_N = np.concatenate(([0.0], sum_N[:-1])) if len(sum_N) else sum_N
    before_N[rows.start_S] = 0.0
    total_N = rows.of_rows(sum_N[rows.start_S + rows.length_S - 1])
    share_N = np.zeros(len(sum_N))
    np.divide(before_N, total_N, out=share_N, where=total_N > 0)
    return 1 + GAMMA * (1 - share_N)


def future_gap(rows: Rows) -> Array:
    """Minus the mean of a over the scored tokens among the next `FUTURE`; 0 where there is none."""
    gap_N, position_N = rows.advantage_N, rows.batch["position"]
    number_N = rows.of_rows(np.arange(len(rows.start_S)))
    sum_N, count_N = np.zeros(len(gap_N)), np.zeros(len(gap_N))
    for k in range(1, min(FUTURE, len(gap_N) - 1) + 1):
        near_M = number_N[k:] == number_N[:-k]
        near_M &= position_N[k:] - position_N[:-k] <= FUTURE
        sum_N[:-k] += np.where(near_M, gap_N[k:], 0.0)
        count_N[:-k] += near_M
    mean_N = np.zeros(len(gap_N))
    np.divide(sum_N, count_N, out=mean_N, where=count_N > 0)
    return -mean_N


def soft_or(rows: Rows) -> Array:
    """h + d − h·d of the student's entropy and the loss, each clipped and scaled."""
    h_N, d_N = rows.scaled("student_entropy"), rows.scaled("loss")
    either_N: Array = h_N + d_N - h_N * d_N
    return either_N


def teachable(rows: Rows) -> Array:
    """D·C of the loss and the teachability, each clipped and scaled."""
    both_N: Array = rows.scaled("loss") * rows.scaled("teachability")
    return both_N


#: Made from columns; any other quantity is a column itself.
QUANTITIES: dict[str, Callable[[Rows], Array]] = {
    "tip_weight": lambda rows: rows.of("student_entropy") * rows.of("jsd"),
    "teacher_surprise": lambda rows: rows.of("teacher_entropy") - rows.of("teacher_logprob"),
    "entropy_excess": lambda rows: rows.of("student_entropy") - rows.of("teacher_entropy"),
    "entropy_gap": lambda rows: np.abs(rows.of("entropy_excess")),
    "earliness": lambda rows: 1 - relative_position(rows),
    "iw_weight": iw_weight,
    "future_gap": future_gap,
    "apart": lambda rows: 1 - rows.of("overlap"),
    "end_gap": lambda rows: np.abs(rows.of("teacher_end") - rows.of("student_end")),
    "incorrect_surprise": lambda rows: rows.surprise_S("teacher_logprob")[rows.correct_S == 0],
    "correct_surprise": lambda rows: rows.surprise_S("student_logprob")[rows.correct_S == 1],
    "soft_or": soft_or,
    "teachable": teachable,
}

#: Those that are scaled by quantiles of others.
SCALED = {"soft_or": ("student_entropy", "loss"), "teachable": ("loss", "teachability")}
