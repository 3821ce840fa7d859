"""Where in its sequence a position lies, and how much harder positions there are.

Array suffixes: N rows; S sequences; T types; B strata.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.runs import run_starts
from rocktok.stats.accumulator import Batch

#: The first position, the last, and ten parts of what lies between.
STRATA = 12

#: Positions of other types that a stratum must hold, or it says nothing about a type.
MIN_OTHERS = 200


def sequence_starts(sequence_N: Array) -> Array:
    """Rows that begin a sequence."""
    return run_starts(sequence_N)


def strata_of(batch: Batch) -> Array:
    """Stratum (int64) of each row of a batch of whole sequences.

    With L the last recorded position + 1: 0 for position 0, 1 for position L − 1 (where that is
    not 0), else 2 + ⌊10·position / L⌋.
    """
    position_N = batch["position"].astype(np.int64)
    starts_S = sequence_starts(batch["sequence_id"])
    size_S = np.diff(np.append(starts_S, len(position_N)))
    length_N = np.repeat(position_N[starts_S + size_S - 1] + 1, size_S)
    stratum_N: Array = 2 + 10 * position_N // length_N
    stratum_N[position_N == length_N - 1] = 1
    stratum_N[position_N == 0] = 0
    return stratum_N


def place_ratios(count_TB: Array, hard_TB: Array) -> Array:
    """a_v(b): persistent share of the other types in a stratum, over that of them in all strata.

    1 where fewer than `MIN_OTHERS` positions of other types lie in the stratum, or no position of
    another type is persistent.
    """
    others_TB = count_TB.sum(axis=0) - count_TB
    hard_others_TB = hard_TB.sum(axis=0) - hard_TB
    with np.errstate(invalid="ignore", divide="ignore"):
        share_T = hard_others_TB.sum(axis=1) / others_TB.sum(axis=1)
        ratio_TB = hard_others_TB / others_TB / share_T[:, None]
    tells_TB = (others_TB >= MIN_OTHERS) & (share_T > 0)[:, None]
    ratios_TB: Array = np.where(tells_TB, ratio_TB, 1.0)
    return ratios_TB


def position_bound(count_TB: Array) -> Array:
    """Types of which half or more stand where fewer than `MIN_OTHERS` other types do."""
    others_TB = count_TB.sum(axis=0) - count_TB
    alone_T = np.where(others_TB < MIN_OTHERS, count_TB, 0).sum(axis=1)
    bound_T: Array = 2 * alone_T >= count_TB.sum(axis=1)
    return bound_T
