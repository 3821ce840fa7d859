"""The arms: which token is banned or replaced, beside which controls.

A control is a type that is no rock: `control` has a loss like a rock's, `frequency` occurs as often
in the text that the rocks were found in, `placebo` stands in as many of the student's own baseline
completions. Each is drawn or matched for one rock, and no type serves twice within a group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rocktok.hashing import hash_rows
from rocktok.replay.intervene.rules import Contexts, before

if TYPE_CHECKING:
    from rocktok._types import Array

BAN, IN_CONTEXT, REPLACE = "ban", "ban-in-context", "replace"
MODES = (BAN, IN_CONTEXT, REPLACE)
ROCK, CONTROL, FREQUENCY, PLACEBO = "rock", "control", "frequency", "placebo"

#: A placebo stands in as many completions as its rock within this factor, or one more or less.
FACTOR = 1.25


@dataclass(frozen=True)
class Candidate:
    """A type to intervene on; `control_of`: the rock that it is a control of."""

    token_id: int
    group: str = ROCK
    control_of: int | None = None


@dataclass(frozen=True)
class Plan:
    """One arm; `contexts`: where it bans, for `ban-in-context`."""

    candidate: Candidate
    mode: str
    contexts: Contexts | None = None

    @property
    def name(self) -> str:
        """Unique among all arms: a type may be a control in two ways."""
        plain = f"{self.mode}:{self.candidate.token_id}"
        return plain if self.candidate.group == ROCK else f"{plain}:{self.candidate.group}"


def completions_with(texts: Sequence[Array]) -> dict[int, int]:
    """Token id → number of texts that hold it."""
    held: dict[int, int] = {}
    for text_T in texts:
        for token_id in np.unique(text_T).tolist():
            held[token_id] = held.get(token_id, 0) + 1
    return held


def placebos(
    rocks: Iterable[int], held: dict[int, int], excluded: Collection[int], seed: int = 0
) -> list[Candidate]:
    """For each rock that occurs, a type that stands in about as many completions, if there is one.

    Among those within `FACTOR` the one with the smallest hash(seed, rock, type): a random one. A
    hash of the rock says whether it is at least or at most as frequent, where there are both:
    fewer types are frequent, so that placebos would else act in fewer completions than rocks do.

    Args:
        held: as of `completions_with`.
        excluded: types that are none: rocks, other controls, what ends a text.
    """
    free = np.array(sorted(set(held) - set(excluded)), dtype=np.int64)
    count_F = np.array([held[int(v)] for v in free], dtype=np.float64)
    found = []
    # Frequent rocks first: the fewest types are near them.
    for rock in sorted((v for v in rocks if v in held), key=lambda v: (-held[v], v)):
        ours = held[rock]
        near_F = (np.abs(count_F - ours) <= 1) | (
            (count_F <= ours * FACTOR) & (count_F >= ours / FACTOR)
        )
        if not near_F.any():
            continue
        is_more = bool(hash_rows(seed, np.array([rock]))[0] >> np.uint64(63))
        side_F = near_F & ((count_F >= ours) if is_more else (count_F <= ours))
        near = np.flatnonzero(side_F if side_F.any() else near_F)
        hash_N = hash_rows(seed, np.full(len(near), rock), free[near])
        chosen = int(near[int(np.argmin(hash_N))])
        found.append(Candidate(int(free[chosen]), PLACEBO, rock))
        free, count_F = np.delete(free, chosen), np.delete(count_F, chosen)
    return sorted(found, key=lambda one: (one.control_of or 0, one.token_id))


def placebo_contexts(
    token_id: int, texts: Sequence[Array], wanted: int, like: Contexts, seed: int = 0
) -> Contexts | None:
    """Contexts of a placebo for `ban-in-context`, from the baseline's own text.

    Those before its first occurrence in `wanted` of the completions that hold it, the ones with the
    smallest hashes, so that the arm acts in about as many as the rock's.
    """
    holding = [i for i, text_T in enumerate(texts) if (text_T == token_id).any()]
    if not holding or wanted < 1:
        return None
    hash_H = hash_rows(seed, np.full(len(holding), token_id), np.array(holding))
    chosen = [holding[int(i)] for i in np.argsort(hash_H, kind="stable")[:wanted]]
    left = [before(texts[i], int(np.argmax(texts[i] == token_id)), like.width) for i in chosen]
    left_WK = np.unique(np.stack(left), axis=0)
    return Contexts(left_WK, like.min_similarity)
