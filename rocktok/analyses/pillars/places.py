"""Where arms acted: effects by position and length, and what follows the place.

Array suffixes: A arms; P problems; D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.arms import Benchmark
from rocktok.analyses.pillars.result import (
    CohortRow,
    CompensationContrastRow,
    CompensationRow,
)
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
    columns = benchmark.outcomes.columns
    correct = columns["correct"].astype(np.float64)
    length_PD = columns["num_tokens"][0]
    if not length_PD.any():  # not recorded
        return []
    cut = np.quantile(length_PD.mean(axis=1), [1 / 3, 2 / 3], method="inverted_cdf")
    of_length_P = np.searchsorted(cut, length_PD.mean(axis=1))
    made: list[CohortRow] = []
    for mode, group, places in _groups(benchmark):
        fired = columns["fired"][places]
        first = columns["first_position"][places]
        of_length = np.broadcast_to(of_length_P[:, None], fired.shape)
        third = np.minimum(2, 3 * first.astype(np.int64) // np.maximum(1, length_PD))
        of_place = np.where(first >= 0, third, -1)
        for kind, names, number in (
            ("position", POSITIONS, of_place),
            ("length", LENGTHS, of_length),
        ):
            for at, name in enumerate(names):
                inside = fired & (number == at)
                rows_P = inside.sum(axis=(0, 2)).astype(np.float64)
                if not rows_P.any():
                    continue
                ours_P = (correct[places] * inside).sum(axis=(0, 2))
                theirs_P = (correct[:1] * inside).sum(axis=(0, 2))
                rows = ProblemEstimate.of(rows_P, 1)
                change = (
                    ProblemEstimate.of(ours_P, 1) / rows - ProblemEstimate.of(theirs_P, 1) / rows
                )
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


def _groups(benchmark: Benchmark) -> list[tuple[str, str, list[int]]]:
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


@dataclass(frozen=True)
class _After:
    """What follows the places of one group: means, None where nothing was recorded."""

    rows: int
    problems: int
    loss: ProblemEstimate | None
    baseline_loss: ProblemEstimate | None
    edit: ProblemEstimate | None

    @property
    def change(self) -> Estimate | None:
        if self.loss is None or self.baseline_loss is None:
            return None
        return self.loss - self.baseline_loss


def compensation_rows(
    benchmark: Benchmark, level: float
) -> tuple[list[CompensationRow], list[CompensationContrastRow]]:
    """Means by mode and group, and rocks minus each other group."""
    found = {
        (mode, group): after
        for mode, group, places in _groups(benchmark)
        if (after := _after(benchmark, places)).rows
    }
    rows: list[CompensationRow] = []
    contrasts: list[CompensationContrastRow] = []
    for (mode, group), after in found.items():
        change, low, high = _ends(after.change, level)
        edit, edit_low, edit_high = _ends(after.edit, level, most=1.0)
        rows.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "group": group,
            "rows": after.rows,
            "problems": after.problems,
            "loss_after": _value(after.loss),
            "baseline_loss_after": _value(after.baseline_loss),
            "loss_change": change,
            "loss_change_low": low,
            "loss_change_high": high,
            "edit_after": edit,
            "edit_after_low": edit_low,
            "edit_after_high": edit_high,
        })  # fmt: skip
        rock = found.get((mode, "rock"))
        if rock is None or group == "rock":
            continue
        change, low, high = _ends(_minus(rock.change, after.change), level)
        edit, edit_low, edit_high = _ends(_minus(rock.edit, after.edit), level)
        contrasts.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "against": group,
            "loss_change": change,
            "loss_change_low": low,
            "loss_change_high": high,
            "edit_after": edit,
            "edit_after_low": edit_low,
            "edit_after_high": edit_high,
        })  # fmt: skip
    return rows, contrasts


def _after(benchmark: Benchmark, places: Sequence[int]) -> _After:
    columns = benchmark.outcomes.columns
    loss, before, edit = (
        columns[name][list(places)].astype(np.float64)
        for name in ("loss_after", "baseline_loss_after", "edit_after")
    )
    # A change needs both losses, at the same places.
    both = np.isfinite(loss) & np.isfinite(before)
    either = both | np.isfinite(edit)
    return _After(
        rows=int(either.sum()),
        problems=int(either.any(axis=(0, 2)).sum()),
        loss=_mean(loss, both),
        baseline_loss=_mean(before, both),
        edit=_mean(edit, np.isfinite(edit)),
    )


def _mean(values: Array, present: Array) -> ProblemEstimate | None:
    """Mean over rows, with problems as the unit."""
    if not present.any():
        return None
    # Reverse KL is below zero by rounding alone.
    values = np.where(present, np.maximum(values, 0.0), 0.0)
    rows = ProblemEstimate.of(present.sum(axis=(0, 2)).astype(np.float64), 1)
    return ProblemEstimate.of(values.sum(axis=(0, 2)), float(values.max())) / rows


def _minus(first: Estimate | None, second: Estimate | None) -> Estimate | None:
    return None if first is None or second is None else first - second


def _value(mean: Estimate | None) -> float | None:
    return None if mean is None else float(mean.value)


def _ends(
    mean: Estimate | None, level: float, most: float = np.inf
) -> tuple[float | None, float | None, float | None]:
    """Value and ends of its interval."""
    if mean is None:
        return None, None, None
    low, high = ends(mean.interval(1 - level, positive=most < np.inf, most=most))
    return float(mean.value), low, high
