"""Sums of estimates of the loss beside the exact loss, over all rows and by token type.

Array suffixes: N rows of a batch; T types; V token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.check.estimators import KINDS, Alternatives, k1, k3
from rocktok.analyses.check.measures import Derived
from rocktok.analyses.check.result import EstimatorRow
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.exact_types import ExactTypeSums
from rocktok.stats.intervals import Estimate, ends
from rocktok.stats.ranks import spearman

#: Occurrences from which a type's mean loss is ranked.
MIN_OCCURRENCES = 5

#: K of the top-K estimates that are looked at, as far as a log holds so many; and the largest.
KS = (1, 2, 3, 4, 5, 8)

#: Larger estimates count as this: their squares must be numbers still.
_LARGEST = 2.0**100

LOGPROBS = ("student_logprob", "teacher_logprob")
TOLD = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")


@dataclass(frozen=True)
class Name:
    """An estimator: k1, k3, or a kind of top-K with its K."""

    kind: str
    k: int | None = None

    @property
    def column(self) -> str:
        """Beginning of its columns' names."""
        return self.kind if self.k is None else f"{self.kind}_{self.k}"


def log_ratio_known(columns: Sequence[str]) -> bool:
    """Whether a table with these columns tells log p(x) − log q(x)."""
    return "log_ratio" in columns or set(LOGPROBS) <= set(columns)


def log_ratio_of(batch: Batch) -> Array:
    """log p(x) − log q(x) of each row, float64: as recorded, or from both log-probabilities."""
    if "log_ratio" in batch:
        return batch["log_ratio"].astype(np.float64)
    p_N, q_N = (batch[name].astype(np.float64) for name in LOGPROBS)
    difference: Array = p_N - q_N
    return difference


def _columns(name: Name, loss_N: Array, least_N: Array, most_N: Array, known_N: Array) -> Batch:
    """What is summed of an estimator: its ends, its smallest and its largest error."""
    low_N, high_N = least_N - loss_N, most_N - loss_N
    inside_N = (low_N <= 0) & (high_N >= 0)
    small_N, large_N = np.minimum(abs(low_N), abs(high_N)), np.maximum(abs(low_N), abs(high_N))
    column = name.column
    return {
        f"{column}_least": least_N,
        f"{column}_most": most_N,
        f"{column}_small": np.where(inside_N, 0.0, small_N),
        f"{column}_large": large_N,
        f"{column}_known": known_N.astype(np.float64),
    }


@dataclass(frozen=True)
class _OneSample:
    def __call__(self, batch: Batch) -> Batch:
        loss_N, ratio_N = batch["loss"].astype(np.float64), log_ratio_of(batch)
        known_N = np.ones(len(loss_N), dtype=bool)
        rows = dict(batch)
        for name, values_N in ((Name("k1"), k1(ratio_N)), (Name("k3"), k3(ratio_N))):
            values_N = np.clip(values_N, -_LARGEST, _LARGEST)
            rows |= _columns(name, loss_N, values_N, values_N, known_N)
        return rows


@dataclass(frozen=True)
class _TopK:
    names: tuple[Name, ...]
    recorded: int

    def __call__(self, batch: Batch) -> Batch:
        # A part of the log with fewer alternatives than the rest says nothing of the largest K.
        widths = [batch[name].shape[1] for name in TOLD[::2]]
        there_N = batch["has_alternatives"].copy()
        for name, width in zip(TOLD[::2], widths, strict=True):
            there_N &= batch[name][:, self.recorded - 1] >= 0 if width >= self.recorded else False
        rows = {name: values[there_N] for name, values in batch.items()}
        rows |= {name: rows[name][:, : self.recorded] for name in TOLD}
        loss_N = rows["loss"].astype(np.float64)
        logprob_N = rows.get("teacher_logprob")
        teacher_N = None if logprob_N is None else np.exp(logprob_N.astype(np.float64))
        told = Alternatives(
            student_ids_NK=rows["student_ids"],
            student_probs_NK=rows["student_probs"],
            teacher_ids_NT=rows["teacher_ids"],
            teacher_probs_NT=rows["teacher_probs"],
            token_N=rows["token_id"],
            teacher_probability_N=teacher_N,
            loss_N=loss_N,
        )
        for one in self.names:
            assert one.k is not None
            found = told.top_k(one.k, one.kind)
            rows |= _columns(one, loss_N, found.least_N, found.most_N, found.known_N)
        return rows


class EstimatorSums:
    """An accumulator of estimators: over all rows with prompts as clusters, and by type.

    Args:
        names: of one-sample estimates (k1, k3), or of top-K ones.
        columns: of the table, those beside `TOLD`.
        recorded: of top-K, how many alternatives a row has.
        seed, replicates: of the bootstrap.
        compiled: use the compiled loops.
    """

    def __init__(
        self,
        names: Sequence[Name],
        columns: Sequence[str],
        seed: int,
        replicates: int,
        *,
        recorded: int = 0,
        compiled: bool = False,
    ) -> None:
        self.names = tuple(names)
        top_k = self.names[0].k is not None
        quantities = ["", "loss"]
        for name in self.names:
            parts = ("least", "most", "small²", "large²", "known")
            quantities += [f"{name.column}_{part}" for part in parts]
        self._all = PromptBootstrap(np.zeros(0, np.int64), tuple(quantities), seed, replicates)
        ends_of = [f"{name.column}_{end}" for name in self.names for end in ("least", "most")]
        # Of one sample both ends are the same.
        by_type = ends_of if top_k else ends_of[::2]
        self._types = ExactTypeSums(("loss", *by_type), compiled=compiled)
        derive = _TopK(self.names, recorded) if top_k else _OneSample()
        extra = ("has_alternatives", *TOLD) if top_k else ()
        more = ("teacher_logprob",) if top_k else ("log_ratio", *LOGPROBS)
        if not top_k and "log_ratio" in columns:
            more = ("log_ratio",)
        kept = tuple(name for name in more if name in columns)
        self._derived = Derived(
            ("token_id", "sequence_id", "prompt", "loss", *kept, *extra),
            derive,
            self._all,
            self._types,
        )
        self.needs = self._derived.needs

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        self._derived.update(batch)

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._derived.merge(other._derived)

    @property
    def occurrences(self) -> int:
        """Rows that were added."""
        return int(self._all.of("").value)

    @property
    def loss(self) -> Estimate:
        """Mean exact loss."""
        return self._all.of("loss") / self._all.of("")

    def mean(self, name: Name, end: str = "least") -> Estimate:
        """Mean of an estimator; `end`: least or most."""
        return self._all.of(f"{name.column}_{end}") / self._all.of("")

    def rows(self, table: str, step: int, rocks: Array | None) -> list[EstimatorRow]:
        """One row for each estimator; `rocks`: ascending token ids, None: not known."""
        n = self.occurrences
        if not n:
            return []
        exact = float(self.loss.value)
        found: list[EstimatorRow] = []
        for name in self.names:
            low, high = (self.mean(name, end) - self.loss for end in ("least", "most"))
            square = [float(self._all.of(f"{name.column}_{e}²").value) for e in ("small", "large")]
            ranks = [self._ranks(name, end, rocks) for end in ("least", "most")]
            ranked, in_exact = self._ranked(rocks)
            found.append(
                {
                    "table": table,
                    "step": step,
                    "estimator": name.kind,
                    "k": name.k,
                    "occurrences": n,
                    "known": float(self._all.of(f"{name.column}_known").value) / n,
                    "exact_mean": exact,
                    "mean": float(self.mean(name).value),
                    "mean_most": float(self.mean(name, "most").value),
                    "bias_low": ends(low.interval(positive=False))[0],
                    "bias_high": ends(high.interval(positive=False))[1],
                    "error_sd": float(np.sqrt(square[0] / n)),
                    "error_sd_most": float(np.sqrt(square[1] / n)),
                    "types": len(ranked),
                    "rank_correlation": ranks[0][0],
                    "rank_correlation_most": ranks[1][0],
                    "rocks": None if rocks is None else int(is_among(ranked, rocks).sum()),
                    "rocks_in_top_exact": in_exact,
                    "rocks_in_top": ranks[0][1],
                    "rocks_in_top_most": ranks[1][1],
                }
            )
        return found

    def _ranked(self, rocks: Array | None) -> tuple[Array, int | None]:
        """Types that are ranked, and how many rocks the exact loss has at the top."""
        type_T = np.flatnonzero(self._types.count_V >= MIN_OCCURRENCES)
        return type_T, self._in_top(type_T, "loss", rocks)

    def _ranks(self, name: Name, end: str, rocks: Array | None) -> tuple[float | None, int | None]:
        """Rank correlation of mean losses by type with the exact ones; rocks at the top."""
        column = f"{name.column}_{end}" if name.k is not None else f"{name.column}_least"
        type_T = np.flatnonzero(self._types.count_V >= MIN_OCCURRENCES)
        if len(type_T) < 2:
            return None, None
        exact_T, other_T = (self._mean(type_T, one) for one in ("loss", column))
        return spearman(mid_ranks(exact_T), mid_ranks(other_T)), self._in_top(type_T, column, rocks)

    def _mean(self, type_T: Array, column: str) -> Array:
        mean_T: Array = self._types.sum_V[column][type_T] / self._types.count_V[type_T]
        return mean_T

    def _in_top(self, type_T: Array, column: str, rocks: Array | None) -> int | None:
        """Rocks among as many types with the largest mean as there are rocks."""
        if rocks is None:
            return None
        rock_T = is_among(type_T, rocks)
        top = np.lexsort((type_T, -self._mean(type_T, column)))[: int(rock_T.sum())]
        return int(rock_T[top].sum())


def top_k_names(recorded: int) -> tuple[Name, ...]:
    """The top-K estimators that so many alternatives allow."""
    return tuple(Name(kind, k) for kind in KINDS for k in KS if k <= recorded)


def mid_ranks(values_T: Array) -> Array:
    """Ranks from 1, ties sharing the mean of theirs."""
    _, place_T, count_U = np.unique(values_T, return_inverse=True, return_counts=True)
    middle_U = np.cumsum(count_U) - (count_U - 1) / 2
    ranks_T: Array = middle_U[place_T]
    return ranks_T
