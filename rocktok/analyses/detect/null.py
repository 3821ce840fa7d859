"""The null of η "auto": windows of positions that are free of a type.

Array suffixes: P positions of a pool; D draws; T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows, labels
from rocktok.analyses.detect.windows import MISSING, FreePools, offsets
from rocktok.stats.arrays import distinct

#: Positions drawn for the null, the fewest that will do, and the share of them that may lie at or
#: below the threshold: 951st of 1,000.
DRAWS = 1_000
MIN_DRAWS = 200
NULL_SHARE = 0.95


def null_threshold(values_D: Array) -> float:
    """The value that an occurrence must strictly exceed: the 951st smallest of 1,000 draws."""
    return float(null_thresholds(values_D))


def null_thresholds(values_DG: Array) -> Array:
    """The same of each column (G,)."""
    place = min(int(np.floor(NULL_SHARE * len(values_DG) + 1e-9)), len(values_DG) - 1)
    thresholds_G: Array = np.partition(values_DG, place, axis=0)[place]
    return thresholds_G


def null_thresholds_by_type(values_E: Array, draws_T: Array) -> Array:
    """The same of each type (T,), whose draws (`draws_T` of them) stand one type after another."""
    if len(draws_T) and bool((draws_T == draws_T[0]).all()):
        return null_thresholds(values_E.reshape(len(draws_T), -1).T)
    thresholds_T = np.empty(len(draws_T), values_E.dtype)
    start_T = np.cumsum(draws_T) - draws_T
    for draws in np.unique(draws_T).tolist():
        alike_T = draws_T == draws
        values_GD = values_E[start_T[alike_T][:, None] + np.arange(draws)]
        thresholds_T[alike_T] = null_thresholds(values_GD.T)
    return thresholds_T


def distances(window: int) -> tuple[int, ...]:
    """How far from v the null is drawn: 2w, or nearer where too few positions are that far."""
    return (2 * window, window, window // 2)


@dataclass(frozen=True)
class Null:
    """What the nulls of all types are drawn from.

    Attributes:
        pool: positions, as `windows.Pool.result` gives them, with 2·window tokens on each side; if
            they have sketches, these are what is compared.
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

    @cached_property
    def front(self) -> PoolFront:
        """The part of the pool that holds the draws of most types."""
        rows = {name: values[: 2 * DRAWS] for name, values in self.pool.items()}
        return PoolFront(self._windows(rows), rows["around"], len(self.pool["hash"]) <= 2 * DRAWS)

    def picks(self, v: int) -> Array | None:
        """Which rows of `front` are what `nearest` gives, 2·window away; None: it gives others."""
        if self.free is not None and (v, 2 * self.window) in self.free.pools:
            return None
        return self.front.free_of(v)

    def judgeable(self, token_T: Array) -> Array:
        """Which types (T, bool; ids ascending) `nearest` has windows for."""
        reach = 2 * self.window
        near = min(distances(self.window))
        around = self.pool["around"][:, reach - near : reach + near + 1]
        judgeable_T = free_enough(around, token_T, MIN_DRAWS)
        if self.free is not None:
            for v in {v for v, _ in self.free.pools}:
                sizes = [self.free.size(v, distance) for distance in distances(self.window)]
                judgeable_T[token_T == v] = max(sizes) >= MIN_DRAWS
        return judgeable_T

    def shared_rows(self, v: int, distance: int) -> Array | None:
        """Rows of the shared pool that `at` takes; None: none of these."""
        if self.free is not None and (v, distance) in self.free.pools:
            return None
        rows = self._free_rows(v, distance)
        return rows if len(rows) >= MIN_DRAWS else None

    def shared_windows(self, rows: Array) -> Windows:
        """Windows of some rows of the shared pool."""
        return self._windows({name: values[rows] for name, values in self.pool.items()})

    def at(self, v: int, distance: int) -> Windows | None:
        """Windows of positions with no v within a distance; None if there are too few."""
        if self.free is not None and (v, distance) in self.free.pools:
            positions = self.free.pools[(v, distance)].result()
            rows = np.arange(len(positions.get("hash", ())))
        else:
            positions, rows = self.pool, self._free_rows(v, distance)
        if len(rows) < MIN_DRAWS:
            return None
        return self._windows({name: values[rows] for name, values in positions.items()})

    def _windows(self, rows: dict[str, Array]) -> Windows:
        if "sketch" in rows:
            return Windows(rows["sketch"], labels(rows, self.partners))
        places = [2 * self.window + k for k in offsets(self.window).tolist()]
        return Windows(rows["around"][:, places], labels(rows, self.partners))

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


@dataclass(frozen=True)
class PoolFront:
    """The first rows of a pool, enough to draw for most types: for many types at once.

    Attributes:
        windows: of these rows, with labels.
        around: tokens around each, and its own.
        whole: whether the pool has no others.
    """

    windows: Windows
    around: Array
    whole: bool

    @cached_property
    def _by_token(self) -> tuple[Array, Array]:
        """Tokens around all rows, ascending, and the row of each."""
        order = np.argsort(self.around, axis=None, kind="stable")
        return self.around.ravel()[order], order // self.around.shape[1]

    def free_of(self, v: int) -> Array | None:
        """The draws of a type: the first rows free of it; None: they are not all among these."""
        token_N, row_N = self._by_token
        start, stop = np.searchsorted(token_N, np.array([v, v + 1], dtype=token_N.dtype))
        free_P = np.ones(len(self.around), dtype=bool)
        free_P[row_N[start:stop]] = False
        rows = np.flatnonzero(free_P)[:DRAWS]
        return rows if len(rows) >= (MIN_DRAWS if self.whole else DRAWS) else None


def scarce_types(pool: dict[str, Array], token_T: Array) -> Array:
    """Which types (T, bool; ids ascending) leave too few positions of a pool free of themselves."""
    return ~free_enough(pool["around"], token_T, DRAWS)


def free_enough(around: Array, token_T: Array, enough: int) -> Array:
    """Of which types (T, bool; ids ascending) at least `enough` rows (P, places) hold none."""
    row_N = np.repeat(np.arange(len(around)), around.shape[1])
    token_N = around.ravel()
    count_V = np.bincount(token_N[token_N != MISSING], minlength=int(token_T[-1]) + 1)
    # A row may hold a type more than once: those that occur less often are free in enough anyway.
    often_V = len(around) - count_V < enough
    often_N = (token_N != MISSING) & often_V[token_N]
    pairs = distinct(row_N[often_N] * np.int64(len(count_V)) + token_N[often_N])
    holding_V = np.bincount(pairs % len(count_V), minlength=len(count_V))
    enough_T: Array = ~often_V[token_T] | (len(around) - holding_V[token_T] >= enough)
    return enough_T
