"""Gradient geometry of a log's `gradients/`, at one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rocktok.analyse.geometry import Geometry, geometry
from rocktok.log.gradients import load_gradients

if TYPE_CHECKING:
    from rocktok.log.reader import Log


def geometry_at(log: Log, step: int | None = None) -> tuple[int, Geometry]:
    """The step (by default the last complete one that has sums) and its geometry.

    Raises as `rocktok.log.load_gradients` does.
    """
    sums = load_gradients(log, step)
    return sums.step, geometry(
        token_T=sums.token_T,
        count_HT=sums.count_HT,
        norm_HT=sums.norm_HT,
        square_HT=sums.square_HT,
        vector_HTW=sums.vector_HTW,
        count_H=sums.count_H,
        global_HW=sums.global_HW,
        balanced_HW=sums.balanced_HW,
        sketch_dims=sums.sketch_dims,
    )
