"""Do runs agree on their rocks: overlap and rank correlation of several lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.compare.cutoffs import Key, agreement_at, replicated
from rocktok.analyses.compare.lists import LISTED
from rocktok.analyses.compare.lists import Ranking as Ranking
from rocktok.analyses.compare.result import (
    Agreement,
    ComparedList,
    CompareOptions,
    CompareResult,
    ListedToken,
)
from rocktok.analyses.detect.auto import note_differences
from rocktok.errors import LogError, UsageError
from rocktok.stats.ranks import spearman


def compare_rankings(rankings: Sequence[Ranking], params: CompareOptions) -> CompareResult:
    """Overlap and rank correlation of every two lists of rocks.

    Tokens are matched by id where all vocabularies are the same, else by text. The Jaccard index is
    |A ∩ B| / |A ∪ B|. Spearman's correlation is over the union: tokens that are no rock in one
    list share the places after its last.

    Raises `UsageError` for fewer than two, `LogError` for losses that were measured unlike, and for
    logs without a vocabulary whose ids nothing says to mean the same.
    """
    by_id, vouched = check_lists(rankings)
    keyed = [_places(number, ranking, by_id=by_id) for number, ranking in enumerate(rankings)]
    names = [ranking.name for ranking in rankings]
    pairs = [_pair(names[i], keyed[i], names[j], keyed[j]) for i, j in _two(len(names))]
    whole = [
        _places(number, replace(one, tokens=one.ranked), by_id=by_id)
        for number, one in enumerate(rankings)
    ]
    at_k = [
        agreement_at(
            (rankings[i], list(whole[i])), (rankings[j], list(whole[j])), k, params.get("types")
        )
        for i, j in _two(len(names))
        for k in params.get("at") or ()
    ]
    return CompareResult(
        log=tuple(
            cast(ComparedList, {"name": r.name, "ranked_by": r.ranked_by, **r.about})
            for r in rankings
        ),
        params=params,
        matched_by="token_id" if by_id else "token",
        pairs=tuple(pairs),
        at_k=tuple(at_k),
        replication=tuple(
            replicated(rankings[i], rankings[j], keyed[i], whole[j], by_id=by_id)
            for i, j in permutations(range(len(names)), 2)
        ),
        tokens=tuple(_union(keyed)),
        notes=(
            *vouched,
            *_notes(rankings, by_id=by_id),
            *_short(rankings, whole, params.get("at") or ()),
        ),
    )


def check_lists(rankings: Sequence[Ranking]) -> tuple[bool, list[str]]:
    """Whether ids mean the same in all lists, and what to note where little vouches for it.

    Raises as `compare_rankings` does.
    """
    if len(rankings) < 2:
        raise UsageError(
            "compare needs two sources or more; give logs or JSON files of `rocktok detect`"
        )
    _check_losses(rankings)
    return _matched_by_id(rankings)


def _check_losses(rankings: Sequence[Ranking]) -> None:
    """Raise `LogError` where two lists rest on losses of unlike exactness."""
    stated = [(r.name, r.about["exactness"]) for r in rankings if r.about.get("exactness")]
    for name, exactness in stated:
        if exactness != stated[0][1]:
            raise LogError(
                f"{name}: its losses are {exactness!r}, those of {stated[0][0]} {stated[0][1]!r}; "
                "give logs of the same exactness"
            )


def _matched_by_id(rankings: Sequence[Ranking]) -> tuple[bool, list[str]]:
    """Whether ids mean the same in all lists, and what to note where little vouches for it.

    Raises `LogError` for lists that can be matched by neither ids nor texts.
    """
    if any(ranking.ranked_by == LISTED for ranking in rankings):
        return _listed_by_id(rankings)
    vocabs = {ranking.vocab for ranking in rankings}
    if None not in vocabs:
        return len(vocabs) == 1, []
    if len({ranking.about.get("path") for ranking in rankings} - {None}) == 1:
        return True, []
    without = next(ranking.name for ranking in rankings if ranking.vocab is None)
    sizes = {ranking.about.get("vocab_size") for ranking in rankings}
    if len(vocabs - {None}) > 1 or len(sizes) > 1 or None in sizes:
        raise LogError(
            f"{without}: has no vocabulary, so its tokens can be matched with the others by "
            "neither id nor text; give logs that record one"
        )
    return True, [
        f"{without}: has no vocabulary: tokens are matched by id, and only the equal vocabulary "
        "sizes suggest that ids mean the same"
    ]


def _listed_by_id(rankings: Sequence[Ranking]) -> tuple[bool, list[str]]:
    """The same where a list comes from a published file, which names no vocabulary.

    Ids that two lists share have the same texts with one tokenizer, and seldom with two.
    """
    texts = [_texts(ranking) for ranking in rankings]
    vouched = True
    for i, j in _two(len(rankings)):
        shared = texts[i].keys() & texts[j].keys()
        same = sum(texts[i][v].strip() == texts[j][v].strip() for v in shared)
        if 2 * same < len(shared):
            return _listed_by_text(rankings, texts, f"{rankings[i].name} and {rankings[j].name}")
        vouched = vouched and bool(shared)
    if vouched:
        return True, []
    return True, [
        "tokens are matched by id, and nothing says that ids mean the same in all lists; compare "
        "lists of one tokenizer alone"
    ]


def _listed_by_text(
    rankings: Sequence[Ranking], texts: Sequence[Mapping[int, str]], which: str
) -> tuple[bool, list[str]]:
    for ranking, known in zip(rankings, texts, strict=True):
        if len(known) < len(ranking.ranked):
            raise LogError(
                f"{ranking.name}: has tokens without a text, and the ids of {which} have other "
                "texts in either; give lists of one tokenizer, or with all texts"
            )
    return False, []


def _texts(ranking: Ranking) -> dict[int, str]:
    """Id → text, where one is known: published files may have "<id=7>" in its place."""
    return {v: text for v, text, _ in ranking.ranked if text not in (f"<id {v}>", f"<id={v}>")}


def _two(count: int) -> list[tuple[int, int]]:
    return list(combinations(range(count), 2))


@dataclass(frozen=True)
class _Place:
    rank: int
    token_id: int | None
    text: str


def _places(number: int, ranking: Ranking, *, by_id: bool) -> dict[Key, _Place]:
    """Rank from 1 of each rock. Of several ids with one text the best counts."""
    places: dict[Key, _Place] = {}
    for rank, (token_id, text, _) in enumerate(ranking.tokens, start=1):
        key: Key = token_id
        if not by_id:
            # An id beyond the vocabulary has no text, and is nobody else's token.
            key = (number, token_id) if text == f"<id {token_id}>" else text
        places.setdefault(key, _Place(rank, token_id if by_id else None, text))
    return places


def _pair(first: str, ours: dict[Key, _Place], second: str, theirs: dict[Key, _Place]) -> Agreement:
    union = list(dict.fromkeys((*ours, *theirs)))
    shared = [key for key in ours if key in theirs]
    return {
        "first": first,
        "second": second,
        "rocks_first": len(ours),
        "rocks_second": len(theirs),
        "shared_count": len(shared),
        "jaccard": len(shared) / len(union) if union else None,
        "spearman": spearman(_ranks(ours, union), _ranks(theirs, union)),
        "shared": [ours[key].text for key in shared],
        "only_first": [place.text for key, place in ours.items() if key not in theirs],
        "only_second": [place.text for key, place in theirs.items() if key not in ours],
    }


def _ranks(places: dict[Key, _Place], union: list[Key]) -> Array:
    """Ranks over the union; what is no rock shares the last places, at their mean."""
    absent = sum(key not in places for key in union)
    last = len(places) + (absent + 1) / 2
    order = {key: rank for rank, key in enumerate(places, start=1)}
    return np.array([float(order.get(key, last)) for key in union])


def _union(keyed: list[dict[Key, _Place]]) -> list[ListedToken]:
    rows: list[ListedToken] = []
    for key in dict.fromkeys(key for places in keyed for key in places):
        places_of = [places[key] for places in keyed if key in places]
        rows.append({
            "token_id": places_of[0].token_id,
            "token": places_of[0].text,
            "lists": len(places_of),
            "best_rank": min(place.rank for place in places_of),
            "ranks": [places[key].rank if key in places else None for places in keyed],
        })  # fmt: skip
    return sorted(rows, key=lambda row: (-row["lists"], row["best_rank"], row["token"]))


def _short(
    rankings: Sequence[Ranking], whole: Sequence[Mapping[Key, _Place]], at: Sequence[int]
) -> list[str]:
    """Which lists end before some K."""
    notes = []
    for ranking, places in zip(rankings, whole, strict=True):
        beyond = [str(k) for k in at if k > len(places)]
        if beyond and places:
            notes.append(
                f"{ranking.name}: holds {len(places)} tokens, and counts with all of them at "
                f"K = {', '.join(beyond)}"
            )
    return notes


def _notes(rankings: Sequence[Ranking], *, by_id: bool) -> list[str]:
    notes = []
    if not by_id:
        notes.append("the vocabularies are different files: tokens are matched by text")
    by = {ranking.ranked_by for ranking in rankings}
    if len(by) > 1:
        notes.append(
            "some lists are ranked as their files have them and some by a score of this package, "
            "which may measure different things"
            if LISTED in by
            else "some lists rank by context Rock Score and some by Rock Score only, which measure "
            "different things"
        )
    notes += note_differences((r.name, r.about.get("similarity")) for r in rankings)
    notes += [f"{r.name}: no rocks" for r in rankings if not r.tokens]
    notes += dict.fromkeys(f"{r.name}: {note}" for r in rankings for note in r.notes)
    return notes
