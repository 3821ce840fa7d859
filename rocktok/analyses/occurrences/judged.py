"""Judging the persistent occurrences of a type one by one, with the partners that decide.

Array suffixes: M judged occurrences of a type; E pairs of one and a similar partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows, partner_counts
from rocktok.analyses.detect.context import ContextRule, Partners, retention
from rocktok.analyses.detect.judging import ALONE_SPARSE, NOTHING
from rocktok.analyses.detect.null import Null
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.similarity import Similarity
from rocktok.pairs.rows import KINDS

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
    rows_of = {v: of_type(windows, v) for v in tokens}
    others_of = {v: of_type(others, v) if others else {} for v in tokens}
    found = {}
    if rule.similarity.kind in KINDS and not rule.similarity.loaded:
        found = _judged_together(rule, null, rows_of, others_of, most)
    for v in tokens:
        if v in found:
            continue
        rows = rows_of[v]
        ours = rule.windows(rows)
        draws = None if null is None else null.nearest(v)
        own = _partners(rule.similarity, ours, ours)
        drawn = None if draws is None else _partners(rule.similarity, draws[0], ours)
        more_M = np.zeros(len(ours), dtype=np.int64)
        if others_of[v]:
            more_M = rule.similarity.count_similar(ours, rule.windows(others_of[v]))
        found[v] = judged_type(rule, v, rows, own, drawn, more_M, most)
    return [found[v] for v in tokens]


def _judged_together(
    rule: ContextRule,
    null: Null | None,
    rows_of: dict[int, dict[str, Array]],
    others_of: dict[int, dict[str, Array]],
    most: int,
) -> dict[int, JudgedType]:
    """Those of the types that have few windows, compared by a few products for all of them."""
    picks = {}
    for v, rows in rows_of.items():
        picked = NOTHING if null is None else null.picks(v)
        size, other = len(rows["loss"]), len(others_of[v].get("loss", ()))
        many = max(size, other // 8) >= ALONE_SPARSE or size > LOOKED_AT
        if picked is not None and not many:
            picks[v] = picked
    if not picks:
        return {}
    similarity = rule.similarity
    ours = {v: rule.windows(rows_of[v]) for v in picks}
    no_windows = next(iter(ours.values())).rows(slice(0, 0))
    draws = no_windows if null is None else null.front.windows
    counted = similarity.count_by_type(list(ours.values()), draws, list(picks.values()))
    theirs = [rule.windows(others_of[v]) if others_of[v] else no_windows for v in picks]
    more_N = np.zeros(len(counted.similar_N), dtype=np.int64)
    for row_E, _, _ in similarity.similar_by_type(list(ours.values()), theirs):
        more_N += np.bincount(row_E, minlength=len(more_N))
    listed_N, place_E = np.zeros(len(more_N), dtype=np.int32), NOTHING
    if most:
        sequence_N, position_N = (
            np.concatenate([rows_of[v][name] for v in picks]) for name in ("sequence", "position")
        )
        pairs = similarity.similar_by_type(list(ours.values()), list(ours.values()))
        listed_N, place_E = _first(pairs, sequence_N, position_N, most)
    found = {}
    own = drawn = slice(0, 0)
    listed = 0
    for v, picked in picks.items():
        own = slice(own.stop, own.stop + len(ours[v]))
        drawn = slice(drawn.stop, drawn.stop + len(picked))
        here = slice(listed, listed := listed + int(listed_N[own].sum()))
        draws_of = Partners(counted.similar_E[drawn], counted.partners_E[drawn])
        found[v] = _judged(
            rule.eta,
            v,
            rows_of[v],
            Partners(counted.similar_N[own], counted.partners_N[own]),
            None if null is None else draws_of,
            more_N[own],
            (listed_N[own], place_E[here] - own.start),
        )
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
    listed = listed_partners(rule.similarity, rule.windows(rows), rows, most)
    return _judged(rule.eta, v, rows, own, null, more_M, listed)


def _judged(
    eta: float | Literal["auto"],
    v: int,
    rows: dict[str, Array],
    own: Partners,
    null: Partners | None,
    more_M: Array,
    listed: tuple[Array, Array],
) -> JudgedType:
    """As `judged_type`, its partners listed; `listed` as `listed_partners` gives them."""
    kept = retention(own, null, eta)
    retained_M = np.full(len(own.similar_M), NOT_JUDGED, dtype=np.int8)
    if kept is not None:
        retained_M = kept.retained_M.astype(np.int8)
    listed_M, place_E = listed
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
    if most == 0 or len(ours) == 0:
        return np.zeros(len(ours), dtype=np.int32), NOTHING
    looked = np.arange(len(ours))
    theirs = ours
    if len(ours) > LOOKED_AT:
        looked = np.sort(np.argsort(rows["hash"], kind="stable")[:LOOKED_AT])
        theirs = Windows(ours.window_MK[looked], ours.label_M[looked])
    pairs = similarity.similar_values(ours, theirs)
    seen = ((row_E, looked[other_E], alike_E) for row_E, other_E, alike_E in pairs)
    return _first(seen, rows["sequence"], rows["position"], most)


def _first(
    pairs: Iterable[tuple[Array, Array, Array]], sequence_N: Array, position_N: Array, most: int
) -> tuple[Array, Array]:
    """(how many partners are listed of each row, the partners), of (row, partner, similarity)."""
    count_N, parts = np.zeros(len(sequence_N), dtype=np.int32), [NOTHING]
    # A block holds all partners of its rows, and blocks come in the order of the rows.
    for row_E, place_E, alike_E in pairs:
        far_E = -np.round(alike_E, _DIGITS)
        order = np.lexsort((position_N[place_E], sequence_N[place_E], far_E, row_E))
        row_E, place_E = row_E[order], place_E[order]
        rank_E = np.arange(len(row_E)) - np.searchsorted(row_E, row_E)
        kept_E = rank_E < most
        count_N += np.bincount(row_E[kept_E], minlength=len(count_N)).astype(np.int32)
        parts.append(place_E[kept_E])
    return count_N, np.concatenate(parts)
