"""`attribute` over a log: the passes, in order.

1. `detect`'s passes, unless the rocks are given: over all prompts, and over one half of them;
2. frequencies, prompts and losses by half at the reference step, from which groups are chosen;
3. each step once: sums by type, and the bootstrap of the types that are shown or in a group;
4. the other half of the prompts at the reference step, for the contrasts.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.geometry_passes import geometry_rows
from rocktok.analyses.attribute.shares import (
    AttributeParams,
    AttributeResult,
    Shares,
    contrasts,
    quantities,
)
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.engine.choose import TableView
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.log.reader import Log
from rocktok.log.sequences import load_prompts
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.groups import (
    CALIPER,
    NAMES,
    Groups,
    HalfFacts,
    TypeFacts,
    choose_groups,
    note_overlap,
)
from rocktok.stats.sums import TypeSums

Row = dict[str, Any]

#: Half of the prompts on which groups are chosen for the contrasts; these use the other.
CHOSEN_ON = 0


def attribute(
    log: Log,
    *,
    rocks: tuple[int, ...] | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
    detected: DetectResult | None = None,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> AttributeResult:
    """Shares of the gradient's norm by token type and by group, with bootstrap intervals.

    Args:
        log: an open log (`rocktok.open`) that records `grad_norm`.
        rocks: token ids; None: what `detect` finds with its default options.
        pairs: (rock, control), in place of types of like frequency; with `rocks`.
        detected: what `detect` found here, where that is known already: it is then not run again
            over all prompts; on a half of them it is run with the same options.
        embeddings: the matrix that `detected` rests on, if any.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyses.attribute.shares.AttributeParams`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, or has no gradient columns.
    """
    run = _Run(log, AttributeParams(**options), rocks, engine or Engine())
    run.pairs, run.detected, run.embeddings = pairs, detected, embeddings
    return run.result()


class _Run:
    def __init__(
        self, log: Log, params: AttributeParams, rocks: tuple[int, ...] | None, engine: Engine
    ) -> None:
        self.log, self.params, self.engine = log, params, engine
        self.passes_before = engine.passes
        self.detected: DetectResult | None = None
        self.embeddings: Array | None = None
        self.pairs: tuple[tuple[int, int], ...] | None = None
        self.given = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
        view = TableView.of(log, params.table)
        self.table = view.table
        self.step, steps, notes = view.reference(params.step)
        self.steps, self.notes = list(steps), list(notes)
        present = set(log.columns(self.table))
        if "grad_norm" not in present:
            raise LogError(
                f"{log.name}: {self.table}/ has no column grad_norm; record it with "
                "Recorder(columns=[…, 'grad_norm'])"
            )
        self.quantities = quantities(present)
        prompts = load_prompts(log)
        self.source = Source(log, self.table, None, self.step, prompts, seed=params.seed)

    def result(self) -> AttributeResult:
        """All passes."""
        rocks = self._rocks(None)
        collect = HalfFacts(self.params.seed, compiled=self.source.large)
        self.engine.run(self.source, collect)
        facts = collect.result()
        if not len(facts.token_T):
            raise LogError(f"{self.log.name}: step {self.step} of {self.table}/ has no rows")
        groups = choose_groups(facts, rocks, self.params.seed, self.params.group_size)
        if self.pairs is not None:
            groups = groups.with_controls(self.pairs)
        rows: list[Row] = []
        for step in self.steps:
            shares = self._shares(step, groups, facts)
            rows += [self._group_row(step, name, groups, shares) for name in NAMES]
            if step == self.step:
                reference = shares
        tests = tuple(self._tests(facts, groups))
        self._note_overlap(groups)
        return AttributeResult(
            log={
                **self.log.identity(),
                "table": self.table,
                "steps": self.steps,
                "step": self.step,
                "passes": self.engine.passes - self.passes_before,
            },
            params={**asdict(self.params), "rocks": None if self.given is None else "given"},
            totals=reference.totals,
            tokens=tuple(self._tokens(reference, groups)),
            groups=tuple(rows),
            members={
                **groups.members,
                "control_pairs": groups.pairs,
                "rocks_without_control": groups.unmatched,
                "caliper": CALIPER if self.pairs is None else None,
                "control_source": "frequency" if self.pairs is None else "given",
            },
            tests=tests,
            geometry=geometry_rows(self.log, groups, self.notes),
            notes=tuple(self.notes),
        )

    def _note_overlap(self, groups: Groups) -> None:
        self.notes += note_overlap(groups.members)
        if groups.unmatched:
            alone = len(groups.unmatched)
            have = "rock has" if alone == 1 else "rocks have"
            self.notes.append(f"{alone} {have} no control: no other type is as frequent")

    def _rocks(self, half: int | None) -> Array:
        if self.given is not None:
            return self.given
        if half is None and self.detected is not None:
            return np.array(sorted(row["token_id"] for row in self.detected.rocks), dtype=np.int64)
        options: dict[str, Any] = {
            "table": self.table,
            "seed": self.params.seed,
            "post": self.params.step,
        }
        if self.detected is not None:
            names = {field.name for field in fields(DetectParams)}
            options = {k: v for k, v in self.detected.params.items() if k in names}
        found = detect(
            self.log, engine=self.engine, half=half, embeddings=self.embeddings, **options
        )
        return np.array(sorted(row["token_id"] for row in found.rocks), dtype=np.int64)

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
        self.engine.run(source, sums, bootstrap)
        return Shares(sums, bootstrap)

    def _group_row(self, step: int, name: str, groups: Groups, shares: Shares) -> Row:
        ids = np.array(groups.members[name], dtype=np.int64)
        seen = ids[ids < len(shares.count_V)]
        row: Row = {"step": step, "group": name, "types": len(ids)}
        row["frequency"] = int(shares.count_V[seen].sum())
        return {**row, **shares.of_types(ids)}

    def _tokens(self, shares: Shares, groups: Groups) -> list[Row]:
        grad_V = shares.sum_V["grad_norm"]
        order = np.lexsort((np.arange(len(grad_V)), -grad_V))
        order = order[shares.count_V[order] > 0]
        drawn = set(shares.bootstrap.types.tolist())
        if not self.params.all_types:
            order = order[: self.params.top]
        return [self._token(int(v), shares, groups, int(v) in drawn) for v in order]

    def _token(self, v: int, shares: Shares, groups: Groups, drawn: bool) -> Row:
        count = int(shares.count_V[v])
        row: Row = {"token_id": v, "token": self.log.vocab.text(v), "groups": groups.of(v)}
        row |= {"frequency": count, "mean_grad_norm": float(shares.sum_V["grad_norm"][v]) / count}
        found = shares.of_types(np.array([v]), intervals=drawn)
        if not drawn:
            names = (*shares.shares, "concentration")
            found |= {f"{name}_{end}": None for name in names for end in ("low", "high")}
        return {**row, **found}

    def _tests(self, facts: TypeFacts, groups: Groups) -> list[Row]:
        """Groups chosen on one half of the prompts, compared on the other."""
        if self.given is not None:
            described = {"chosen_on": "rocks given", "measured_on": "all prompts"}
            source, chosen = self.source, groups
            self.notes.append(
                "the rocks were given: where they were chosen on these prompts, the tests are "
                "conditioned on the outcome"
            )
        else:
            described = {"chosen_on": "half 0", "measured_on": "half 1"}
            source = replace(self.source, half=1 - CHOSEN_ON)
            rocks = self._rocks(CHOSEN_ON)
            seed, size = self.params.seed, self.params.group_size
            chosen = choose_groups(facts, rocks, seed, size, half=CHOSEN_ON)
        bootstrap = PromptBootstrap(
            chosen.all_ids, self.quantities, self.params.seed, self.params.replicates
        )
        self.engine.run(source, bootstrap)
        return contrasts(bootstrap, chosen, described)
