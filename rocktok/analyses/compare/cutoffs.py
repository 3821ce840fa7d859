"""Agreement of the first K of two lists, and whether rocks of one log are hard in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rocktok.analyses.compare.lists import Ranking
from rocktok.analyses.compare.result import AgreementAt, Replicated

#: An id, a text, or what nothing else is: (number of the list, id).
Key = int | str | tuple[int, int]

#: A rock replicates in another log with this hardness.
LEAST_HARDNESS = 1.5


def agreement_at(
    one: tuple[Ranking, Sequence[Key]],
    other: tuple[Ranking, Sequence[Key]],
    k: int,
    types: int | None,
) -> AgreementAt:
    """Overlap of the first `k` of two lists, given with their keys, best first.

    `types`: number of types that both are drawn from; None: the smaller number that they name.
    """
    (first, a), (second, b) = one, other
    ours, theirs = set(a[:k]), set(b[:k])
    known = [r.types for r in (first, second) if r.types is not None]
    types = types or (min(known) if len(known) == 2 else None)
    controls = [{v for v in r.controls[:k] if v is not None} for r in (first, second)]
    return {
        "first": first.name,
        "second": second.name,
        "k": k,
        "first_count": len(ours),
        "second_count": len(theirs),
        "shared_count": len(ours & theirs),
        "jaccard": _jaccard(ours, theirs),
        "jaccard_chance": chance_jaccard(len(ours), len(theirs), types),
        "jaccard_controls": _jaccard(*controls) if all(controls) else None,
    }


def _jaccard(ours: set[Any], theirs: set[Any]) -> float | None:
    union = len(ours | theirs)
    return len(ours & theirs) / union if union else None


def chance_jaccard(a: int, b: int, types: int | None) -> float | None:
    """Expected Jaccard index of `a` and `b` types drawn at random from `types`; None: too few."""
    from scipy.stats import hypergeom

    if types is None or max(a, b) > types or not a + b:
        return None
    shared = np.arange(min(a, b) + 1)
    return float((hypergeom.pmf(shared, types, a, b) * shared / (a + b - shared)).sum())


def replicated(
    one: Ranking,
    other: Ranking,
    ours: Mapping[Key, Any],
    theirs: Mapping[Key, Any],
    *,
    by_id: bool,
) -> Replicated:
    """How many of one list's rocks are hard in another log, or at least in its whole list.

    A type counts that 3 prompts of the other log hold: one that is too rare there to be named can
    replicate, and one that is not there cannot fail to.
    """
    row: Replicated = {
        "first": one.name,
        "second": other.name,
        "by": "listed",
        "rocks": len(ours),
        "seen": len(ours),
        "replicated": sum(key in theirs for key in ours),
        "share": None,
    }
    if other.hardness is not None and by_id:
        hardness = [other.hardness[key] for key in ours if key in other.hardness]  # type: ignore[index]
        row["by"], row["seen"] = "hardness", len(hardness)
        row["replicated"] = sum(one >= LEAST_HARDNESS for one in hardness)
    if row["seen"]:
        row["share"] = row["replicated"] / row["seen"]
    return row
