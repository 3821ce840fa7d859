"""γ of similarity "hidden", where it is not given: what random pairs of positions seldom reach.

Array suffixes: P positions of a pool; E pairs.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import labels
from rocktok.pairs.sketches import BITS, SIMILARITY, bits_of_pairs
from rocktok.stats.quantiles import quantile_rank

#: Share of the random pairs whose similarity is at most γ.
SHARE = 0.95

#: Pairs from which γ is taken, at least where there are so many; and looked at for them, at most.
PAIRS = 1 << 16
_LOOKED_AT = 8 * PAIRS

#: Most bits in which similar sketches differ: fewer than half, or their vectors point apart.
_MOST = BITS // 2 - 1


def random_pairs(pool: dict[str, Array], partners: str) -> Array:
    """(E,) int64: differing bits of random pairs of positions that may be partners.

    Positions stand in the order of a hash, so that each is paired with those next to it, then with
    those after these: the same pairs however the log is cut.

    Args:
        pool: as `windows.Pool.result` gives it, with sketches.
        partners: rule of the labels.
    """
    sketch_PW, label_P = pool["sketch"], labels(pool, partners)
    parts, pairs = [np.zeros(0, dtype=np.int64)], 0
    for apart in range(1, (len(label_P) - 1) // 2 + 1):
        if pairs >= PAIRS or (apart - 1) * len(label_P) >= _LOOKED_AT:
            break
        other_P = np.roll(np.arange(len(label_P)), -apart)
        row_E = np.flatnonzero(label_P != label_P[other_P])
        parts.append(bits_of_pairs(sketch_PW[row_E], sketch_PW[other_P[row_E]]))
        pairs += len(row_E)
    return np.concatenate(parts)


def gamma_of(bits_E: Array, share: float = SHARE) -> float:
    """The quantile of the similarities of pairs that differ in so many bits; 1 without pairs."""
    if not len(bits_E):
        return 1.0
    rank = quantile_rank(share, len(bits_E))
    bits = int(np.sort(bits_E)[::-1][rank - 1])
    return float(SIMILARITY[min(bits, _MOST)])
