"""Compiled loop of `tail`: the same bits, for many sums of many votes.

Importing this module imports numba. Array suffixes as in `tail`.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel


@Kernel
def reach(
    chance_E: Array, start_C: Array, votes_C: Array, whole_C: Array, low_C: Array, high_C: Array
) -> None:
    """S(j) and S(j + 1) of some sums."""
    state_S = np.zeros(whole_C.max() + 3)
    for c in range(len(start_C)):
        top = whole_C[c] + 1
        state_S[: top + 2] = 0.0
        state_S[top] = 1.0
        for i in range(start_C[c], start_C[c] + votes_C[c]):
            yes, no = chance_E[i], 1.0 - chance_E[i]
            state_S[0] += state_S[1] * yes
            for s in range(1, top + 1):
                state_S[s] = state_S[s] * no + state_S[s + 1] * yes
        high_C[c] = state_S[0]
        low_C[c] = state_S[0] + state_S[1] if whole_C[c] > 0 else 1.0
