"""Gradient geometry of a log's `gradients/`, at one step, and by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.analyses.attribute.geometry import MEASURES, Geometry, compare_groups, geometry
from rocktok.log.gradients import load_gradients

if TYPE_CHECKING:
    from rocktok.log.catalogue import Log
    from rocktok.stats.groups import Groups


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


def geometry_rows(log: Log, groups: Groups, notes: list[str]) -> dict[str, Any] | None:
    """What `gradients/` gives at every complete step; None, with a note, where the log has none."""
    steps = log.complete_steps("gradients")
    if not steps:
        notes.append(
            "no gradient sums in this log, so no directions: record them with "
            "Recorder(gradient_types=…) or Recorder(gradient_sketch=…)"
        )
        return None
    rows: list[dict[str, Any]] = []
    for step in steps:
        _, found = geometry_at(log, step)
        rows += [_group(step, name, ids, found) for name, ids in groups.members.items()]
    return {
        "step": steps[-1],
        "exact": found.exact,
        "sketch_dims": found.sketch_dims,
        "tokens": [{"token": log.vocab.text(row["token_id"]), **row} for row in found.rows()],
        "groups": rows,
        "comparisons": compare_groups(found, groups.members, groups.pairs),
    }


def _group(step: int, name: str, ids: tuple[int, ...], found: Geometry) -> dict[str, Any]:
    """Medians over the group's types whose sums were recorded."""
    kept = np.isin(found.token_T, np.array(ids, dtype=np.int64))
    row: dict[str, Any] = {"step": step, "group": name, "types": int(kept.sum())}
    for measure in MEASURES:
        values = getattr(found, measure)[kept]
        values = values[np.isfinite(values)]
        row[measure] = float(np.median(values)) if len(values) else None
    return row
