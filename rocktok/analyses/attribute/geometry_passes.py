"""Gradient geometry of a log's `gradients/`, at one step, and by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from rocktok.analyses.attribute.geometry import MEASURES, Geometry, compare_groups, geometry
from rocktok.analyses.attribute.result import GeometryTables, GroupGeometry, TypeGeometry
from rocktok.log.gradients import load_gradients

if TYPE_CHECKING:
    from rocktok.log.catalogue import Log
    from rocktok.stats.groups import Groups


def geometry_at(log: Log, step: int | None = None) -> tuple[int, Geometry]:
    """The step (by default the last complete step that has sums) and its geometry.

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


def geometry_tables(log: Log, groups: Groups) -> GeometryTables | None:
    """What `gradients/` gives at every complete step; None where the log has none."""
    steps = log.complete_steps("gradients")
    if not steps:
        return None
    rows: list[GroupGeometry] = []
    for step in steps:
        _, measured = geometry_at(log, step)
        rows += [_group(step, name, ids, measured) for name, ids in groups.members.items()]
    tokens = [
        {"token": log.vocab.text(int(row["token_id"] or 0)), **row} for row in measured.rows()
    ]
    return {
        "step": steps[-1],
        "exact": measured.exact,
        "sketch_dims": measured.sketch_dims,
        "tokens": cast(list[TypeGeometry], tokens),
        "groups": rows,
        "comparisons": compare_groups(measured, groups.members, groups.pairs),
    }


def _group(step: int, name: str, ids: tuple[int, ...], measured: Geometry) -> GroupGeometry:
    """Medians over the group's types whose sums were recorded."""
    here_T = np.isin(measured.token_T, np.array(ids, dtype=np.int64))
    row: dict[str, int | str | float | None] = {
        "step": step,
        "group": name,
        "types": int(here_T.sum()),
    }
    for measure in MEASURES:
        values = getattr(measured, measure)[here_T]
        values = values[np.isfinite(values)]
        row[measure] = float(np.median(values)) if len(values) else None
    return cast(GroupGeometry, row)
