"""What follows the place where arms acted: loss and edits, by group, and rocks against others.

What is said of one group is about its own tokens: problems are the unit. A difference between
rocks and controls is about kinds of tokens, and every token has an effect of its own; so there the
unit is the pair of a rock and its control. With problems as the unit, random types in the place of
rocks would differ from their controls far more often than the level says.

Array suffixes: A arms; P problems; D draws; K pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.arms import Benchmark
from rocktok.analyses.pillars.paired import Difference, paired_difference
from rocktok.analyses.pillars.places import ProblemEstimate, cohorts_of, groups_of
from rocktok.analyses.pillars.result import (
    CompensationCohortRow,
    CompensationContrastRow,
    CompensationRow,
)
from rocktok.stats.intervals import MIN_EFFECTIVE, Estimate, ends


@dataclass(frozen=True)
class _After:
    """What follows the places of one group: means, None where nothing was recorded.

    Attributes:
        rows, problems: with losses or edits.
        loss, baseline_loss, edit: means over rows, with problems as the unit.
        change_A, edit_A: means of each arm, NaN where it has none.
    """

    rows: int
    problems: int
    loss: ProblemEstimate | None
    baseline_loss: ProblemEstimate | None
    edit: ProblemEstimate | None
    change_A: Array
    edit_A: Array

    @property
    def change(self) -> Estimate | None:
        if self.loss is None or self.baseline_loss is None:
            return None
        return self.loss - self.baseline_loss


def compensation_rows(
    benchmark: Benchmark, level: float
) -> tuple[list[CompensationRow], list[CompensationContrastRow]]:
    """Means by mode and group, and rocks minus each other group."""
    places = {(mode, group): own for mode, group, own in groups_of(benchmark)}
    found = {key: after for key, own in places.items() if (after := _after(benchmark, own)).rows}
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
        loss, edits = _differences(
            benchmark, (places[mode, "rock"], rock), (places[mode, group], after), level
        )
        contrasts.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "against": group,
            "pairs": max(loss.pairs, edits.pairs),
            "loss_change": loss.value,
            "loss_change_low": loss.low,
            "loss_change_high": loss.high,
            "edit_after": edits.value,
            "edit_after_low": edits.low,
            "edit_after_high": edits.high,
        })  # fmt: skip
    return rows, contrasts


def compensation_cohort_rows(benchmark: Benchmark, level: float) -> list[CompensationCohortRow]:
    """The same in thirds of the texts, by position and by length."""
    groups = {(mode, group): own for mode, group, own in groups_of(benchmark)}
    found = {
        (mode, group, kind, name): after
        for (mode, group), own in groups.items()
        for kind, name, inside in cohorts_of(benchmark, own)
        if (after := _after(benchmark, own, inside)).rows
    }
    rows: list[CompensationCohortRow] = []
    for (mode, group, kind, name), after in found.items():
        change, low, high = _ends(after.change, level)
        edit, edit_low, edit_high = _ends(after.edit, level, most=1.0)
        loss = edits = Difference(0, None, None, None)
        rock = found.get((mode, "rock", kind, name))
        if rock is not None and group != "rock":
            loss, edits = _differences(
                benchmark, (groups[mode, "rock"], rock), (groups[mode, group], after), level
            )
        rows.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "group": group,
            "kind": kind,
            "cohort": name,
            "rows": after.rows,
            "problems": after.problems,
            "loss_change": change,
            "loss_change_low": low,
            "loss_change_high": high,
            "edit_after": edit,
            "edit_after_low": edit_low,
            "edit_after_high": edit_high,
            "pairs": max(loss.pairs, edits.pairs),
            "loss_difference": loss.value,
            "loss_difference_low": loss.low,
            "loss_difference_high": loss.high,
            "edit_difference": edits.value,
            "edit_difference_low": edits.low,
            "edit_difference_high": edits.high,
        })  # fmt: skip
    return rows


def _differences(
    benchmark: Benchmark,
    rocks: tuple[Sequence[int], _After],
    others: tuple[Sequence[int], _After],
    level: float,
) -> tuple[Difference, Difference]:
    """Rocks minus their controls: change of the loss, and edits. Each: places of arms, means."""
    arms = benchmark.outcomes.arms
    ours, theirs = ([arms[place] for place in places] for places, _ in (rocks, others))
    made = []
    for one, other, of_rocks, of_others in (
        (rocks[1].change_A, others[1].change_A, rocks[1].loss, others[1].loss),
        (rocks[1].edit_A, others[1].edit_A, rocks[1].edit, others[1].edit),
    ):
        rock_values = {arm.token_id: v for arm, v in zip(ours, one, strict=True) if np.isfinite(v)}
        control_values = [
            (arm.control_of, v) for arm, v in zip(theirs, other, strict=True) if np.isfinite(v)
        ]
        problems = [0.0 if mean is None else float(mean.prompts) for mean in (of_rocks, of_others)]
        made.append(
            paired_difference(
                rock_values, control_values, level, given=min(problems) >= MIN_EFFECTIVE
            )
        )
    return made[0], made[1]


def _after(benchmark: Benchmark, places: Sequence[int], inside: Array | bool = True) -> _After:
    """`inside`: (A, P, D) which texts count."""
    columns = benchmark.outcomes.columns
    loss, before, edit = (
        columns[name][list(places)].astype(np.float64)
        for name in ("loss_after", "baseline_loss_after", "edit_after")
    )
    # A change needs both losses, at the same places.
    both = np.isfinite(loss) & np.isfinite(before) & inside
    edited = np.isfinite(edit) & inside
    either = both | edited
    return _After(
        rows=int(either.sum()),
        problems=int(either.any(axis=(0, 2)).sum()),
        loss=_mean(loss, both),
        baseline_loss=_mean(before, both),
        edit=_mean(edit, edited),
        change_A=_by_arm(loss, both) - _by_arm(before, both),
        edit_A=_by_arm(edit, edited),
    )


def _whole(values: Array, present: Array) -> Array:
    """0 where nothing is present; reverse KL is below zero by rounding alone."""
    whole: Array = np.where(present, np.maximum(values, 0.0), 0.0)
    return whole


def _mean(values: Array, present: Array) -> ProblemEstimate | None:
    """Mean over rows, with problems as the unit."""
    if not present.any():
        return None
    values = _whole(values, present)
    rows = ProblemEstimate.of(present.sum(axis=(0, 2)).astype(np.float64), 1)
    return ProblemEstimate.of(values.sum(axis=(0, 2)), float(values.max())) / rows


def _by_arm(values: Array, present: Array) -> Array:
    """(A,) mean over an arm's rows; NaN without any."""
    rows_A = present.sum(axis=(1, 2))
    mean_A = np.full(len(values), np.nan)
    sum_A = _whole(values, present).sum(axis=(1, 2))
    np.divide(sum_A, rows_A, out=mean_A, where=rows_A > 0)
    return mean_A


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
