"""`attribute` over a log: the passes, in order.

1. `detect`'s passes, unless the rocks are given: over all prompts, and over one half of them;
2. frequencies, prompts and losses by half at the reference step, from which groups are chosen;
3. each step once: sums by type, and the bootstrap of the types that are shown or in a group;
4. the other half of the prompts at the reference step, for the contrasts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.geometry_passes import geometry_tables
from rocktok.analyses.attribute.result import (
    AttributeOptions,
    AttributeParams,
    AttributeResult,
    GroupContrast,
    GroupShares,
    TypeShares,
)
from rocktok.analyses.attribute.shares import Shares, contrasts, quantities, untested
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.run import LogOrPath, Run, one_half, options_of, public
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap
from rocktok.stats.groups import (
    CALIPER,
    NAMES,
    Groups,
    HalfFacts,
    TypeFacts,
    choose_groups,
    note_overlap,
)
from rocktok.stats.intervals import FEW_PROMPTS
from rocktok.stats.sums import DistinctValues, TypeSums

#: Half of the prompts on which groups are chosen for the contrasts; these use the other.
CHOSEN_ON = 0


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
    top: int = 100,
    all_types: bool = False,
    group_size: int | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> AttributeResult:
    """Shares of the gradient's norm by token type and by group, with bootstrap intervals.

    Args:
        log: an open log that records `grad_norm`, or the path of one.
        rocks: token ids; None: what `detect` finds with its default options.
        pairs: (rock, control), in place of types of like frequency; with `rocks`.
        detected: what `detect` found here, where that is known already: it is then not run again
            over all prompts; on a half of them it is run with the same options.
        embeddings: the matrix that `detected` rests on, if any.
        engine: what makes the passes; default: threads on the cores this process may use.
        table: "fixed", "rollout", or "auto": fixed text where there is any.
        step: of the tokens; None: the last complete one.
        top: types to show.
        all_types: show every type.
        group_size: types in the other groups; None: as many as there are rocks.
        replicates: of the bootstrap over prompts.
        seed: of halves, groups and replicates.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, or has no gradient columns.
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

    def result(self) -> AttributeResult:
        """All passes."""
        run, params = self.run, self.params
        rocks = self._rocks(None)
        facts = self._facts()
        groups = choose_groups(facts, rocks, params.seed, params.group_size)
        if self.pairs is not None:
            groups = groups.with_controls(self.pairs)
        rows: list[GroupShares] = []
        for step in self.steps:
            shares = self._shares(step, groups, facts)
            rows += [self._group_row(step, name, groups, shares) for name in NAMES]
            if step == self.step:
                reference = shares
        reason = self._one_half(facts)
        tests = untested(reason) if reason else self._contrasts(facts, groups)
        geometry = geometry_tables(run.log, groups)
        members = groups.members
        return AttributeResult(
            log={
                **run.log.identity(),
                "table": run.table,
                "steps": list(self.steps),
                "step": self.step,
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
            geometry=geometry,
            notes=(
                *self.notes,
                *((f"no contrasts: {reason}",) if reason else ()),
                *self._notes_on(groups, geometry is None),
            ),
        )

    def _facts(self) -> TypeFacts:
        collect = HalfFacts(self.params.seed, compiled=self.source.large)
        self.run.engine.run(self.source, collect)
        facts = collect.result()
        if not len(facts.token_T):
            raise LogError(
                f"{self.run.log.name}: step {self.step} of {self.run.table}/ has no rows"
            )
        return facts

    def _one_half(self, facts: TypeFacts) -> str | None:
        """Why there are no two halves of the prompts for the contrasts; None where there are."""
        if self.rocks is not None or facts.frequency_HT.any(axis=1).all():
            return None
        prompts = DistinctValues("prompt")
        self.run.engine.run(self.source, prompts)
        return one_half(len(prompts.result()), self.params.seed)

    def _notes_on(self, groups: Groups, no_geometry: bool) -> list[str]:
        notes = []
        if self.rocks is not None:
            notes.append(
                "the rocks were given: where they were chosen on these prompts, the tests are "
                "conditioned on the outcome"
            )
        notes += note_overlap(groups.members)
        if groups.unmatched:
            alone = len(groups.unmatched)
            have = "rock has" if alone == 1 else "rocks have"
            notes.append(f"{alone} {have} no control: no other type is as frequent")
        if no_geometry:
            notes.append(
                "no gradient sums in this log, so no directions: record them with "
                "Recorder(gradient_types=…) or Recorder(gradient_sketch=…)"
            )
        return notes

    def _rocks(self, half: int | None) -> Array:
        if self.rocks is not None:
            return self.rocks
        detected = self.detected
        if half is not None or detected is None:
            options: dict[str, Any] = {
                "table": self.run.table,
                "seed": self.params.seed,
                "post": self.params.step,
            }
            if detected is not None:
                names = {field.name for field in fields(DetectParams)}
                options = {k: v for k, v in detected.params.items() if k in names}
            detected = detect(
                self.run.log,
                engine=self.run.engine,
                half=half,
                embeddings=self.embeddings,
                replication=False,
                **options,
            )
        return np.array(sorted(row["token_id"] for row in detected.rocks), dtype=np.int64)

    def _shares(self, step: int, groups: Groups, facts: TypeFacts) -> Shares:
        """One pass over a step. At the reference step the types shown are drawn again as well."""
        source = replace(self.source, post=step)
        columns = [q for q in self.quantities if q and not q.endswith("²")]
        sums = TypeSums(tuple(columns), compiled=source.large)
        types = groups.all_ids
        if step == self.step:
            # The largest shares are known only afterwards, but the most loss finds nearly all.
            order = np.argsort(-facts.loss_HT.sum(axis=0), kind="stable")[: self.params.top]
            types = np.union1d(types, facts.token_T[order])
        bootstrap = PromptBootstrap(
            types, self.quantities, self.params.seed, self.params.replicates
        )
        self.run.engine.run(source, sums, bootstrap)
        return Shares(sums, bootstrap)

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
        grad_V = shares.sum_V["grad_norm"]
        order = np.lexsort((np.arange(len(grad_V)), -grad_V))
        order = order[shares.count_V[order] > 0]
        drawn = set(shares.bootstrap.types.tolist())
        if not self.params.all_types:
            order = order[: self.params.top]
        return [self._token(int(v), shares, groups, int(v) in drawn) for v in order]

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

    def _contrasts(self, facts: TypeFacts, groups: Groups) -> list[GroupContrast]:
        """Groups chosen on one half of the prompts, compared on the other."""
        chosen_on, measured_on, source = "rocks given", "all prompts", self.source
        seed = self.params.seed
        if self.rocks is None:
            chosen_on, measured_on = "half 0", "half 1"
            source = replace(self.source, half=1 - CHOSEN_ON)
            rocks, size = self._rocks(CHOSEN_ON), self.params.group_size
            groups = choose_groups(facts, rocks, seed, size, half=CHOSEN_ON)
        bootstrap = PromptBootstrap(groups.all_ids, self.quantities, seed, self.params.replicates)
        self.run.engine.run(source, bootstrap)
        return contrasts(bootstrap, groups, chosen_on, measured_on)
