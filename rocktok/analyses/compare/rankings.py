"""Do runs agree on their rocks: overlap and rank correlation of several lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import numpy as np

from rocktok._types import Array
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

#: An id, a text, or what nothing else is: (number of the list, id).
Key = int | str | tuple[int, int]

#: What `compare` gives of each log, where the log's own identity has it.
_ABOUT = (
    "path", "run_id", "exactness", "trained_loss", "vocab", "vocab_size", "shards",
    "skipped_shards", "versions", "table", "pre", "post",
)  # fmt: skip


@dataclass(frozen=True)
class Ranking:
    """The rocks of one log, best first.

    Attributes:
        name: of the log or file.
        vocab: what identifies its vocabulary; None where it has none.
        tokens: (token id, text, score).
        ranked_by: "score" where rocks were tested, else "context_rock_score"; without context,
            where they are the types with the largest loss, "rock_score".
        about: what identifies the log, and table and steps.
        notes: what a reader of the list must know.
    """

    name: str
    vocab: str | None
    tokens: tuple[tuple[int, str, float], ...]
    ranked_by: str
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> Ranking:
        """From what `rocktok detect` writes as JSON."""
        log, params = content["log"], content.get("params", {})
        is_tested = params.get("rule") == "tested"
        by = "score" if is_tested else "context_rock_score"
        rows = [r for r in content["tokens"] if r["is_rock"]]
        if log["pre"] is None:
            by, rows = "rock_score", rows or content["tokens"]
        rocks = sorted(rows, key=lambda r: int(r["rank"]))
        tokens = tuple((int(r["token_id"]), str(r["token"]), float(r[by])) for r in rocks)
        about = {key: log.get(key) for key in _ABOUT}
        compared = content.get("thresholds", {}).get("gamma") is not None
        about["similarity"] = params.get("similarity") if compared else None
        return cls(name, log.get("vocab"), tokens, by, about)


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
    return CompareResult(
        log=tuple(
            cast(ComparedList, {"name": r.name, "ranked_by": r.ranked_by, **r.about})
            for r in rankings
        ),
        params=params,
        matched_by="token_id" if by_id else "token",
        pairs=tuple(pairs),
        tokens=tuple(_union(keyed)),
        notes=(*vouched, *_notes(rankings, by_id=by_id)),
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


def _notes(rankings: Sequence[Ranking], *, by_id: bool) -> list[str]:
    notes = []
    if not by_id:
        notes.append("the vocabularies are different files: tokens are matched by text")
    if len({ranking.ranked_by for ranking in rankings}) > 1:
        notes.append(
            "some lists rank by context Rock Score and some by Rock Score only, which measure "
            "different things"
        )
    notes += note_differences((r.name, r.about.get("similarity")) for r in rankings)
    notes += [f"{r.name}: no rocks" for r in rankings if not r.tokens]
    notes += dict.fromkeys(f"{r.name}: {note}" for r in rankings for note in r.notes)
    return notes
