"""Fair comparison sets for rocks, and how well they are balanced.

Source: arXiv 2605.09253 compares with a "frequency-matched" list that covers a fifth of the rocks'
occurrences. The kinds, the calipers and the balance are ours. Array suffixes: R rocks; A others;
C covariates.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from rocktok._types import Array
from rocktok.analyses.controls.occurrences import FEATURES, Sampled
from rocktok.analyses.controls.result import KINDS, Matched, Place, token_of
from rocktok.stats.groups import CALIPER, TypeFacts
from rocktok.stats.matching import balance, match

#: Covariates of occurrences and of windows.
OF_OCCURRENCES = {
    "occurrence": ("relative position", "log10 length", "log10 loss"),
    "window": ("rocks in window", "window tokens", "window log10 frequency"),
}

#: Caliper of a covariate, in standard deviations of the rocks' values.
DEVIATIONS = 0.2

#: Caliper of the number of rocks in a window: only the same number is within it.
EXACT = 0.5

#: Candidates are drawn from so many bins of the rocks' losses, so many of each.
BINS, OF_EACH = 20, 250


def types_of(kinds: dict[str, Matched]) -> list[int]:
    """Token ids of all pairs, and of what was left alone, ascending."""
    return sorted({
        token_of(place)
        for matched in kinds.values()
        for place in (*matched["unmatched"], *chain.from_iterable(matched["pairs"]))
    })  # fmt: skip


def match_types(facts: TypeFacts, rocks: Array, kind: str) -> Matched:
    """`frequency` or `loss`: types of like log₁₀ n, or of like log₁₀ mean loss, one to each rock.

    Controls are no rocks and stand often enough in both halves of the prompts.
    """
    count_T, loss_T = facts.frequency_HT.sum(axis=0), facts.loss_HT.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value_TC = np.log10(np.stack([count_T, loss_T / count_T], axis=1))
    ours = np.flatnonzero(np.isin(facts.token_T, rocks))
    able = np.setdiff1d(np.flatnonzero(facts.common_T()), ours)
    column = [KINDS.index(kind)]
    pair_P2, left = match(value_TC[ours][:, column], value_TC[able][:, column], np.array([CALIPER]))
    pairs = zip(facts.token_T[ours[pair_P2[:, 0]]], facts.token_T[able[pair_P2[:, 1]]], strict=True)
    absent = np.setdiff1d(rocks, facts.token_T).tolist()
    return {
        "pairs": [[int(rock), int(other)] for rock, other in pairs],
        "unmatched": sorted([*facts.token_T[ours[left]].tolist(), *absent]),
        "balance": balance(
            ("log10 frequency", "log10 mean loss"), value_TC[ours], value_TC[able], pair_P2
        ),
    }


def match_occurrences(ours: Sampled, others: Sampled, kind: str) -> Matched:
    """`occurrence` or `window`: to each sampled rock occurrence one of another type.

    Args:
        ours, others: as `Occurrences.result` gives them.
    """
    names = OF_OCCURRENCES[kind]
    columns = [FEATURES.index(name) for name in names]
    (our_rows, our_MF), (rows, other_MF) = ours, others
    rock_RC, other_AC = our_MF[:, columns], other_MF[:, columns]
    spread_C = np.nanstd(rock_RC, axis=0) if len(rock_RC) else np.zeros(len(columns))
    # What does not vary among the rocks must be the same.
    caliper_C = np.where(spread_C > 0, DEVIATIONS * spread_C, 1e-9)
    if kind == "window":
        caliper_C[names.index("rocks in window")] = EXACT
    pair_P2, left = match(rock_RC, other_AC, caliper_C)
    ids, other_ids = _places(our_rows), _places(rows)
    return {
        "pairs": [[ids[i], other_ids[j]] for i, j in pair_P2.tolist()],
        "unmatched": [ids[i] for i in left.tolist()],
        "balance": balance(names, rock_RC, other_AC, pair_P2),
    }


def _places(rows: dict[str, Array]) -> list[Place]:
    columns = (rows[name].tolist() for name in ("sequence_id", "position", "token_id"))
    return [[int(x) for x in place] for place in zip(*columns, strict=True)]
