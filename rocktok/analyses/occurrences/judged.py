"""Judging the persistent occurrences of a type one by one, with the partners that decide.

Array suffixes: M judged occurrences of a type; E pairs of one and a similar partner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import ContextRule, Partners, retention
from rocktok.analyses.detect.null import Null
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.similarity import Similarity, Windows, partner_counts

#: Occurrences of a type among which listed partners are looked for; of more, those with the
#: smallest hashes, a uniform sample.
LOOKED_AT = 1_000

#: Similarities this close are ranked as equal: the last bits depend on the order of sums.
_DIGITS = 9

NOT_JUDGED = -1


@dataclass(frozen=True)
class JudgedType:
    """The judged occurrences of one type.

    Attributes:
        token_id: the type.
        sequence_M, position_M: where each stands.
        retained_M: int8, 1 or 0; `NOT_JUDGED` where there is no null to judge by.
        similar_M: similar partners among all occurrences of the type.
        persistent_similar_M: those among the persistent ones, which decide.
        listed_M: partners listed of each; listed_E: which, as places of a table of `sequence`
            and `position`, those of one occurrence after those of another.
    """

    token_id: int
    sequence_M: Array
    position_M: Array
    retained_M: Array
    similar_M: Array
    persistent_similar_M: Array
    listed_M: Array
    partner_sequence_E: Array
    partner_position_E: Array

    @property
    def judged(self) -> int:
        """How many were judged."""
        return int((self.retained_M != NOT_JUDGED).sum())

    @property
    def retained(self) -> int:
        """How many of these are retained."""
        return int((self.retained_M == 1).sum())


def judge_types(
    rule: ContextRule,
    null: Null | None,
    windows: dict[str, Array],
    others: dict[str, Array],
    tokens: Sequence[int],
    most: int,
) -> list[JudgedType]:
    """Types of which all occurrences are at hand, in their order.

    Args:
        rule: similarity, partners, η.
        null: what η "auto" draws from; None: η is a number.
        windows: persistent occurrences, as `PersistentWindows.result` gives them.
        others: those that are not, of the types that need no pass of their own.
        tokens: ids.
        most: partners to list for an occurrence.
    """
    found = []
    for v in tokens:
        rows = of_type(windows, v)
        ours, theirs = rule.windows(rows), rule.windows(of_type(others, v)) if others else None
        draws = None if null is None else null.nearest(v)
        own = _partners(rule.similarity, ours, ours)
        drawn = None if draws is None else _partners(rule.similarity, draws[0], ours)
        more_M = np.zeros(len(ours), dtype=np.int64)
        if theirs is not None:
            more_M = rule.similarity.count_similar(ours, theirs)
        found.append(judged_type(rule, v, rows, own, drawn, more_M, most))
    return found


def _partners(similarity: Similarity, ours: Windows, theirs: Windows) -> Partners:
    return Partners(similarity.count_similar(ours, theirs), partner_counts(ours, theirs))


def judged_type(
    rule: ContextRule,
    v: int,
    rows: dict[str, Array],
    own: Partners,
    null: Partners | None,
    more_M: Array,
    most: int,
) -> JudgedType:
    """One type whose partners are counted.

    Args:
        rows: all persistent occurrences, or a uniform sample.
        own: their partners. null: those of the draws, for η "auto"; None: there is no null.
        more_M: similar partners that are not persistent.
        most: partners to list for an occurrence.
    """
    kept = retention(own, null, rule.eta)
    retained_M = np.full(len(own.similar_M), NOT_JUDGED, dtype=np.int8)
    if kept is not None:
        retained_M = kept.retained_M.astype(np.int8)
    listed_M, place_E = listed_partners(rule.similarity, rule.windows(rows), rows, most)
    return JudgedType(
        v,
        rows["sequence"],
        rows["position"],
        retained_M,
        own.similar_M + more_M,
        own.similar_M,
        listed_M,
        rows["sequence"][place_E],
        rows["position"][place_E],
    )


def listed_partners(
    similarity: Similarity, ours: Windows, rows: dict[str, Array], most: int
) -> tuple[Array, Array]:
    """(how many partners are listed of each occurrence, their places in `rows`).

    The most similar first; among equals by sequence and position.
    """
    count_M = np.zeros(len(ours), dtype=np.int32)
    if most == 0 or len(ours) == 0:
        return count_M, np.zeros(0, dtype=np.int64)
    looked = np.arange(len(ours))
    theirs = ours
    if len(ours) > LOOKED_AT:
        looked = np.sort(np.argsort(rows["hash"], kind="stable")[:LOOKED_AT])
        theirs = Windows(ours.window_MK[looked], ours.label_M[looked])
    parts = []
    # A block holds all partners of its rows, and blocks come in the order of the rows.
    for row_E, other_E, alike_E in similarity.similar_values(ours, theirs):
        place_E = looked[other_E]
        far_E = -np.round(alike_E, _DIGITS)
        keys = (rows["position"][place_E], rows["sequence"][place_E], far_E, row_E)
        order = np.lexsort(keys)
        row_E, place_E = row_E[order], place_E[order]
        rank_E = np.arange(len(row_E)) - np.searchsorted(row_E, row_E)
        kept_E = rank_E < most
        count_M += np.bincount(row_E[kept_E], minlength=len(ours)).astype(np.int32)
        parts.append(place_E[kept_E])
    return count_M, np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
