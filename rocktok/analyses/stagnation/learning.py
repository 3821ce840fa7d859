"""Do rocks learn: losses over training, of types and of groups, compared.

Groups are chosen at the first steps on one half of the prompts and measured on the other: a type
that was chosen for its late loss has one, learn as it may. Source: arXiv 2605.09253, section 3;
the choice, the matching, the bootstrap and the equivalence tests are ours.

Array suffixes: B replicates; T types.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.choose import ComparedGroups
from rocktok.analyses.stagnation.loss_curves import LossCurves
from rocktok.analyses.stagnation.result import (
    Comparison,
    CorpusChange,
    GroupChange,
    TypeChange,
)
from rocktok.stats.bootstrap import holm
from rocktok.stats.contrasts import MIN_TYPES, Contrast, OverTypes, contrast, ratio
from rocktok.stats.group_names import AGAINST, ROCKS
from rocktok.stats.intervals import MIN_EFFECTIVE, Estimate, ends
from rocktok.words import counted

#: Ratios within a factor of this count as the same.
MARGIN = 1.1


def change_rows(curves: LossCurves, ids: tuple[int, ...] | Array) -> list[TypeChange]:
    """Of types: pre and post loss, stagnation, ΔKL and slope, with 95% intervals, and the curve.

    Intervals are null below 20 effective prompts at either end, that of the slope at any step.
    Texts and groups are left empty.
    """
    pre, post = curves.ends
    change, difference, slopes = post.mean / pre.mean, post.mean - pre.mean, curves.slope
    change_ends = np.stack(change.interval(), axis=1)
    difference_ends = np.stack(difference.interval(positive=False), axis=1)
    slope_ends = np.stack(slopes.interval(positive=False), axis=1)
    few_T = difference.few_prompts | slopes.few_prompts
    rows: list[TypeChange] = []
    for t in pre.places(ids):
        stagnation, delta, slope = (
            [_number(end) for end in pair_T2[t]]
            for pair_T2 in (change_ends, difference_ends, slope_ends)
        )
        bounds = np.array([[side_T[t] for side_T in sides] for sides in curves.ends_ST])
        rows.append({
            "token_id": int(pre.types[t]),
            "token": "",
            "groups": [],
            "frequency_pre": int(pre.count_T[t]),
            "frequency_post": int(post.count_T[t]),
            "loss_pre": _number(pre.mean_T[t]),
            "loss_post": _number(post.mean_T[t]),
            "stagnation": _number(change.value[t]),
            "stagnation_low": stagnation[0],
            "stagnation_high": stagnation[1],
            "delta_kl": _number(difference.value[t]),
            "delta_kl_low": delta[0],
            "delta_kl_high": delta[1],
            "slope": _number(slopes.value[t]),
            "slope_low": slope[0],
            "slope_high": slope[1],
            "interval": "bootstrap"
            if any(pair[0] is not None for pair in (stagnation, delta, slope))
            else None,
            "few_prompts_carry_it": bool(few_T[t]),
            "curve": [_number(loss_T[t]) for loss_T in curves.loss_ST],
            "curve_low": [_number(value) for value in bounds[:, 0]],
            "curve_high": [_number(value) for value in bounds[:, 1]],
        })  # fmt: skip
    return rows


def corpus_row(curves: LossCurves) -> CorpusChange:
    """Of all positions."""
    pre, post = curves.ends
    change, difference = post.corpus / pre.corpus, post.corpus - pre.corpus
    stagnation, delta = ends(change.interval()), ends(difference.interval(positive=False))
    return {
        "loss_pre": float(pre.corpus.value),
        "loss_post": float(post.corpus.value),
        "curve": curves.corpus_rows,
        "stagnation": _number(change.value),
        "stagnation_low": stagnation[0],
        "stagnation_high": stagnation[1],
        "delta_kl": _number(difference.value),
        "delta_kl_low": delta[0],
        "delta_kl_high": delta[1],
        "few_prompts_carry_it": bool(difference.few_prompts),
    }


def group_rows(curves: LossCurves) -> list[GroupChange]:
    """Of each group, over the members seen at both ends, each counting the same."""
    return [_group_row(curves, name, ids) for name, ids in curves.groups.items()]


def _group_row(curves: LossCurves, name: str, ids: tuple[int, ...]) -> GroupChange:
    at = _both_ends(curves, ids)
    row: GroupChange = {"group": name, "types": len(ids), "types_at_both_ends": len(at)}
    if not len(at):
        why = "no type of the group occurs at both steps" if ids else "the group is empty"
        return {**row, "skipped": why}
    before, after = (end.group(at) for end in curves.ends)
    change, difference = after / before, after - before
    stagnation, delta = ends(change.interval()), ends(difference.interval(positive=False))
    low, high = ends(change.interval(0.9))
    return {
        **row,
        "loss_pre": float(before.value),
        "loss_post": float(after.value),
        "stagnation": _number(change.value),
        "stagnation_low": stagnation[0],
        "stagnation_high": stagnation[1],
        "delta_kl": _number(difference.value),
        "delta_kl_low": delta[0],
        "delta_kl_high": delta[1],
        "stagnation_low90": low,
        "stagnation_high90": high,
        "does_not_learn": _within(low, high),
        "few_prompts_carry_it": bool(difference.few_prompts),
    }


def comparisons(curves: LossCurves, groups: ComparedGroups) -> list[Comparison]:
    """Rocks, or without any `high_loss`, against each other group, whatever these began with:
    ratio of stagnations, and contrasts over types.
    """
    rows = [_comparison(curves, groups, other) for other in AGAINST]
    tested = [row for row in rows if "p" in row]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _comparison(curves: LossCurves, groups: ComparedGroups, other: str) -> Comparison:
    sides = _sides(curves, groups, other)
    with_ratio = _sides(curves, groups, other, losing=True)
    row: Comparison = {
        "first": groups.first,
        "second": other,
        "types_first": len(sides[0]),
        "types_second": len(sides[1]),
    }
    if min(len(at) for at in sides) < MIN_TYPES:
        row["skipped"] = f"{_few(groups.first, sides)}; at least {MIN_TYPES} of each are needed"
    elif any(end.occurrences(at).few_prompts for end in curves.ends for at in sides):
        row["skipped"] = (
            f"fewer than {MIN_EFFECTIVE} effective prompts contain the types of a group"
        )
    elif min(len(at) for at in with_ratio) < MIN_TYPES:
        lost = "have a loss above 0 at the pre step"
        few = f"{_few(groups.first, with_ratio)} {lost}"
        row["skipped"] = f"{few}; at least {MIN_TYPES} of each are needed"
    else:
        _compare(row, curves, sides, with_ratio)
    return row


def _few(first: str, sides: list[Array]) -> str:
    ours, theirs = map(len, sides)
    noun = "rock" if first == ROCKS.name else "type"
    of = "" if first == ROCKS.name else f" of {first}"
    return f"{counted(ours, noun)}{of} against {counted(theirs, 'type')}"


def _compare(
    row: Comparison, curves: LossCurves, sides: list[Array], with_ratio: list[Array]
) -> None:
    """`sides`: types seen at both ends; `with_ratio`: those that have a stagnation each."""
    pre, post = curves.ends
    ours, theirs = (_change(curves, at) for at in sides)
    apart = ours / theirs
    row["ratio"] = _number(apart.value)
    row["ratio_low"], row["ratio_high"] = ends(apart.interval())
    stagnation = ratio(post.mean_T, pre.mean_T), ratio(post.mean_BT, pre.mean_BT)
    delta = post.mean_T - pre.mean_T, post.mean_BT - pre.mean_BT
    by_ratio = contrast(*stagnation, *with_ratio)
    row["difference_of_medians"] = by_ratio["difference_of_medians"]
    row["rank_biserial"] = by_ratio["rank_biserial"]
    row["undefined_replicates"] = by_ratio["undefined_replicates"]
    row["p"], row["p_types_naive"] = by_ratio["p"], by_ratio["p_types_naive"]
    row["delta_kl"] = _over_types(contrast(*delta, *sides))


def _over_types(contrasted: Contrast) -> OverTypes:
    return {
        "difference_of_medians": contrasted["difference_of_medians"],
        "rank_biserial": contrasted["rank_biserial"],
        "undefined_replicates": contrasted["undefined_replicates"],
        "p": contrasted["p"],
        "p_types_naive": contrasted["p_types_naive"],
    }


def _within(low: float | None, high: float | None) -> bool | None:
    if low is None or high is None:
        return None
    return low >= 1 / MARGIN and high <= MARGIN


def _change(curves: LossCurves, at: Array) -> Estimate:
    """Of a group of types (places): its loss at the last step over that at the first."""
    before, after = (end.group(at) for end in curves.ends)
    return after / before


def _sides(
    curves: LossCurves, groups: ComparedGroups, other: str, *, losing: bool = False
) -> list[Array]:
    """Types of the group, and of another, that are seen at both ends; of pairs both or neither.

    `losing`: only those with a loss at the pre step.
    """
    first, others = groups.members[groups.first], groups.members[other]
    if other in groups.pairs:
        at = _both_ends(curves, (*first, *others), losing)
        seen = set(curves.ends[0].types[at].tolist())
        kept = [pair for pair in groups.pairs[other] if seen.issuperset(pair)]
        first, others = (tuple(pair[side] for pair in kept) for side in (0, 1))
    return [_both_ends(curves, ids, losing) for ids in (first, others)]


def _both_ends(curves: LossCurves, ids: tuple[int, ...], losing: bool = False) -> Array:
    pre, post = curves.ends
    at = pre.places(ids)
    at = at[np.isfinite(pre.mean_T[at]) & np.isfinite(post.mean_T[at])]
    return at[pre.mean_T[at] > 0] if losing else at


def _number(value: Array | float) -> float | None:
    return float(value) if np.isfinite(value) else None
