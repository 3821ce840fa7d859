"""Judging the contexts of many types whose windows are at hand: those with few of them together.

Array suffixes: T types; N windows, sorted by token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import Context, ContextRule
from rocktok.analyses.detect.null import DRAWS, Null
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.similarity import MANY

#: Windows of a type from which it is judged by itself: an index of its own then pays, or without
#: compiled loops a product of its own.
ALONE = 4_000
ALONE_SPARSE = 48

#: Windows that are made ready at once, of some 500 bytes each; of those that come first, if types
#: are judged only until no other can be a rock.
TOGETHER = 1 << 13
FIRST = 1 << 8

NOTHING: Array = np.zeros(0, dtype=np.int64)


def compiled_pays(size_T: Array) -> bool:
    """Whether to load compiled loops for types with so many windows (int64)."""
    few_T = size_T[size_T < ALONE]
    return int((few_T * (few_T + DRAWS)).sum()) >= 10 * MANY


def cut(tokens: list[int], size_T: Array, *, first: int | None = None) -> Iterator[list[int]]:
    """Types that are judged in one call each, in their order.

    `first`: windows of the first call; those of the others double.
    """
    ready: list[int] = []
    held, most = 0, TOGETHER if first is None else first
    for v, size in zip(tokens, size_T.tolist(), strict=True):
        if ready and held + size > most:
            yield ready
            ready, held, most = [], 0, min(2 * most, TOGETHER)
        ready.append(v)
        held += size
    if ready:
        yield ready


def longest_first(parts: list[list[int]], size_T: Array) -> list[int]:
    """Places of the parts, those with the most pairs of windows first.

    Args:
        parts: from `cut`. size_T: windows of the types, in the order of the parts.
    """
    ends = np.cumsum([0, *map(len, parts)])
    pairs_T = np.cumsum(np.concatenate(([0.0], size_T.astype(np.float64) ** 2)))
    order: list[int] = np.argsort(-np.diff(pairs_T[ends]), kind="stable").tolist()
    return order


def judge(
    rule: ContextRule, null: Null | None, windows: dict[str, Array], tokens: list[int]
) -> list[Context]:
    """Contexts of some types, in their order. `null`: what is drawn from; None: η is a number.

    Compiled loops are used if the similarity has them loaded; they change nothing.
    """
    types = [of_type(windows, v) for v in tokens]
    alone = ALONE if rule.similarity.loaded else ALONE_SPARSE
    few: dict[int, tuple[dict[str, Array], Array]] = {}
    for v, rows in zip(tokens, types, strict=True):
        picked = NOTHING if null is None else null.picks(v)
        if picked is not None and len(rows["loss"]) < alone and rule.similarity.by_type:
            few[v] = rows, picked
    found = dict(zip(few, rule.judge_together(list(few.values()), null), strict=True))
    return [
        found.get(v) or rule.judge(rows, None if null is None else null.nearest(v))
        for v, rows in zip(tokens, types, strict=True)
    ]
