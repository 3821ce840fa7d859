"""What adjusted contrasts say: a verdict that holds at every cutoff of a group, or none. Ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rocktok.stats.adjusted import AdjustedContrast, TypesByCutoff, TypeValues, adjusted_contrasts
from rocktok.stats.bootstrap import holm

#: False discovery rates at which rocks are chosen: a verdict must hold at each.
FDRS = 0.05, 0.01, 0.2

#: Level of the tests after Holm's correction.
LEVEL = 0.05

#: Values within this factor of each other count as the same.
MARGIN = 1.1

SAME = "no difference"
NOT_COMPARABLE, DEPENDS = "not comparable", "depends on the cutoff"
INCONCLUSIVE = "inconclusive"

#: What a positive and a negative difference are called.
Words = tuple[str, str]
LEARNING: Words = "improve less", "improve more"
GRADIENT: Words = "larger", "smaller"


class CutoffContrast(AdjustedContrast):
    """The adjusted contrast of as many types as a cutoff leaves."""

    cutoff: float
    types: int


class AdjustedComparison(AdjustedContrast):
    """A group against all other types of like loss and frequency, and the verdict."""

    first: str
    second: str
    verdict: str
    cutoffs: list[CutoffContrast]


def compare_at_cutoffs(
    values: TypeValues, group: TypesByCutoff, first: str, words: Words, seed: int, threads: int = 1
) -> AdjustedComparison:
    """The contrast at each cutoff, and the verdict.

    Args:
        values: of types that stand often enough on both halves of the prompts.
        group: chosen on the half that is not measured.
        first: name of the group.
        words: what a positive and a negative difference are called.
        seed: of the resamples of types.
        threads: as in `adjusted_contrast`.
    """
    contrasts = adjusted_contrasts(values, list(group.values()), seed, threads)
    rows = {cutoff: [row] for cutoff, row in zip(group, contrasts, strict=True)}
    (verdict,) = verdicts(rows, words)
    cutoffs: list[CutoffContrast] = [
        {"cutoff": cutoff, "types": len(group[cutoff]), **row} for cutoff, (row,) in rows.items()
    ]
    (shown,) = next(iter(rows.values()))
    return {"first": first, "second": "others", **shown, "verdict": verdict, "cutoffs": cutoffs}


def verdicts(
    cutoffs: Mapping[float, Sequence[AdjustedContrast]], words: Words = LEARNING
) -> list[str]:
    """A verdict for each contrast, from the same contrasts with groups at several cutoffs.

    One of the `words` needs a rejection of its sign at every cutoff, and groups that are comparable
    at each; `no difference` needs every 90% interval within a factor of 1.1. Sets `p_holm`, over
    the contrasts of a cutoff.

    Args:
        cutoffs: cutoff → contrasts, the same in each. The first cutoff is the one that is shown.
        words: what a positive and a negative difference are called.
    """
    for rows in cutoffs.values():
        tested = [(row, row["p"]) for row in rows if row["p"] is not None]
        corrected = holm([p for _, p in tested])
        for (row, _), p_holm in zip(tested, corrected, strict=True):
            row["p_holm"] = p_holm
    return [
        _verdict([_outcome(row, words) for row in same], words)
        for same in zip(*cutoffs.values(), strict=True)
    ]


def _verdict(outcomes: list[str], words: Words) -> str:
    if len(set(outcomes)) == 1 or outcomes[0] == NOT_COMPARABLE:
        return outcomes[0]
    decided = set(words) & set(outcomes)
    return DEPENDS if decided else INCONCLUSIVE


def _outcome(row: AdjustedContrast, words: Words) -> str:
    """At one cutoff."""
    difference, high, p = row["difference"], row["high"], row["p_holm"]
    if not row["comparable"]:
        return NOT_COMPARABLE
    if difference is None or high is None or p is None:
        return INCONCLUSIVE
    if p <= LEVEL:
        return words[0] if difference > 0 else words[1]
    reach90 = (high - difference) * 1.645 / 1.96
    return SAME if abs(difference) + reach90 <= math.log(MARGIN) else INCONCLUSIVE
