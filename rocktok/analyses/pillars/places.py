"""Where arms acted: thirds of the texts by position and length, and effects in them.

Array suffixes: A arms; P problems; D draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.arms import Benchmark
from rocktok.analyses.pillars.result import CohortRow
from rocktok.outcomes import GROUPS, MODES
from rocktok.stats.intervals import Estimate, ends

POSITIONS = ("early", "middle", "late")
LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class ProblemEstimate(Estimate):
    """Sums over problems; `effect` is what each problem adds to the number, (P, …)."""

    def _power(self, power: int) -> Array:
        moment: Array = (self.effect**power).sum(axis=0)
        return moment

    @classmethod
    def of(cls, part_P: Array, largest: float) -> ProblemEstimate:
        """A sum of what is not negative. `largest`: the most that one row adds."""
        return cls.total(part_P.sum(), part_P, largest)


def cohort_rows(benchmark: Benchmark, level: float) -> list[CohortRow]:
    """Effects in thirds of the texts in which arms acted, by mode and group."""
    correct = benchmark.outcomes.columns["correct"].astype(np.float64)
    made: list[CohortRow] = []
    for mode, group, places in groups_of(benchmark):
        for kind, name, inside in cohorts_of(benchmark, places):
            rows_P = inside.sum(axis=(0, 2)).astype(np.float64)
            ours_P = (correct[places] * inside).sum(axis=(0, 2))
            theirs_P = (correct[:1] * inside).sum(axis=(0, 2))
            rows = ProblemEstimate.of(rows_P, 1)
            change = ProblemEstimate.of(ours_P, 1) / rows - ProblemEstimate.of(theirs_P, 1) / rows
            low, high = ends(change.interval(1 - level, positive=False))
            made.append({
                "benchmark": benchmark.name,
                "mode": mode,
                "group": group,
                "kind": kind,
                "cohort": name,
                "rows": int(rows_P.sum()),
                "problems": int((rows_P > 0).sum()),
                "delta": float(change.value),
                "ci_low": low,
                "ci_high": high,
            })  # fmt: skip
    return made


def cohorts_of(benchmark: Benchmark, places: Sequence[int]) -> Iterator[tuple[str, str, Array]]:
    """(kind, cohort, (A, P, D) which texts of some arms are in it), of those that hold any.

    Only texts in which the arm acted. None where lengths were not recorded.
    """
    columns = benchmark.outcomes.columns
    length_PD = columns["num_tokens"][0]
    if not length_PD.any():
        return
    fired, first = columns["fired"][list(places)], columns["first_position"][list(places)]
    mean_P = length_PD.mean(axis=1)
    cut = np.quantile(mean_P, [1 / 3, 2 / 3], method="inverted_cdf")
    of_length = np.broadcast_to(np.searchsorted(cut, mean_P)[:, None], fired.shape)
    third = np.minimum(2, 3 * first.astype(np.int64) // np.maximum(1, length_PD))
    of_place = np.where(first >= 0, third, -1)
    for kind, names, number in (
        ("position", POSITIONS, of_place),
        ("length", LENGTHS, of_length),
    ):
        for at, name in enumerate(names):
            inside = fired & (number == at)
            if inside.any():
                yield kind, name, inside


def groups_of(benchmark: Benchmark) -> list[tuple[str, str, list[int]]]:
    """(mode, group, places of its arms in the table), of those that there are."""
    found = []
    for mode, group in product(MODES, GROUPS):
        places = [
            place
            for place, arm in zip(benchmark.places, benchmark.arms, strict=True)
            if (arm.mode, arm.group) == (mode, group)
        ]
        if places:
            found.append((mode, group, places))
    return found
