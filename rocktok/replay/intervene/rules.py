"""When an arm acts: on a token everywhere, or in contexts like those in which it recurs.

Everything here is a function of the completion so far, so that the first place where an arm acts
can be read off the baseline's text: before it both texts are the same.

Shape suffixes: T tokens of a completion, W windows, K tokens before a place, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rocktok._types import Array

#: Stands in a window where the completion has no token at that offset.
MISSING = -1

#: Slack of the comparison with the minimum similarity, as `detect` has it.
EPSILON = 1e-9


@dataclass(frozen=True)
class Contexts:
    """Left halves of windows: the K tokens before each occurrence, nearest last.

    The similarity of two is positional: the number of offsets at which both have the same token,
    divided by K; an offset before the completion's first token is the same as nothing.

    Attributes:
        left_WK: (W, K) int32, `MISSING` where there is no token.
        min_similarity: in (0, 1].
    """

    left_WK: Array
    min_similarity: float

    @property
    def width(self) -> int:
        """K."""
        return int(self.left_WK.shape[1])

    def match(self, before_BK: Array) -> Array:
        """(B,) bool, which rows match at least one window."""
        same_BW = np.zeros((len(before_BK), len(self.left_WK)), dtype=np.int32)
        for k in range(self.width):
            mine_B1 = before_BK[:, k, None]
            same_BW += (mine_B1 == self.left_WK[:, k]) & (mine_B1 != MISSING)
        similar_BW = same_BW / self.width >= self.min_similarity - EPSILON
        found: Array = np.logical_or.reduce(similar_BW & (same_BW > 0), axis=1)
        return found


def before(text_T: Array, position: int, width: int) -> Array:
    """(K,) the tokens before a position of a completion, `MISSING` where there are none."""
    left_K = np.full(width, MISSING, dtype=np.int32)
    have = min(width, position)
    if have:
        left_K[width - have :] = text_T[position - have : position]
    return left_K


@dataclass(frozen=True)
class Rule:
    """What generation heeds.

    Attributes:
        banned: token that must not be drawn; None: none.
        contexts: where it is banned; None: everywhere.
        pause: token behind which generation stops; None: none.
    """

    banned: int | None = None
    contexts: Contexts | None = None
    pause: int | None = None

    def bans(self, before_BK: Array | None, rows: int) -> Array:
        """(B,) bool, for which rows the token is banned now; `before_BK`: with contexts."""
        if self.banned is None:
            return np.zeros(rows, dtype=bool)
        if self.contexts is None:
            return np.ones(rows, dtype=bool)
        assert before_BK is not None
        return self.contexts.match(before_BK)


def first_ban(text_T: Array, rule: Rule) -> int | None:
    """The first place of an unrestrained completion at which a rule forbids what was drawn.

    With `rule` the completion is the same up to there, and differs there. None: it never differs.
    """
    places_P = np.flatnonzero(text_T == rule.banned)
    if rule.contexts is not None and len(places_P):
        width = rule.contexts.width
        before_PK = np.stack([before(text_T, int(place), width) for place in places_P])
        places_P = places_P[rule.contexts.match(before_PK)]
    return int(places_P[0]) if len(places_P) else None


def first_replacement(text_T: Array, teacher_T: Array, token_id: int) -> int | None:
    """The first place with a token at which the teacher's likeliest token is another one."""
    places_P = np.flatnonzero((text_T == token_id) & (teacher_T != token_id))
    return int(places_P[0]) if len(places_P) else None
