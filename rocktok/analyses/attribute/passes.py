"""`attribute` over a log: the passes, in order.

1. `detect`'s passes that find rocks, unless these are given;
2. for the contrasts, unless the rocks are given: `detect`'s on one half of the prompts, at the
   first two steps of fixed text; beside the first where these are the same steps;
3. the reference step: sums by type; frequencies, prompts and losses by half, from which groups are
   chosen; the mean norm by loss on the half that chooses;
4. each step once: the bootstrap of the groups, and at the reference step of the types that are
   shown, and what the contrasts need of both halves; at the others also sums by type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.contrast_passes import (
    CHOSEN_ON,
    HalfContrasts,
    norms_beside,
    notes_on_choice,
    rocks_of_half,
)
from rocktok.analyses.attribute.expected import NormByLoss
from rocktok.analyses.attribute.geometry_passes import geometry_tables
from rocktok.analyses.attribute.result import (
    AttributeOptions,
    AttributeParams,
    AttributeResult,
    GroupShares,
    TypeShares,
)
from rocktok.analyses.attribute.shares import (
    CONTRASTED,
    Shares,
    contrasts,
    kinds,
    quantities,
    untested,
)
from rocktok.analyses.detect.cutoff_passes import RocksAtCutoffs, params_of
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.detect.rock_passes import Rocks, find_rocks
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.engine.turns import Companion
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap
from rocktok.stats.exact_types import ExactTypeSums
from rocktok.stats.groups import (
    CALIPER,
    NAMES,
    Groups,
    HalfFacts,
    TypeFacts,
    choose_groups,
    note_overlap,
)
from rocktok.stats.halves import OfHalf
from rocktok.stats.intervals import FEW_PROMPTS


@public
def attribute(
    log: LogOrPath,
    *,
    rocks: tuple[int, ...] | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
    detected: DetectResult | None = None,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    step: int | None = None,
    top: int | None = None,
    all_types: bool = False,
    group_size: int | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> AttributeResult:
    """Shares of the gradient norm by token type and by group, with bootstrap intervals.

    Args:
        log: an open log that records `grad_norm`, or the path of one.
        rocks: token ids; None: the rocks of `detect` with its default options.
        pairs: (rock, control), in place of types of similar frequency; with `rocks`.
        detected: the result of `detect` on this log, if known. `detect` then runs only on half of
            the prompts, with the same options.
        embeddings: embedding matrix of `detected`, if any.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        step: step to analyse; None: the last complete step.
        top: number of types in the result; None: 100, of which the terminal table shows 20.
        all_types: include every type.
        group_size: number of types in each other group; None: the number of rocks.
        replicates: number of bootstrap replicates over prompts.
        seed: random seed of halves, groups and replicates.

    Raises:
        UsageError: an option is out of range.
        LogError: the log is damaged, lacks the table or step, or has no gradient columns.
    """
    params = options_of(AttributeParams, locals())
    run = Run.begin(log, engine, table, seed)
    reference, steps, notes = run.view.reference(step)
    columns = set(run.log.columns(run.table))
    if "grad_norm" not in columns:
        raise LogError(
            f"{run.log.name}: {run.table}/ has no column grad_norm; record it with "
            "Recorder(columns=[…, 'grad_norm'])"
        )
    rock_ids = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
    return _Attribution(
        run, params, rock_ids, pairs, detected, embeddings, reference, steps, notes,
        quantities(columns), run.source(reference),
    ).result()  # fmt: skip


@dataclass(frozen=True)
class _Attribution:
    """What is attributed: the rocks, where they were given, and the steps of a log."""

    run: Run
    params: AttributeParams
    rocks: Array | None
    pairs: tuple[tuple[int, int], ...] | None
    detected: DetectResult | None
    embeddings: Array | None
    step: int
    steps: tuple[int, ...]
    notes: tuple[str, ...]
    quantities: tuple[str, ...]
    source: Source
    #: The search for the rocks of the contrasts, where it was begun with that of all rocks.
    beside: list[Companion[RocksAtCutoffs]] = field(default_factory=list)

    def result(self) -> AttributeResult:
        """All passes."""
        run, params = self.run, self.params
        rocks = self._rocks
        found = None if self.rocks is not None else self._found_on_half()
        norms = norms_beside(found) if isinstance(found, RocksAtCutoffs) else None
        facts, sums = self._facts(norms)
        of_all = partial(choose_groups, facts, rocks, params.seed, params.group_size)
        groups = run.engine.aside(of_all)  # matching takes one core for long
        if self.pairs is not None:
            groups = groups.with_controls(self.pairs)
        rows: list[GroupShares] = []
        reason = self._one_half(facts)
        halves = None
        if found is not None and not reason:
            if isinstance(found, LogError):
                raise found
            of_halves = partial(
                HalfContrasts, self.source, facts, found, norms, group_size=params.group_size,
                replicates=params.replicates, threads=run.engine.jobs,
            )  # fmt: skip
            halves = run.engine.aside(of_halves)
        of_groups = self._bootstrap(groups.all_ids, CONTRASTED)
        for step in self.steps:
            if step == self.step:
                beside: Sequence[Accumulator] = [] if reason else [of_groups]
                if halves is not None:
                    beside = halves.accumulators()
                alone = self._shown_with_intervals(sums, groups, facts)
                shares = reference = self._shares(step, groups, alone, sums, beside)
            else:
                shares = self._shares(step, groups, alone=np.zeros(0, dtype=np.int64))
            rows += [self._group_row(step, name, groups, shares) for name in NAMES]
        adjusted, on_choice = None, list[str]()
        if halves is not None:
            tests, adjusted = halves.result()
            on_choice = notes_on_choice(adjusted, self._chosen_at, self.step)
        elif reason:
            tests, on_choice = untested(reason), [f"no contrasts: {reason}"]
        else:
            tests = contrasts(of_groups, groups, "rocks given", "all prompts")
        geometry = geometry_tables(run.log, groups)
        members = groups.members
        return AttributeResult(
            log={
                **run.log.identity(),
                "table": run.table,
                "steps": list(self.steps),
                "step": self.step,
                "chosen_at": list(self._chosen_at),
                "similarity": None if self._found is None else self._found.similarity,
                "passes": run.passes,
            },
            params=cast(
                AttributeOptions,
                {**asdict(params), "rocks": None if self.rocks is None else "given"},
            ),
            totals=reference.totals,
            tokens=tuple(self._tokens(reference, groups)),
            groups=tuple(rows),
            members={
                "rocks": members["rocks"],
                "high_kl": members["high_kl"],
                "random": members["random"],
                "control": members["control"],
                "control_pairs": groups.pairs,
                "rocks_without_control": groups.unmatched,
                "caliper": CALIPER if self.pairs is None else None,
                "control_source": "frequency" if self.pairs is None else "given",
            },
            tests=tuple(tests),
            adjusted=adjusted,
            geometry=geometry,
            notes=(*self.notes, *on_choice, *self._notes_on(groups, geometry is None)),
        )

    def _facts(self, norms: NormByLoss | None) -> tuple[TypeFacts, ExactTypeSums]:
        """Of all types at the reference step. `norms`: of the half that chooses, to be filled."""
        collect = HalfFacts(self.params.seed, exact=True, compiled=self.source.large)
        sums = self._type_sums()
        beside = [] if norms is None else [OfHalf(CHOSEN_ON, self.source.seed, [norms])]
        self.run.engine.run(self.source, collect, sums, *beside)
        facts = collect.result()
        if not len(facts.token_T):
            raise LogError(
                f"{self.run.log.name}: step {self.step} of {self.run.table}/ has no rows"
            )
        return facts, sums

    def _type_sums(self) -> ExactTypeSums:
        columns = [q for q in self.quantities if q and not q.endswith("²")]
        return ExactTypeSums(tuple(columns), squares=True, compiled=self.source.large)

    def _bootstrap(
        self, types: Array, quantities: tuple[str, ...], kind_T: Array | None = None
    ) -> PromptBootstrap:
        return PromptBootstrap(
            types, quantities, self.params.seed, self.params.replicates,
            compiled=self.source.large, kind_T=kind_T, threads=self.run.engine.jobs,
        )  # fmt: skip

    def _one_half(self, facts: TypeFacts) -> str | None:
        """Why there are no two halves of the prompts for the contrasts; None where there are."""
        if self.rocks is not None or facts.frequency_HT.any(axis=1).all():
            return None
        return self.run.why_one_half(self.source)

    def _notes_on(self, groups: Groups, no_geometry: bool) -> list[str]:
        notes = []
        if self.rocks is not None:
            notes.append(
                "the rocks were given: if they were chosen on these prompts, the tests condition "
                "on the outcome"
            )
        notes += note_overlap(groups.members)
        if groups.unmatched:
            alone = len(groups.unmatched)
            have = "rock has" if alone == 1 else "rocks have"
            notes.append(f"{alone} {have} no control: no other type has a similar frequency")
        if no_geometry:
            notes.append(
                "no gradient directions: the log has no gradient sums; record them with "
                "Recorder(gradient_types=…) or Recorder(gradient_sketch=…)"
            )
        return notes

    @property
    def _options(self) -> DetectParams:
        """Of `detect`."""
        if self.detected is not None:
            return params_of(self.detected)
        return DetectParams(table=self.run.table, seed=self.params.seed, post=self.params.step)

    @property
    def _chosen_at(self) -> tuple[int, ...]:
        """First two steps of fixed text that `detect` may look at; without two the reference."""
        options, bounded = self._options, self.detected is not None
        # Without `detected` its later step is the reference, which bounds nothing.
        pre, post = (options.pre, options.post) if bounded else (None, None)
        steps = sorted({*self.run.view.complete, *(s for s in (pre, post) if s is not None)})
        low, high = steps[0] if pre is None else pre, steps[-1] if post is None else post
        first = tuple(step for step in steps if low <= step <= high)[:2]
        alone = self.run.table != "fixed" or options.context == "off" or len(first) < 2
        return (self.step,) if alone else first

    @cached_property
    def _found(self) -> Rocks | None:
        """Rocks of all prompts; None: they were given."""
        if self.rocks is not None:
            return None
        if self.detected is not None:
            return Rocks.of(self.detected)
        return find_rocks(self.run, self._options, self._search_beside)

    def _search_beside(self, similarity: str) -> None:
        """Begin the search for the rocks of the contrasts if it is among the same rows.

        Nobody waits for it where there turn out to be no two halves.
        """
        options = self._options
        steps = self.run.view.pre_post(options.pre, options.post, options.context)
        if self._chosen_at == (steps.pre, steps.post):
            self.beside.append(self.run.engine.start(partial(self._rocks_of_half, similarity)))

    @property
    def _rocks(self) -> Array:
        """Of the shares: those given, or found on all prompts."""
        if self._found is None:
            assert self.rocks is not None
            return self.rocks
        return self._found.ids

    def _rocks_of_half(self, similarity: str | None) -> RocksAtCutoffs:
        """Of the contrasts."""
        options = replace(self._options, table=self.run.table)
        return rocks_of_half(self.run, options, self._chosen_at, similarity, self.embeddings)

    def _found_on_half(self) -> RocksAtCutoffs | LogError:
        """Of the contrasts; or why none can be found, which says little if all are in one half."""
        assert self._found is not None
        begun = next(iter(self.beside), None)
        try:
            return self._rocks_of_half(self._found.similarity) if begun is None else begun.result()
        except (DamagedError, DataError):
            raise
        except LogError as error:
            return error

    def _shown_with_intervals(self, sums: ExactTypeSums, groups: Groups, facts: TypeFacts) -> Array:
        """Types of the result that are in a group or among those with the most loss."""
        order = np.argsort(-facts.loss_HT.sum(axis=0), kind="stable")[: self.params.most]
        able = np.union1d(groups.all_ids, facts.token_T[order])
        return np.intersect1d(able, self._shown(sums))

    def _shown(self, sums: ExactTypeSums) -> Array:
        """Types of the result, the largest share of the gradient norm first."""
        grad_V = sums.sum_V["grad_norm"]
        order = np.lexsort((np.arange(len(grad_V)), -grad_V))
        order = order[sums.count_V[order] > 0]
        return order if self.params.all_types else order[: self.params.most]

    def _shares(
        self,
        step: int,
        groups: Groups,
        alone: Array,
        sums: ExactTypeSums | None = None,
        beside: Sequence[Accumulator] = (),
    ) -> Shares:
        """One pass over a step, which feeds others too.

        Args:
            alone: types that have intervals of their own.
            sums: of all types at that step, if known.
            beside: what else the pass feeds.
        """
        of_step = self._type_sums() if sums is None else sums
        more = [of_step] if sums is None else []
        types, kind_T = kinds(groups, alone)
        bootstrap = self._bootstrap(types, self.quantities, kind_T)
        source = replace(self.source, post=step)
        self.run.engine.run(source, *more, bootstrap, *beside, patient=True)
        return Shares(of_step, bootstrap, alone)

    def _group_row(self, step: int, name: str, groups: Groups, shares: Shares) -> GroupShares:
        ids = np.array(groups.members[name], dtype=np.int64)
        seen = ids[ids < len(shares.count_V)]
        return {
            "step": step,
            "group": name,
            "types": len(ids),
            "frequency": int(shares.count_V[seen].sum()),
            **shares.of_types(ids),
        }

    def _tokens(self, shares: Shares, groups: Groups) -> list[TypeShares]:
        return [
            self._token(v, shares, groups, v in shares.alone)
            for v in self._shown(shares.sums).tolist()
        ]

    def _token(self, v: int, shares: Shares, groups: Groups, drawn: bool) -> TypeShares:
        count = int(shares.count_V[v])
        no_interval: dict[str, bool | None] = {}
        if not drawn:
            names = (*shares.shares, "concentration")
            no_interval = {f"{name}_{end}": None for name in names for end in ("low", "high")}
            no_interval[FEW_PROMPTS] = False
        row = {
            "token_id": v,
            "token": self.run.log.vocab.text(v),
            "groups": groups.of(v),
            "frequency": count,
            "mean_grad_norm": float(shares.sum_V["grad_norm"][v]) / count,
            **shares.of_types(np.array([v]), intervals=drawn),
            **no_interval,
        }
        return cast(TypeShares, row)
