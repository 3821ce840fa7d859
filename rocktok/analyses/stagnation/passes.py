"""`stagnation` over a log: the passes, in order.

1. facts by half of the prompts at the step that groups are chosen at;
2. where fixed text stands at three steps, `detect`'s on one half of the prompts at the first two;
3. each step once: the bootstrap over the prompts on which the groups are measured.

On fixed text the first and the last also hash the text. Where steps differ in length, or a hash is
not the first's, the sequences of each step are compared, and all is done again with those that
every step has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.cutoff_passes import params_of
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.analyses.stagnation.adjusted import AdjustedSums, compared, high_loss_by_size
from rocktok.analyses.stagnation.choose import ComparedGroups, check_given, choose
from rocktok.analyses.stagnation.every_type import EveryType, GroupSums
from rocktok.analyses.stagnation.learning import change_rows, comparisons, corpus_row, group_rows
from rocktok.analyses.stagnation.loss_curves import QUANTITIES, LossCurves
from rocktok.analyses.stagnation.notes import notes_on
from rocktok.analyses.stagnation.result import (
    DESCRIPTIVE,
    GIVEN,
    Members,
    StagnationLog,
    StagnationOptions,
    StagnationParams,
    StagnationResult,
    TypeChange,
)
from rocktok.analyses.stagnation.rock_passes import ChosenRocks, search_rocks, why_not_searched
from rocktok.analyses.stagnation.same_text import TextHash
from rocktok.analyses.stagnation.same_text_passes import shared_sequences
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap
from rocktok.stats.group_names import ROCKS
from rocktok.stats.groups import HalfFacts, TypeFacts
from rocktok.stats.halves import OfHalf
from rocktok.stats.sums import TypeSums

#: Half of the prompts on which groups are chosen; they are measured on the other.
CHOSEN_ON = 0


@public
def stagnation(
    log: LogOrPath,
    *,
    rocks: tuple[int, ...] | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
    given_by: Mapping[str, str | None] | None = None,
    detected: DetectResult | None = None,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    pre: int | None = None,
    post: int | None = None,
    select_at: str = "first",
    top_k: int = 100,
    group_size: int | None = None,
    top: int | None = None,
    all_types: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> StagnationResult:
    """Losses of rocks and of other groups of types over the steps of a log.

    Args:
        log: an open log, or the path of one, with two steps or more.
        rocks: token ids; None: the rocks of `detect` on half of the prompts at the first two of
            three or more steps of fixed text, or else the types with the most loss.
        pairs: (rock, control), in place of matched types; with `rocks`.
        given_by: names of the files of rocks and pairs, for the result's params.
        detected: a result of `detect` on this log, whose options find the rocks on half of the
            prompts; None: default options.
        embeddings: embedding matrix of `detected`, if any.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        pre: first step to follow; None: the first complete step. Rocks also need the next step.
        post: last step to follow; None: the last complete step.
        select_at: "first" or "last": the step at which groups are chosen.
        top_k: maximum number of types in high_loss, if there are no rocks.
        group_size: number of types in high_kl and random; None: the number of rocks.
        top: number of types by loss, beside those of the groups, with bootstrap intervals; None:
            100, of which the terminal table shows 20.
        all_types: include all other types, with linearised intervals.
        replicates: number of bootstrap replicates over prompts.
        seed: random seed of halves, groups and replicates.

    Raises:
        UsageError: an option is out of range.
        LogError: the log is damaged, lacks the table or steps, has only one step, or contains
            none of the given rocks.
    """
    params = options_of(StagnationParams, locals())
    run = Run.begin(log, engine, table, seed)
    steps, notes = run.view.course(pre, post)
    rock_ids = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
    options = DetectParams(seed=seed) if detected is None else params_of(detected)
    course = _Course(
        run, params, rock_ids, pairs, given_by or {}, options, embeddings, steps, notes
    )
    return course.result()


class _OtherTextError(Exception):
    """A step has other text than the one at which groups are chosen."""


@dataclass(frozen=True)
class _Measured:
    """Groups, the curves of their losses, every type and the adjusted contrast where there are."""

    groups: ComparedGroups
    found: ChosenRocks
    curves: LossCurves
    every: EveryType | None
    adjusted: AdjustedSums | None


@dataclass(frozen=True)
class _Course:
    """What is followed over which steps of a log."""

    run: Run
    params: StagnationParams
    rocks: Array | None
    pairs: tuple[tuple[int, int], ...] | None
    given_by: Mapping[str, str | None]
    options: DetectParams
    embeddings: Array | None
    steps: list[int]
    notes: tuple[str, ...]

    @property
    def halved(self) -> bool:
        """Whether groups are chosen on one half of the prompts and measured on the other."""
        return self.rocks is None and self.params.select_at == "first"

    @property
    def searched(self) -> bool:
        """Whether rocks are looked for: at the first two steps, so that later ones can tell."""
        return self.halved and self._why_not_searched() is None

    @property
    def pre(self) -> int:
        """Step from which changes are measured."""
        return self.steps[1 if self.searched else 0]

    @property
    def selected_at(self) -> int:
        """Step at which groups are chosen; rocks at the one before, too."""
        return self.pre if self.params.select_at == "first" else self.steps[-1]

    def result(self) -> StagnationResult:
        """All passes."""
        run, fixed = self.run, self.run.table == "fixed"
        source, notes = run.source(self.selected_at), list(self.notes)
        sources = [replace(source, post=step) for step in self.steps]
        if fixed and len({each.rows for each in sources}) > 1:
            source = self._shared(sources, notes)
        try:
            measured = self._measured(source, check_text=fixed and source.only is None)
        except _OtherTextError:
            source = self._shared(sources, notes)
            measured = self._measured(source, check_text=False)
        groups, curves = measured.groups, measured.curves
        return StagnationResult(
            log=self._identity(groups.first, measured.found),
            params=self._options(),
            corpus=corpus_row(curves),
            tokens=tuple(self._tokens(measured)),
            groups=tuple(group_rows(curves)),
            curves=tuple(curves.group_rows),
            members=cast(
                Members,
                {
                    **groups.members,
                    "pairs": groups.pairs,
                    "without_control": groups.unmatched,
                    "control_source": "matched" if self.pairs is None else "given",
                    "balance": groups.balance,
                },
            ),
            tests=tuple(comparisons(curves, groups)),
            adjusted=compared(measured.adjusted),
            notes=(*notes, *self._notes_on(measured)),
        )

    def _measured(self, source: Source, *, check_text: bool) -> _Measured:
        """Groups and the curves of their losses. `_OtherTextError`: steps differ in their text."""
        text = TextHash() if check_text else None
        facts = self._facts(source, text)
        found = self._search(source, check_text=check_text)
        rock_ids = next(iter(found.by_cutoff.values())) if found.by_cutoff else self.rocks
        half = CHOSEN_ON if self.halved else None
        # Matching takes one core for long: analyses beside this one go on.
        groups = self.run.engine.aside(
            partial(choose, facts, self.params, half, rock_ids, self.pairs)
        )
        at = f"{self.run.table}/ at step {self.selected_at}"
        check_given(groups, self.rocks, self.pairs, self.run.log.name, at)
        every = EveryType() if self.params.all_types else None
        adjusted = None
        if self.halved and groups.members[groups.first]:
            size, large = len(groups.members[groups.first]), source.large
            by_cutoff = found.by_cutoff or high_loss_by_size(facts, size, CHOSEN_ON)
            adjusted = AdjustedSums(
                facts, groups.first, by_cutoff, self.params, CHOSEN_ON, compiled=large,
                threads=self.run.engine.jobs,
            )  # fmt: skip
        curves = self._curves(source, facts, groups, every, adjusted, text)
        return _Measured(groups, found, curves, every, adjusted)

    def _search(self, source: Source, *, check_text: bool) -> ChosenRocks:
        """What `detect` finds on the half that chooses; `_OtherTextError`: see `_measured`."""
        if self.rocks is not None:
            return ChosenRocks({}, None)
        if (why_not := self._why_not_searched()) is not None:
            return ChosenRocks({}, why_not)
        try:
            return search_rocks(
                self.run, self.options, self.steps, half=CHOSEN_ON, only=source.only,
                embeddings=self.embeddings,
            )  # fmt: skip
        except LogError as error:
            if check_text:
                # It may be the text that differs; that is told with the sequences at hand.
                raise _OtherTextError from error
            raise

    def _why_not_searched(self) -> str | None:
        return why_not_searched(self.run.table, self.steps, self.options, self.params.select_at)

    def _facts(self, source: Source, text: TextHash | None) -> TypeFacts:
        collect = HalfFacts(self.params.seed, positions=True, compiled=source.large)
        self.run.engine.run(source, collect, *([] if text is None else [text]))
        facts = collect.result()
        if not len(facts.token_T):
            at = f"step {source.post} of {source.table}/"
            raise LogError(
                f"{source.log.name}: {at} has no rows; choose other steps with --pre and --post"
            )
        if self.halved and not facts.frequency_HT.any(axis=1).all():
            raise LogError(
                f"{source.log.name}: groups are chosen on one half of the prompts and measured on "
                f"the other, but {self.run.why_one_half(source)}"
            )
        return facts

    def _shared(self, sources: list[Source], notes: list[str]) -> Source:
        """Only the sequences that every step has, which must be the same text."""
        shared, most = shared_sequences(self.run.engine, sources)
        if len(shared) < most:
            notes.append(
                f"{len(shared):,} of up to {most:,} sequences of fixed/ are scored at every "
                "step; only these are used"
            )
        return self.run.source(self.selected_at, only=shared)

    def _curves(
        self,
        source: Source,
        facts: TypeFacts,
        groups: ComparedGroups,
        every: EveryType | None,
        adjusted: AdjustedSums | None,
        text: TextHash | None,
    ) -> LossCurves:
        order = np.argsort(-facts.loss_HT.sum(axis=0), kind="stable")[: self.params.most]
        members = [v for ids in groups.members.values() for v in ids]
        types = np.union1d(np.array(members, dtype=np.int64), facts.token_T[order])
        curves, large = LossCurves(groups.members, self.pre), source.large
        for step in self.steps:
            bootstrap = PromptBootstrap(
                types, QUANTITIES, *self.params.draws, compiled=large,
                threads=self.run.engine.jobs,
            )  # fmt: skip
            # The facts were of the text at the step where groups were chosen.
            other = text if step != source.post else None
            self._step(replace(source, post=step), bootstrap, every, adjusted, other)
            curves.add(step, bootstrap)
        for end, step in zip(curves.ends, (self.pre, self.steps[-1]), strict=True):
            if not end.positions:
                raise LogError(
                    f"{source.log.name}: the half of the prompts that is measured has no rows at "
                    f"step {step}; give another --seed, or record more prompts"
                )
        return curves

    def _step(
        self,
        source: Source,
        bootstrap: PromptBootstrap,
        every: EveryType | None,
        adjusted: AdjustedSums | None,
        text: TextHash | None,
    ) -> None:
        """One pass, for the curves and for every type, which also looks at the text."""
        sums = TypeSums(("loss",), compiled=source.large)
        groups = None
        accumulators: list[Accumulator] = [bootstrap]
        if every is not None:
            accumulators.append(sums)
            if source.post in (self.pre, self.steps[-1]):
                groups = GroupSums(self.params.seed)
                accumulators.append(groups)
        if self.halved:
            accumulators = [OfHalf(1 - CHOSEN_ON, self.params.seed, accumulators)]
        if adjusted is not None:
            pre, post = (source.post == step for step in (self.pre, self.steps[-1]))
            accumulators += adjusted.accumulators(pre=pre, post=post)
        here = TextHash()
        self.run.engine.run(source, *accumulators, *([] if text is None else [here]))
        if text is not None and here.value != text.value:
            raise _OtherTextError
        if every is not None:
            every.add(source.post, sums, groups)

    def _tokens(self, measured: _Measured) -> list[TypeChange]:
        """Rows by the loss at pre on the prompts measured, the largest sum first."""
        drawn = measured.curves.ends[0].types
        rows = change_rows(measured.curves, drawn)
        if measured.every is not None:
            rows += measured.every.rows(drawn)
        rows.sort(key=lambda row: -(row["loss_pre"] or 0.0) * row["frequency_pre"])
        for row in rows:
            v = row["token_id"]
            row["token"], row["groups"] = self.run.log.vocab.text(v), measured.groups.of(v)
        return rows

    def _options(self) -> StagnationOptions:
        """Every option, and what was given and by what."""
        options = {
            **asdict(self.params),
            "rocks": None if self.rocks is None else "given",
            "controls": None if self.pairs is None else "given",
            "rocks_file": None,
            "controls_file": None,
            "control_kind": None,
            **self.given_by,
        }
        return cast(StagnationOptions, options)

    def _identity(self, first: str, found: ChosenRocks) -> StagnationLog:
        halved, given = self.halved, self.rocks is not None
        same = "the same text at every step"
        descriptive = GIVEN if self.params.select_at == "first" else DESCRIPTIVE
        chosen_at = self.steps[:2] if first == ROCKS.name else [self.selected_at]
        return {
            **self.run.log.identity(),
            "table": self.run.table,
            "text": same if self.run.table == "fixed" else "each step's own rollouts",
            "steps": self.steps,
            "pre": self.pre,
            "post": self.steps[-1],
            "passes": self.run.passes,
            "first": first,
            "no_rocks": found.why_none,
            "similarity": found.similarity,
            "selected_at": "rocks given" if given else chosen_at,
            "chosen_on": "rocks given"
            if given
            else "half 0 of the prompts"
            if halved
            else "all prompts",
            "measured_on": "half 1 of the prompts" if halved else "all prompts",
            "descriptive": None if halved else descriptive,
        }

    def _notes_on(self, measured: _Measured) -> list[str]:
        return notes_on(
            measured.groups,
            self.params,
            no_rocks=measured.found.why_none,
            rocks_given=self.rocks is not None,
            pairs_given=None if self.pairs is None else len(self.pairs),
            table=self.run.table,
            step=self.selected_at,
        )
