"""Draws of the nulls of many types, at each distance from v.

Array suffixes: T types; K distances, descending; E picks of draws, one type after another; W draws
of all types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.null import DRAWS, MIN_DRAWS, Null


@dataclass(frozen=True)
class Draws:
    """Draws of the nulls of some types.

    Attributes:
        windows: W of them.
        pick_E: which of these are among the draws of a type at any distance, ascending.
        pick_ptr_T: (T + 1,) where the picks of each type begin.
        near_EK: whether a pick is drawn at a distance.
        far_TK: which distance stands for each: itself, or where too few positions are so far the
            next smaller one with enough; −1: none.
    """

    windows: Windows
    pick_E: Array
    pick_ptr_T: Array
    near_EK: Array
    far_TK: Array

    @classmethod
    def of(
        cls,
        null: Null | None,
        tokens: Sequence[int],
        near: tuple[int, ...],
        none: Windows,
        *,
        compiled: bool,
    ) -> Draws:
        """Each position of the shared pool once, however many nulls it is drawn for.

        `none`: windows of their kind, no row of them. `compiled`: the same draws, faster.
        """
        if null is None:
            ptr_T = np.zeros(len(tokens) + 1, dtype=np.int64)
            near_EK, far_TK = np.zeros((0, len(near)), bool), np.full((len(tokens), len(near)), -1)
            return cls(none, ptr_T[:0], ptr_T, near_EK, far_TK)
        if compiled and (null.free is None or not {v for v, _ in null.free.pools} & {*tokens}):
            return cls._compiled(null, tokens, near)
        rows = {(v, d): null.shared_rows(v, d) for v in tokens for d in near}
        known = [found for found in rows.values() if found is not None]
        used = np.unique(np.concatenate([np.zeros(0, np.int64), *known]))
        drawn = null.shared_windows(used) if len(used) else none
        pick, held = [], []
        for v in tokens:
            at: list[Array] = []
            for d in near:
                shared, windows = rows[v, d], None
                if shared is None and (windows := null.at(v, d)) is not None:
                    at.append(np.arange(len(drawn), len(drawn) + len(windows)))
                    drawn = drawn.joined(windows)
                else:
                    at.append(np.zeros(0, np.int64) if shared is None else _place(used, shared))
            pick.append(np.unique(np.concatenate(at)))
            held.append(np.stack([np.isin(pick[-1], rows_D) for rows_D in at], axis=1))
        ptr_T, near_EK = np.cumsum([0, *map(len, pick)]), np.concatenate(held)
        some_TK = np.array([near_EK.any(axis=0) for near_EK in held])
        return cls(drawn, np.concatenate(pick), ptr_T, near_EK, _far(some_TK))

    @classmethod
    def _compiled(cls, null: Null, tokens: Sequence[int], near: tuple[int, ...]) -> Draws:
        """Of types that have no pool of their own."""
        from rocktok.report import grid_loops

        most = len(tokens) * len(near) * DRAWS
        pick_E, near_EK = np.empty(most, np.int64), np.empty((most, len(near)), np.bool_)
        ptr_T = np.empty(len(tokens) + 1, np.int64)
        enough_TK = np.empty((len(tokens), len(near)), np.bool_)
        around = np.ascontiguousarray(null.pool["around"])
        token_T, distance_K = np.array(tokens, np.int64), np.array(near, np.int64)
        grid_loops.draw(
            around, token_T, distance_K, DRAWS, MIN_DRAWS, pick_E, near_EK, ptr_T, enough_TK
        )
        pick_E, near_EK = pick_E[: ptr_T[-1]], near_EK[: ptr_T[-1]].copy()
        used_P = np.zeros(len(around), dtype=bool)
        used_P[pick_E] = True
        windows = null.shared_windows(np.flatnonzero(used_P))
        return cls(windows, (np.cumsum(used_P) - 1)[pick_E], ptr_T, near_EK, _far(enough_TK))

    @property
    def picks(self) -> list[Array]:
        """Of each type."""
        return np.split(self.pick_E, self.pick_ptr_T[1:-1])


def _far(enough_TK: Array) -> Array:
    """Which distance stands for each, by which have enough draws."""
    far_TK = np.where(enough_TK, np.arange(enough_TK.shape[1]), -1)
    for k in range(far_TK.shape[1] - 2, -1, -1):
        without_T = far_TK[:, k] < 0
        far_TK[without_T, k] = far_TK[without_T, k + 1]
    return far_TK


def _place(used: Array, rows: Array) -> Array:
    place: Array = np.searchsorted(used, rows)
    return place
