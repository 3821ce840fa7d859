"""`controls` over a log: facts of types; a sample of rock occurrences; candidates like them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.controls.matched import (
    BINS,
    KINDS,
    OF_EACH,
    OF_OCCURRENCES,
    ControlsParams,
    ControlsResult,
    match_occurrences,
    match_types,
    types_of,
)
from rocktok.analyses.controls.occurrences import FEATURES, Occurrences
from rocktok.analyses.detect.passes import detect
from rocktok.engine.choose import choose_table
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.log.catalogue import Log
from rocktok.log.sequences import load_prompts
from rocktok.stats.groups import FLOORS, HalfFacts, TypeFacts
from rocktok.stats.sums import TypeSums

Row = dict[str, Any]


def controls(
    log: Log,
    *,
    rocks: tuple[int, ...] | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> ControlsResult:
    """Types, occurrences and windows that rocks are fairly compared with.

    Args:
        log: an open log (`rocktok.open`).
        rocks: token ids; None: what `detect` finds with its default options.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyses.controls.matched.ControlsParams`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, or holds none of the rocks.
    """
    params, engine = ControlsParams(**options), engine or Engine()
    table, steps, step, notes = choose_table(log, params.table, params.step)
    # What they had at first, before learning: that is what is matched.
    step = steps[0] if params.step is None else step
    source = Source(log, table, None, step, load_prompts(log), seed=params.seed)
    if rocks is None:
        found = detect(log, engine=engine, table=table, seed=params.seed).rocks
        rocks = tuple(row["token_id"] for row in found)
        if not rocks:
            raise LogError(
                f"{log.name}: `detect` finds no rocks in {table}/ by its defaults; look for some "
                "with other options (such as --context off), and give them by --rocks"
            )
    rock_V = np.array(sorted(set(rocks)), dtype=np.int64)
    facts, sums = (
        HalfFacts(params.seed, compiled=source.large),
        TypeSums(("loss_post",), compiled=source.large),
    )
    engine.run(source, facts, sums)
    if not np.isin(rock_V, np.flatnonzero(sums.count_V)).any():
        raise LogError(
            f"{log.name}: none of the {len(rock_V)} rocks stands in {table}/ at step {step}; give "
            "rocks of this log, or another --step"
        )
    kinds: dict[str, Row] = {}
    samples = _samples(source, params, engine, rock_V, sums.count_V)
    for kind in (kind for kind in KINDS if kind in params.kinds):
        if kind in OF_OCCURRENCES:
            kinds[kind] = match_occurrences(*samples, kind)
        else:
            kinds[kind] = match_types(facts.result(), rock_V, kind)
        if not kinds[kind]["pairs"]:
            notes.append(f"{kind}: {_nothing(kind, facts.result(), rock_V, samples)}")
    identity = {"table": table, "step": step, "passes": engine.passes}
    identity["rocks"] = rock_V.tolist()
    texts = {str(v): log.vocab.text(v) for v in sorted({*rock_V.tolist(), *types_of(kinds)})}
    return ControlsResult(
        {**log.identity(), **identity}, asdict(params), kinds, texts, tuple(notes)
    )


def _samples(
    source: Source, params: ControlsParams, engine: Engine, rock_V: Array, count_V: Array
) -> tuple[Any, Any]:
    """Occurrences of rocks, and of other types with losses like theirs."""
    if not set(params.kinds) & set(OF_OCCURRENCES):
        return None, None
    same: dict[str, Any] = {"count_V": count_V, "window": params.window, "seed": params.seed}
    none = np.zeros(0, dtype=np.float32)
    ours = Occurrences(rock_V, of_rocks=True, most=params.occurrences, edge_B=none, **same)
    engine.run(source, ours)
    found = ours.result()
    loss = 10 ** found[1][:, FEATURES.index("log10 loss")]
    if not len(loss):
        return found, Occurrences(rock_V, of_rocks=False, most=0, edge_B=none, **same).result()
    edges = np.unique(np.quantile(loss, np.linspace(0, 1, BINS + 1)).astype(np.float32))
    # The least and the largest must lie inside.
    edges[0], edges[-1] = np.nextafter(edges[0], np.float32(0)), np.nextafter(
        edges[-1], np.float32(np.inf))  # fmt: skip
    others = Occurrences(rock_V, of_rocks=False, most=OF_EACH, edge_B=edges, **same)
    engine.run(source, others)
    return found, others.result()


def _nothing(kind: str, facts: TypeFacts, rock_V: Array, samples: tuple[Any, Any]) -> str:
    """Why nothing of a kind could be matched."""
    if kind not in OF_OCCURRENCES:
        others_T = facts.common_T() & ~np.isin(facts.token_T, rock_V)
        if not others_T.any():
            return f"no type but the rocks stands {FLOORS}"
        return "nothing could be matched within the caliper"
    ours, others = (features for _, features in samples)
    if not len(ours):
        return "no occurrence of a rock has a loss at this step, so there is nothing to match"
    if not len(others):
        return "no occurrence of another type has a loss like the rocks'"
    if kind == "window" and not (others[:, FEATURES.index("rocks in window")] == 0).any():
        return (
            f"each of the {len(others):,} candidates has a rock in its window; give a smaller "
            "--window, or fewer rocks"
        )
    return "nothing could be matched within the caliper"
