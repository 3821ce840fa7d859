"""The lenses: what other papers call important, as classes and a score of each position.

Thresholds are quantiles of a step's own positions. docs/definitions.md gives them, with what is
ours.

Array suffix: N rows of a batch of whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.lenses.quantities import CLIP, GAMMA, SCALED, Rows

#: Quantiles above or below which a quantity is high or low.
HALF, MOST, LEAST = 0.5, 0.8, 0.2

#: The score's quantile from which a position is among the top 10%.
TOP = 0.9

#: Difference of the terminal probabilities from which one model ends and the other does not.
ENDS = 0.1

#: Columns of log q(x) − log p(x), by either way.
_GAP = (("student_logprob", "teacher_logprob"), ("log_ratio",))


@dataclass(frozen=True)
class Lens:
    """One way to say which positions matter.

    Attributes:
        name: in results.
        source: where it comes from.
        classes: names of its classes, in order.
        columns: that it needs, in one way or another; of several the first that a log has.
        cuts: (quantity, quantile) of its thresholds.
        assign: places of the classes, (N,) integers.
        score: quantity that ranks positions, the most important largest; None: it ranks none.
        ranked_by: what that is, in words.
        exact: whether it needs distributions, so that a log of estimates does not have it.
        moves: whether a class can change between steps; not where it depends on the text and the
            teacher alone.
        correct: whether it needs to know which sequences were right.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    cuts: tuple[tuple[str, float], ...]
    assign: Callable[[Rows], Array]
    score: str | None
    ranked_by: str | None
    exact: bool = True
    moves: bool = True
    correct: bool = False

    def top(self, rows: Rows) -> Array:
        """Which rows are among the top 10% by the score: (N,) bool; none without one."""
        if self.score is None:
            return np.zeros(len(rows.batch["sequence_id"]), dtype=bool)
        return rows.high(self.score, TOP)

    def codes(self, rows: Rows) -> Array:
        """Places of the classes, (N,) int64."""
        codes_N: Array = self.assign(rows).astype(np.int64)
        return codes_N

    @property
    def all_cuts(self) -> tuple[tuple[str, float], ...]:
        """Thresholds that can be had in one go: those of classes, of scales, and of the score."""
        scaled = [(name, q) for name in SCALED.get(self.score or "", ()) for q in CLIP]
        direct = [] if self.score is None or self.score in SCALED else [(self.score, TOP)]
        return (*self.cuts, *scaled, *direct)

    @property
    def later_cuts(self) -> tuple[tuple[str, float], ...]:
        """Thresholds of a score that is made with others."""
        return ((self.score, TOP),) if self.score in SCALED and self.score is not None else ()


def _two_by_two(one_N: Array, other_N: Array) -> Array:
    """0 both, 1 the first alone, 2 the second alone, 3 neither."""
    return np.where(one_N, np.where(other_N, 0, 1), np.where(other_N, 2, 3))


def _first_of(*conditions_N: Array) -> Array:
    """The first condition that holds; their number where none does."""
    return np.select(conditions_N, range(len(conditions_N)), default=len(conditions_N))


def _quadrants(rows: Rows) -> Array:
    return _two_by_two(rows.high("student_entropy", HALF), rows.high("loss", HALF))


def _weighted(rows: Rows) -> Array:
    return _first_of(rows.high("tip_weight", HALF))


def _teacher(rows: Rows) -> Array:
    high_N = rows.high("teacher_entropy", MOST)
    return _first_of(high_N & rows.low("teacher_logprob", LEAST), high_N)


def _zones(rows: Rows) -> Array:
    return _two_by_two(rows.high("student_entropy", HALF), rows.high("teacher_entropy", HALF))


def _gap(rows: Rows) -> Array:
    wide_N, excess_N = rows.high("entropy_gap", MOST), rows.of("entropy_excess")
    return _first_of(wide_N & (excess_N < 0), wide_N & (excess_N > 0))


def _scope(rows: Rows) -> Array:
    correct_N = rows.of_rows(rows.correct_S)
    teacher_N, student_N = (
        rows.of_rows(rows.surprise_S(name)) for name in ("teacher_logprob", "student_logprob")
    )
    wrong_N, right_N = correct_N == 0, correct_N == 1
    return _first_of(
        wrong_N & (teacher_N <= rows.cut("incorrect_surprise", HALF)),
        wrong_N,
        right_N & (student_N >= rows.cut("correct_surprise", HALF)),
        right_N,
    )


def _quarter(rows: Rows) -> Array:
    # earliness is above 0, so that 1 − earliness stays below 1.
    late_N = 1 - rows.of("earliness").astype(np.float64)
    return np.clip(np.floor(4 * late_N), 0, 3)


def _before_half(rows: Rows) -> Array:
    return _first_of(rows.of("iw_weight") > np.float32(1 + GAMMA / 2))


def _future(rows: Rows) -> Array:
    hard_N = rows.high("loss", MOST)
    return _first_of(hard_N & rows.high("future_gap", HALF), hard_N)


def _forking(rows: Rows) -> Array:
    return _first_of(rows.high("student_entropy", MOST))


def _apart(rows: Rows) -> Array:
    return _first_of(rows.high("apart", MOST))


def _teachable(rows: Rows) -> Array:
    far_N = rows.high("loss", HALF)
    return _first_of(far_N & rows.high("teachability", HALF), far_N)


def _ending(rows: Rows) -> Array:
    more_N = rows.of("teacher_end") - rows.of("student_end")
    return _first_of(more_N >= np.float32(ENDS), more_N <= np.float32(-ENDS))


#: In the order of results.
LENSES: tuple[Lens, ...] = (
    Lens("tip", "arXiv 2604.14084",
         ("uncertain_diverging", "uncertain_agreeing", "sure_diverging", "sure_agreeing"),
         (("student_entropy", "loss"),),
         (("student_entropy", HALF), ("loss", HALF)), _quadrants,
         "soft_or", "h + d − h·d"),
    Lens("tip_weight", "arXiv 2604.14084, its code", ("kept", "skipped"),
         (("student_entropy", "jsd"),), (("tip_weight", HALF),), _weighted,
         "tip_weight", "H(p)·JSD"),
    Lens("teacher", "code of arXiv 2604.14084", ("off_distribution", "branch", "rest"),
         (("teacher_entropy", "teacher_logprob"),),
         (("teacher_entropy", MOST), ("teacher_logprob", LEAST)), _teacher,
         "teacher_surprise", "H(q) − log q(x)", moves=False),
    Lens("sead", "arXiv 2606.28562",
         ("both_uncertain", "student_uncertain", "teacher_uncertain", "both_sure"),
         (("student_entropy", "teacher_entropy"),),
         (("student_entropy", HALF), ("teacher_entropy", HALF)), _zones,
         "entropy_excess", "H(p) − H(q)"),
    Lens("entropy_gap", "arXiv 2604.13016", ("student_surer", "teacher_surer", "alike"),
         (("student_entropy", "teacher_entropy"),), (("entropy_gap", MOST),), _gap,
         "entropy_gap", "|H(q) − H(p)|"),
    Lens("scope", "arXiv 2604.10688",
         ("incorrect_teacher_sure", "incorrect_teacher_unsure", "correct_student_unsure",
          "correct_student_sure", "unknown"),
         (("student_logprob", "teacher_logprob"),),
         (("incorrect_surprise", HALF), ("correct_surprise", HALF)), _scope,
         None, None, exact=False, correct=True),
    Lens("position", "arXiv 2605.13643",
         ("first_quarter", "second_quarter", "third_quarter", "last_quarter"),
         ((),), (), _quarter, "earliness", "1 − position/length", exact=False, moves=False),
    Lens("iw_opd", "arXiv 2606.22600", ("before_half", "after_half"), _GAP, (), _before_half,
         "iw_weight", "1 + γ(1 − Σ|a| before/Σ|a|)", exact=False),
    Lens("near_future", "arXiv 2606.00305", ("diverging", "surface", "low_loss"),
         tuple(("loss", *way) for way in _GAP), (("loss", MOST), ("future_gap", HALF)), _future,
         "future_gap", "−mean of a, next 16"),
    Lens("forking", "arXiv 2506.01939", ("forking", "rest"), (("student_entropy",),),
         (("student_entropy", MOST),), _forking, "student_entropy", "H(p)"),
    Lens("overlap", "arXiv 2604.13016", ("apart", "rest"), (("overlap",),),
         (("apart", MOST),), _apart, "apart", "1 − overlap"),
    Lens("teachability", "TA-OPD, in the code of arXiv 2609.24432",
         ("teachable", "out_of_reach", "agreeing"),
         (("loss", "teachability"),), (("loss", HALF), ("teachability", HALF)), _teachable,
         "teachable", "D·C"),
    Lens("ending", "ours", ("teacher_ends", "student_ends", "rest"),
         (("student_end", "teacher_end"),), (), _ending, "end_gap", "|q(E) − p(E)|"),
)  # fmt: skip

BY_NAME = {lens.name: lens for lens in LENSES}


def cuts_of(lenses: Iterable[Lens], *, later: bool = False) -> list[tuple[str, float]]:
    """Thresholds that these lenses need, each once; `later`: those made with the others."""
    wanted = (lens.later_cuts if later else lens.all_cuts for lens in lenses)
    return sorted({cut for cuts in wanted for cut in cuts})
