"""`controls` over a log: facts of types; a sample of rock occurrences; candidates like them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.controls.matched import (
    BINS,
    OF_EACH,
    OF_OCCURRENCES,
    match_occurrences,
    match_types,
    types_of,
)
from rocktok.analyses.controls.occurrences import FEATURES, Occurrences, Sampled
from rocktok.analyses.controls.result import (
    KINDS,
    ControlsOptions,
    ControlsParams,
    ControlsResult,
    Matched,
)
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.rock_passes import Rocks, find_rocks
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.stats.groups import FLOORS, HalfFacts, TypeFacts


@public
def controls(
    log: LogOrPath,
    *,
    rocks: tuple[int, ...] | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    step: int | None = None,
    kinds: tuple[str, ...] = KINDS,
    occurrences: int = 1_000,
    window: int = 8,
    seed: int = 0,
) -> ControlsResult:
    """Matched controls for rocks: types, occurrences and windows.

    Args:
        log: an open log, or the path of one.
        rocks: token ids; None: the rocks of `detect` with its default options.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        step: step at which controls are matched; None: the first complete step, before learning.
        kinds: kinds of control, of "frequency", "loss", "occurrence", "window".
        occurrences: number of rock occurrences to match.
        window: number of tokens on each side of an occurrence.
        seed: random seed of the samples.

    Raises:
        UsageError: an option is out of range.
        LogError: the log is damaged, lacks the table or step, or contains none of the rocks.
    """
    params = options_of(ControlsParams, locals())
    run = Run.begin(log, engine, table, seed)
    last, steps, notes = run.view.reference(step)
    source = run.source(steps[0] if step is None else last)
    found = None if rocks else _detected(run)
    rock_V = np.array(sorted({*(rocks or ())}), dtype=np.int64) if found is None else found.ids
    facts = _facts(run, source)
    count_V = np.bincount(facts.token_T, facts.frequency_HT.sum(axis=0)).astype(np.int64)
    if not np.isin(rock_V, np.flatnonzero(count_V)).any():
        raise LogError(
            f"{run.log.name}: none of the {len(rock_V)} rocks occurs in {run.table}/ at step "
            f"{source.post}; give rocks of this log, or another --step"
        )
    matching = _Matching(run, params, source, facts, count_V, rock_V)
    matched, empty = matching.result()
    shown = sorted({*rock_V.tolist(), *types_of(matched)})
    return ControlsResult(
        log={
            **run.log.identity(),
            "table": run.table,
            "step": source.post,
            "passes": run.passes,
            "rocks": rock_V.tolist(),
            "similarity": None if found is None else found.similarity,
        },
        params=cast(ControlsOptions, asdict(params)),
        kinds=matched,
        token_texts={str(v): run.log.vocab.text(v) for v in shown},
        notes=(*notes, *empty),
    )


def _detected(run: Run) -> Rocks:
    """Those of `detect` by its defaults. Raises `LogError` where it finds none."""
    found = find_rocks(run, DetectParams(table=run.table, seed=run.seed))
    if not len(found.ids):
        raise LogError(
            f"{run.log.name}: `detect` finds no rocks in {run.table}/ with its default options, "
            "so there is nothing to match; give --rocks, as from `rocktok detect --rule top-k -o "
            "FILE`"
        )
    return found


def _facts(run: Run, source: Source) -> TypeFacts:
    facts = HalfFacts(run.seed, compiled=source.large)
    run.engine.run(source, facts)
    return facts.result()


@dataclass(frozen=True)
class _Matching:
    """What is matched: the rocks of a log at one step."""

    run: Run
    params: ControlsParams
    source: Source
    facts: TypeFacts
    count_V: Array
    rock_V: Array

    def result(self) -> tuple[dict[str, Matched], list[str]]:
        """Kind → what was matched; and why nothing was, of the kinds without a pair."""
        kinds = [kind for kind in KINDS if kind in self.params.kinds]
        samples = self._samples() if set(kinds) & set(OF_OCCURRENCES) else None
        matched, notes = {}, []
        for kind in kinds:
            if samples is not None and kind in OF_OCCURRENCES:
                matched[kind] = match_occurrences(*samples, kind)
                why = _no_occurrence(*samples)
            else:
                matched[kind] = match_types(self.facts, self.rock_V, kind)
                why = self._no_type()
            if not matched[kind]["pairs"]:
                notes.append(f"{kind}: {why}")
        return matched, notes

    def _samples(self) -> tuple[Sampled, Sampled]:
        """Occurrences of rocks, and of other types with losses like theirs."""
        none = np.zeros(0, dtype=np.float32)
        ours = self._occurrences(True, self.params.occurrences, none)
        self.run.engine.run(self.source, ours)
        rock_sample = ours.result()
        loss = 10 ** rock_sample[1][:, FEATURES.index("log10 loss")]
        if not len(loss):
            return rock_sample, self._occurrences(False, 0, none).result()
        edges = np.unique(np.quantile(loss, np.linspace(0, 1, BINS + 1)).astype(np.float32))
        # The least and the largest must lie inside.
        edges[0] = np.nextafter(edges[0], np.float32(0))
        edges[-1] = np.nextafter(edges[-1], np.float32(np.inf))
        others = self._occurrences(False, OF_EACH, edges)
        self.run.engine.run(self.source, others)
        return rock_sample, others.result()

    def _occurrences(self, of_rocks: bool, most: int, edge_B: Array) -> Occurrences:
        return Occurrences(
            self.rock_V,
            of_rocks=of_rocks,
            most=most,
            edge_B=edge_B,
            count_V=self.count_V,
            window=self.params.window,
            seed=self.params.seed,
        )

    def _no_type(self) -> str:
        others_T = self.facts.common_T() & ~np.isin(self.facts.token_T, self.rock_V)
        if not others_T.any():
            return f"no type except the rocks occurs {FLOORS}"
        return "nothing could be matched within the caliper"


def _no_occurrence(rocks: Sampled, candidates: Sampled) -> str:
    """Why no occurrence of a rock could be matched."""
    ours, others = rocks[1], candidates[1]
    if not len(ours):
        return "no occurrence of a rock has a loss at this step, so there is nothing to match"
    if not len(others):
        return "no occurrence of another type has a loss similar to that of the rocks"
    return "nothing could be matched within the caliper"
