"""Rocks to follow: found on one half of the prompts at the first two steps of fixed text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rocktok._types import Array
from rocktok.analyses.detect.cutoff_passes import rocks_at_cutoffs
from rocktok.analyses.detect.log_passes import ZeroThresholdError
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.run import Run
from rocktok.engine.choose import REMEDY
from rocktok.stats.adjusted import TypesByCutoff

#: Steps of fixed text that rocks need: two at which they are chosen, and a later one.
STEPS_FOR_ROCKS = 3

_MORE_STEPS = (
    "rocks are chosen at two steps of fixed text and followed from the second to a later one: "
    f"{REMEDY}"
)


@dataclass(frozen=True)
class ChosenRocks:
    """Rocks by cutoff; none where they were given, and where `why_none` says why.

    `similarity`: how their contexts were compared; None: they were not.
    """

    by_cutoff: TypesByCutoff
    why_none: str | None
    similarity: str | None = None


def why_not_searched(
    table: str, steps: Sequence[int], options: DetectParams, select_at: str
) -> str | None:
    """Why these steps give no rocks, with the remedy; None: they do."""
    if select_at == "last":
        return "no rocks to follow: --select-at last chooses types by their last loss only"
    if table != "fixed":
        return f"no rocks to follow: in {table}/ each step has its own text; {_MORE_STEPS}"
    if len(steps) < STEPS_FOR_ROCKS:
        return f"no rocks to follow: there are two steps; {_MORE_STEPS}"
    if options.context == "off":
        return "no rocks to follow: persistence was switched off"
    return None


def search_rocks(
    run: Run,
    options: DetectParams,
    steps: Sequence[int],
    *,
    half: int,
    only: Array | None,
    embeddings: Array | None,
) -> ChosenRocks:
    """What `detect` finds on a half of the prompts at the first two steps.

    Raises `LogError` as `detect` does.
    """
    pre, post = steps[:2]
    options = replace(options, table=run.table, pre=pre, post=post)
    try:
        found = rocks_at_cutoffs(run, options, half=half, only=only, embeddings=embeddings)
    except ZeroThresholdError:
        return ChosenRocks({}, "no rocks to follow: too many losses are zero for a threshold")
    if len(found.shown):
        return ChosenRocks(found.rocks, None, found.similarity)
    where = f"on half of the prompts at steps {pre} and {post}"
    if found.tests is None:
        return ChosenRocks(
            {}, f"no rocks to follow: no type has a score above 0 {where}", found.similarity
        )
    return ChosenRocks(
        {},
        f"no rocks to follow: none of the {found.tests:,} types tested {where} is persistently "
        "hard in recurring contexts beyond chance",
        found.similarity,
    )
