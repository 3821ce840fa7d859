"""Compiled loop of `half_samples`: chances of the clusters that a half-sample holds.

Loops check nothing: indices must be in range. Importing this module imports numba. Array suffixes
as in `half_samples`; O pairs of a type and a half-sample; N chances.
"""

from __future__ import annotations

from rocktok._types import Array
from rocktok.kernel import Kernel


@Kernel
def gather(
    type_O: Array,
    sample_O: Array,
    edges_V: Array,
    cluster_E: Array,
    chance_E: Array,
    member_CS: Array,
    chance_N: Array,
) -> None:
    """Write the chances of each pair's clusters, one pair after another, in the clusters' order.

    `chance_N` has room for one more, which is left with no meaning.
    """
    n = 0
    for o in range(len(type_O)):
        s = sample_O[o]
        for e in range(edges_V[type_O[o]], edges_V[type_O[o] + 1]):
            # No branch: which clusters a half-sample holds cannot be foreseen.
            chance_N[n] = chance_E[e]
            n += member_CS[cluster_E[e], s]
