"""Do rocks learn: losses over training, of types and of groups, fairly chosen and compared.

Groups are chosen at the first step on one half of the prompts and measured on the other: a type
that was chosen for its late loss has one, learn as it may. Source: arXiv 2605.09253, section 3;
the choice, the matching, the bootstrap and the equivalence tests are ours.

Array suffixes: B replicates; T types; C covariates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.choose import Chosen
from rocktok.analyses.stagnation.loss_curves import Course
from rocktok.stats.bootstrap import MIN_PROMPTS, holm, interval
from rocktok.stats.contrasts import MIN_TYPES, contrast, ratio
from rocktok.stats.group_names import NAMES

Row = dict[str, Any]


#: Ratios within a factor of this count as the same.
MARGIN = 1.1


def change_rows(course: Course, ids: tuple[int, ...] | Array) -> list[Row]:
    """Of types: first and last loss, stagnation, ΔKL and slope, with 95% intervals, and the curve.

    Intervals are null below 20 prompts at either end, and where a twentieth of the replicates are
    undefined.
    """
    first, last = course.ends
    slope_T, slope_BT = course.slopes
    rows = []
    for t in first.places(ids):
        enough = bool(first.enough_T[t] and last.enough_T[t])
        before, after = first.mean_T[t], last.mean_T[t]
        before_B, after_B = first.mean_BT[:, t], last.mean_BT[:, t]
        measures = {
            "stagnation": (ratio(after[None], before[None])[0], ratio(after_B, before_B)),
            "delta_kl": (after - before, after_B - before_B),
            "slope": (slope_T[t], slope_BT[:, t]),
        }
        row: Row = {
            "token_id": int(first.types[t]),
            "frequency_first": int(first.count_T[t]),
            "frequency_last": int(last.count_T[t]),
            "loss_first": _known(before),
            "loss_last": _known(after),
        }
        for name, (value, drawn_B) in measures.items():
            row |= _with_interval(name, value, drawn_B, enough)
        known = any(row[f"{name}_low"] is not None for name in measures)
        row["interval"] = "bootstrap" if known else None
        curve = np.array([loss_T[t] for loss_T in course.loss_ST])
        ends = np.array([[side[t] for side in ends] for ends in course.ends_ST])
        row["curve"] = [_known(value) for value in curve]
        row["curve_low"] = [_known(value) for value in ends[:, 0]]
        row["curve_high"] = [_known(value) for value in ends[:, 1]]
        rows.append(row)
    return rows


def corpus_row(course: Course) -> Row:
    """Of all positions."""
    first, last = course.ends
    row: Row = {"loss_first": first.corpus, "loss_last": last.corpus, "curve": course.corpus_rows}
    whole = _left(last.corpus, first.corpus)
    enough = _enough(course, np.arange(len(first.types)))
    row |= _with_interval("stagnation", whole, ratio(last.corpus_B, first.corpus_B), enough)
    difference = np.array(last.corpus - first.corpus)
    return row | _with_interval("delta_kl", difference, last.corpus_B - first.corpus_B, enough)


def group_rows(course: Course) -> list[Row]:
    """Of each group, over the members seen at both ends, each counting the same."""
    rows = []
    for name, ids in course.groups.items():
        at = _both_ends(course, ids)
        row: Row = {"group": name, "types": len(ids), "types_at_both_ends": len(at)}
        if not len(at):
            why = "no type of it stands at both ends" if ids else "no type is in it"
            rows.append({**row, "skipped": why})
            continue
        (before, before_B), (after, after_B) = (end.group(at) for end in course.ends)
        row |= {"loss_first": before, "loss_last": after}
        change, change_B, enough = (
            _left(after, before),
            ratio(after_B, before_B),
            _enough(course, at),
        )
        row |= _with_interval("stagnation", change, change_B, enough)
        row |= _with_interval("delta_kl", np.array(after - before), after_B - before_B, enough)
        low, high, _ = interval(change_B, 0.9) if enough else (None, None, 0)
        row |= {"stagnation_low90": low, "stagnation_high90": high}
        row["does_not_learn"] = _within(low, high)
        rows.append(row)
    return rows


def tests(course: Course, chosen: Chosen) -> list[Row]:
    """Rocks against each other group: ratio of stagnations, and contrasts over types.

    `verdict` goes by the 90% interval of stagnation_rocks / stagnation_other: within a factor of
    1.1, "learns like"; else by the 95% interval "learns less", "learns more" or "inconclusive".
    """
    rows = []
    for other in NAMES[1:]:
        sides = _compared(course, chosen, other)
        with_ratio = _compared(course, chosen, other, losing=True)
        row: Row = {"first": "rocks", "second": other,
                    "types_first": len(sides[0]), "types_second": len(sides[1])}  # fmt: skip
        if min(len(at) for at in sides) < MIN_TYPES:
            few = f"{len(sides[0])} rocks against {len(sides[1])} types"
            row["skipped"] = f"{few}; at least {MIN_TYPES} of each are needed"
        elif not all(_enough(course, at) for at in sides):
            row["skipped"] = f"fewer than {MIN_PROMPTS} prompts hold any type of a group"
        elif min(len(at) for at in with_ratio) < MIN_TYPES:
            few = f"{len(with_ratio[0])} rocks against {len(with_ratio[1])} types"
            lost = "have a loss at the first step that can fall"
            row["skipped"] = f"{few} {lost}; at least {MIN_TYPES} of each are needed"
        else:
            row |= _test(course, sides, with_ratio)
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _test(course: Course, sides: list[Array], with_ratio: list[Array]) -> Row:
    """`sides`: types seen at both ends; `with_ratio`: those that have a stagnation each."""
    changes = []
    for at in sides:
        (before, before_B), (after, after_B) = (end.group(at) for end in course.ends)
        changes.append((_left(after, before), ratio(after_B, before_B)))
    (ours, ours_B), (theirs, theirs_B) = changes
    apart_B = ratio(ours_B, theirs_B)
    row = _with_interval("ratio", _left(ours, theirs), apart_B, True)
    low, high, _ = interval(apart_B, 0.9)
    row |= {"ratio_low90": low, "ratio_high90": high}
    row["verdict"] = _verdict(row)
    first, last = course.ends
    stagnation = ratio(last.mean_T, first.mean_T), ratio(last.mean_BT, first.mean_BT)
    delta = last.mean_T - first.mean_T, last.mean_BT - first.mean_BT
    by_ratio, by_delta = contrast(*stagnation, *with_ratio), contrast(*delta, *sides)
    for found in (by_ratio, by_delta):
        del found["types_first"], found["types_second"]
    return {**row, **by_ratio, "delta_kl": by_delta}


def _verdict(row: Row) -> str:
    if row["ratio_low"] is None:
        return "inconclusive"
    if _within(row["ratio_low90"], row["ratio_high90"]):
        return "learns like"
    if row["ratio_low"] > 1:
        return "learns less"
    return "learns more" if row["ratio_high"] < 1 else "inconclusive"


def _within(low: float | None, high: float | None) -> bool | None:
    if low is None or high is None:
        return None
    return low >= 1 / MARGIN and high <= MARGIN


def _enough(course: Course, at: Array) -> bool:
    """Whether some of the types stand in enough prompts for an interval, at both ends."""
    first, last = course.ends
    return bool((first.enough_T[at] & last.enough_T[at]).any())


def _compared(course: Course, chosen: Chosen, other: str, *, losing: bool = False) -> list[Array]:
    """Rocks, and the types of another group, that are seen at both ends; of pairs both or neither.

    `losing`: only those with a loss at the first step.
    """
    rocks, others = chosen.members["rocks"], chosen.members[other]
    if other in chosen.pairs:
        seen = set(course.ends[0].types[_both_ends(course, (*rocks, *others), losing)].tolist())
        kept = [pair for pair in chosen.pairs[other] if seen.issuperset(pair)]
        rocks, others = (tuple(pair[side] for pair in kept) for side in (0, 1))
    return [_both_ends(course, ids, losing) for ids in (rocks, others)]


def _both_ends(course: Course, ids: tuple[int, ...], losing: bool = False) -> Array:
    first, last = course.ends
    at = first.places(ids)
    at = at[np.isfinite(first.mean_T[at]) & np.isfinite(last.mean_T[at])]
    return at[first.mean_T[at] > 0] if losing else at


def _left(over: Array | float, under: Array | float) -> Array:
    """Quotient of two numbers; NaN where the second is not above 0."""
    return ratio(np.array(over), np.array(under))


def _with_interval(name: str, value: Array, values_B: Array, enough: bool) -> Row:
    low, high, _ = interval(values_B) if enough else (None, None, 0)
    return {name: _known(value), f"{name}_low": low, f"{name}_high": high}


def _known(value: Array | float) -> float | None:
    return float(value) if np.isfinite(value) else None
