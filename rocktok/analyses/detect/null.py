"""The null of η "auto": windows of positions that are free of a type.

Array suffixes: P positions of a pool; D draws; T types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.similarity import Windows, labels
from rocktok.analyses.detect.windows import MISSING, FreePools, offsets
from rocktok.stats.arrays import distinct

#: Positions drawn for the null, the fewest that will do, and the share of them that may lie at or
#: below the threshold: 951st of 1,000.
DRAWS = 1_000
MIN_DRAWS = 200
NULL_SHARE = 0.95


def null_threshold(values_D: Array) -> float:
    """The value that an occurrence must strictly exceed: the 951st smallest of 1,000 draws."""
    index = int(np.floor(NULL_SHARE * len(values_D) + 1e-9))
    return float(np.sort(values_D)[min(index, len(values_D) - 1)])


def distances(window: int) -> tuple[int, ...]:
    """How far from v the null is drawn: 2w, or nearer where too few positions are that far."""
    return (2 * window, window, window // 2)


@dataclass(frozen=True)
class Null:
    """What the nulls of all types are drawn from.

    Attributes:
        pool: positions, as `windows.Pool.result` gives them, with 2·window tokens on each side.
        free: pools of their own, for types that leave too few positions of `pool` free.
        window: tokens on each side of a window.
        partners: rule of the labels.
    """

    pool: dict[str, Array]
    free: FreePools | None
    window: int
    partners: str

    def nearest(self, v: int) -> tuple[Windows, int] | None:
        """Windows free of v, and the distance: the largest with enough of them; None: none has."""
        for distance in distances(self.window):
            drawn = self.at(v, distance)
            if drawn is not None:
                return drawn, distance
        return None

    def at(self, v: int, distance: int) -> Windows | None:
        """Windows of positions with no v within a distance; None if there are too few."""
        if self.free is not None and (v, distance) in self.free.pools:
            positions = self.free.pools[(v, distance)].result()
            rows = np.arange(len(positions.get("hash", ())))
        else:
            positions, rows = self.pool, self._free_rows(v, distance)
        if len(rows) < MIN_DRAWS:
            return None
        places = [2 * self.window + k for k in offsets(self.window).tolist()]
        drawn = {name: values[rows] for name, values in positions.items()}
        return Windows(drawn["around"][:, places], labels(drawn, self.partners))

    def _free_rows(self, v: int, distance: int) -> Array:
        """The first rows of the pool with no v within a distance; enough of them for the draw."""
        reach = 2 * self.window
        around = self.pool["around"][:, reach - distance : reach + distance + 1]
        stop = 2 * DRAWS
        while True:
            free = np.flatnonzero(~(around[:stop] == v).any(axis=1))
            if len(free) >= DRAWS or stop >= len(around):
                return free[:DRAWS]
            stop *= 2


def scarce_types(pool: dict[str, Array], token_T: Array) -> Array:
    """Which types (T, bool; ids ascending) leave too few positions of a pool free of themselves."""
    length = int(token_T[-1]) + 1
    around = pool["around"]
    row_P = np.repeat(np.arange(len(around)), around.shape[1])
    here = around.ravel() != MISSING
    pairs = distinct(row_P[here] * np.int64(length) + around.ravel()[here])
    free_V = len(around) - np.bincount(pairs % length, minlength=length)
    scarce_T: Array = free_V[token_T] < DRAWS
    return scarce_T
