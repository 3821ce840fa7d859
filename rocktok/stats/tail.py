"""Tails of sums of independent yes-no votes with unlike probabilities (Poisson binomial).

Array suffixes: T sums; E votes of all sums, one sum after another; C sums of a chunk; K their
votes; S states.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array

#: Numbers that a chunk of the recursion holds at once.
_CELLS = 1 << 20

#: A sum this near to a whole number is that number.
_SLACK = 1e-12
_NEAR = 1e-9


def tails(chance_E: Array, votes_T: Array, sum_T: Array, *, compiled: bool = False) -> Array:
    """P(votes with these probabilities sum to `sum_T` or more), for sums that need not be whole.

    With S(j) the probability of j or more, j = ⌊s⌋ and f = s − j the tail is
    S(j)^(1−f)·S(j+1)^f, and S(j) where no more than j can be reached.

    Args:
        chance_E: probabilities, those of a sum side by side.
        votes_T: how many of them belong to each sum.
        sum_T: what was reached, from 0 to `votes_T`.
        compiled: use the compiled loop. The same bits as without.
    """
    whole_T = np.floor(sum_T + _SLACK).astype(np.int64)
    start_T = np.cumsum(votes_T) - votes_T
    low_T, high_T = np.ones(len(sum_T)), np.zeros(len(sum_T))
    # Like sizes together, or most of a chunk would be padding.
    size_T = np.ceil(np.log2(np.maximum(votes_T, 1)))
    order = np.lexsort((whole_T, size_T))
    order = order[sum_T[order] > 0]
    if compiled and len(order):
        from rocktok.stats import tail_loops

        low_C, high_C = np.ones(len(order)), np.zeros(len(order))
        sizes = start_T[order], votes_T[order], whole_T[order]
        tail_loops.reach(chance_E, *sizes, low_C, high_C)
        low_T[order], high_T[order] = low_C, high_C
        order = order[:0]
    while len(order):
        longest_T = np.maximum.accumulate(votes_T[order])
        widest_T = np.maximum.accumulate(whole_T[order]) + 2 + longest_T
        fits = np.arange(1, len(order) + 1) * widest_T <= _CELLS
        chunk = order[: max(1, int(np.argmin(fits)) if not fits.all() else len(order))]
        order = order[len(chunk) :]
        low_T[chunk], high_T[chunk] = _chunk(
            chance_E, start_T[chunk], votes_T[chunk], whole_T[chunk]
        )
    return _between(low_T, high_T, sum_T, votes_T)


def binomial_tails(chance: float, votes_T: Array, sum_T: Array) -> Array:
    """`tails` where all probabilities are one; S(j) is then a binomial's."""
    from scipy.special import bdtrc

    whole_T = np.floor(sum_T + _SLACK)
    high_T = np.where(whole_T < votes_T, bdtrc(np.minimum(whole_T, votes_T), votes_T, chance), 0.0)
    low_T = np.where(whole_T > 0, bdtrc(np.maximum(whole_T - 1, 0), votes_T, chance), 1.0)
    return _between(low_T, high_T, sum_T, votes_T)


def _between(low_T: Array, high_T: Array, sum_T: Array, votes_T: Array) -> Array:
    """From S(⌊s⌋) and S(⌊s⌋ + 1) the tail of s, by its fraction."""
    whole_T = np.floor(sum_T + _SLACK)
    part_T = sum_T - whole_T
    part_T = np.where((part_T < _NEAR) | (whole_T >= votes_T), 0.0, part_T)
    tail_T: Array = low_T ** (1 - part_T) * high_T**part_T
    return tail_T


def _chunk(chance_E: Array, start_C: Array, votes_C: Array, whole_C: Array) -> tuple[Array, Array]:
    """S(j) and S(j + 1) of some sums; the same bits whatever else is in the chunk."""
    at_K = np.arange(votes_C.max(initial=0))
    here_CK = at_K < votes_C[:, None]
    chance_CK = np.zeros(here_CK.shape)
    chance_CK[here_CK] = chance_E[(start_C[:, None] + at_K)[here_CK]]
    # By the votes that are still missing to j + 1: small tails are then sums of small numbers.
    state_CS = np.zeros((len(start_C), int(whole_C.max()) + 2))
    state_CS[np.arange(len(start_C)), whole_C + 1] = 1.0
    for chance_C in chance_CK.T:
        yes_CS = state_CS[:, 1:] * chance_C[:, None]
        state_CS[:, 1:] *= (1 - chance_C)[:, None]
        state_CS[:, :-1] += yes_CS
    high_C = state_CS[:, 0]
    return np.where(whole_C > 0, high_C + state_CS[:, 1], 1.0), high_C
