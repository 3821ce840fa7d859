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
from rocktok.stats.bootstrap import MIN_PROMPTS, holm, interval
from rocktok.stats.contrasts import MIN_TYPES, Contrast, OverTypes, contrast, ratio
from rocktok.stats.group_names import AGAINST, ROCKS

#: Ratios within a factor of this count as the same.
MARGIN = 1.1

#: Lower and upper end of an interval; None where there is none.
Ends = tuple[float | None, float | None]


def change_rows(curves: LossCurves, ids: tuple[int, ...] | Array) -> list[TypeChange]:
    """Of types: pre and post loss, stagnation, ΔKL and slope, with 95% intervals, and the curve.

    Intervals are null below 20 prompts at either end, and where a twentieth of the replicates are
    undefined. Texts and groups are left empty.
    """
    pre, post = curves.ends
    slope_T, slope_BT = curves.slopes
    rows: list[TypeChange] = []
    for t in pre.places(ids):
        enough = bool(pre.enough_T[t] and post.enough_T[t])
        before, after = pre.mean_T[t], post.mean_T[t]
        before_B, after_B = pre.mean_BT[:, t], post.mean_BT[:, t]
        stagnation = _ends(ratio(after_B, before_B), enough)
        delta = _ends(after_B - before_B, enough)
        slope = _ends(slope_BT[:, t], enough)
        bounds = np.array([[side[t] for side in ends] for ends in curves.ends_ST])
        rows.append({
            "token_id": int(pre.types[t]),
            "token": "",
            "groups": [],
            "frequency_pre": int(pre.count_T[t]),
            "frequency_post": int(post.count_T[t]),
            "loss_pre": _number(before),
            "loss_post": _number(after),
            "stagnation": _number(ratio(after[None], before[None])[0]),
            "stagnation_low": stagnation[0],
            "stagnation_high": stagnation[1],
            "delta_kl": _number(after - before),
            "delta_kl_low": delta[0],
            "delta_kl_high": delta[1],
            "slope": _number(slope_T[t]),
            "slope_low": slope[0],
            "slope_high": slope[1],
            "interval": "bootstrap"
            if any(ends[0] is not None for ends in (stagnation, delta, slope))
            else None,
            "curve": [_number(loss_T[t]) for loss_T in curves.loss_ST],
            "curve_low": [_number(value) for value in bounds[:, 0]],
            "curve_high": [_number(value) for value in bounds[:, 1]],
        })  # fmt: skip
    return rows


def corpus_row(curves: LossCurves) -> CorpusChange:
    """Of all positions."""
    pre, post = curves.ends
    enough = _enough(curves, np.arange(len(pre.types)))
    stagnation = _ends(ratio(post.corpus_B, pre.corpus_B), enough)
    delta = _ends(post.corpus_B - pre.corpus_B, enough)
    return {
        "loss_pre": pre.corpus,
        "loss_post": post.corpus,
        "curve": curves.corpus_rows,
        "stagnation": _number(_quotient(post.corpus, pre.corpus)),
        "stagnation_low": stagnation[0],
        "stagnation_high": stagnation[1],
        "delta_kl": _number(post.corpus - pre.corpus),
        "delta_kl_low": delta[0],
        "delta_kl_high": delta[1],
    }


def group_rows(curves: LossCurves) -> list[GroupChange]:
    """Of each group, over the members seen at both ends, each counting the same."""
    return [_group_row(curves, name, ids) for name, ids in curves.groups.items()]


def _group_row(curves: LossCurves, name: str, ids: tuple[int, ...]) -> GroupChange:
    at = _both_ends(curves, ids)
    row: GroupChange = {"group": name, "types": len(ids), "types_at_both_ends": len(at)}
    if not len(at):
        why = "no type of it stands at both ends" if ids else "no type is in it"
        return {**row, "skipped": why}
    (before, before_B), (after, after_B) = (end.group(at) for end in curves.ends)
    change_B, enough = ratio(after_B, before_B), _enough(curves, at)
    stagnation, delta = _ends(change_B, enough), _ends(after_B - before_B, enough)
    low, high = _ends(change_B, enough, 0.9)
    return {
        **row,
        "loss_pre": before,
        "loss_post": after,
        "stagnation": _number(_quotient(after, before)),
        "stagnation_low": stagnation[0],
        "stagnation_high": stagnation[1],
        "delta_kl": _number(after - before),
        "delta_kl_low": delta[0],
        "delta_kl_high": delta[1],
        "stagnation_low90": low,
        "stagnation_high90": high,
        "does_not_learn": _within(low, high),
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
    elif not all(_enough(curves, at) for at in sides):
        row["skipped"] = f"fewer than {MIN_PROMPTS} prompts hold any type of a group"
    elif min(len(at) for at in with_ratio) < MIN_TYPES:
        lost = "have a loss at the pre step that can fall"
        few = f"{_few(groups.first, with_ratio)} {lost}"
        row["skipped"] = f"{few}; at least {MIN_TYPES} of each are needed"
    else:
        _compare(row, curves, sides, with_ratio)
    return row


def _few(first: str, sides: list[Array]) -> str:
    ours = "rocks" if first == ROCKS.name else f"types of {first}"
    return f"{len(sides[0])} {ours} against {len(sides[1])} types"


def _compare(
    row: Comparison, curves: LossCurves, sides: list[Array], with_ratio: list[Array]
) -> None:
    """`sides`: types seen at both ends; `with_ratio`: those that have a stagnation each."""
    pre, post = curves.ends
    changes = []
    for at in sides:
        (before, before_B), (after, after_B) = (end.group(at) for end in curves.ends)
        changes.append((_quotient(after, before), ratio(after_B, before_B)))
    (ours, ours_B), (theirs, theirs_B) = changes
    apart_B = ratio(ours_B, theirs_B)
    row["ratio"] = _number(_quotient(ours, theirs))
    row["ratio_low"], row["ratio_high"] = _ends(apart_B)
    stagnation = ratio(post.mean_T, pre.mean_T), ratio(post.mean_BT, pre.mean_BT)
    delta = post.mean_T - pre.mean_T, post.mean_BT - pre.mean_BT
    by_ratio = contrast(*stagnation, *with_ratio)
    row["difference_of_medians"] = by_ratio["difference_of_medians"]
    row["low"], row["high"] = by_ratio["low"], by_ratio["high"]
    row["rank_biserial"] = by_ratio["rank_biserial"]
    row["rank_biserial_low"] = by_ratio["rank_biserial_low"]
    row["rank_biserial_high"] = by_ratio["rank_biserial_high"]
    row["undefined_replicates"] = by_ratio["undefined_replicates"]
    row["p"], row["p_types_naive"] = by_ratio["p"], by_ratio["p_types_naive"]
    row["delta_kl"] = _over_types(contrast(*delta, *sides))


def _over_types(contrasted: Contrast) -> OverTypes:
    return {
        "difference_of_medians": contrasted["difference_of_medians"],
        "low": contrasted["low"],
        "high": contrasted["high"],
        "rank_biserial": contrasted["rank_biserial"],
        "rank_biserial_low": contrasted["rank_biserial_low"],
        "rank_biserial_high": contrasted["rank_biserial_high"],
        "undefined_replicates": contrasted["undefined_replicates"],
        "p": contrasted["p"],
        "p_types_naive": contrasted["p_types_naive"],
    }


def _within(low: float | None, high: float | None) -> bool | None:
    if low is None or high is None:
        return None
    return low >= 1 / MARGIN and high <= MARGIN


def _enough(curves: LossCurves, at: Array) -> bool:
    """Whether some of the types stand in enough prompts for an interval, at both ends."""
    pre, post = curves.ends
    return bool((pre.enough_T[at] & post.enough_T[at]).any())


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


def _quotient(over: Array | float, under: Array | float) -> Array:
    """Quotient of two numbers; NaN where the second is not above 0."""
    return ratio(np.array(over), np.array(under))


def _ends(values_B: Array, enough: bool = True, level: float = 0.95) -> Ends:
    low, high, _ = interval(values_B, level) if enough else (None, None, 0)
    return low, high


def _number(value: Array | float) -> float | None:
    return float(value) if np.isfinite(value) else None
