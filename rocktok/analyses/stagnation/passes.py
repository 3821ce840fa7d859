"""`stagnation` over a log: the passes, in order.

1. facts by half of the prompts at the step that groups are chosen at;
2. each step once: the bootstrap over the prompts on which the groups are measured.

On fixed text both also hash the text. Where steps differ in length, or a hash is not the first's,
the sequences of each step are compared, and all is done again with those that every step has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.analyses.stagnation.adjusted import AdjustedSums, rocks_by_cutoff
from rocktok.analyses.stagnation.choose import ComparedGroups, choose
from rocktok.analyses.stagnation.every_type import EveryType, GroupSums
from rocktok.analyses.stagnation.learning import change_rows, comparisons, corpus_row, group_rows
from rocktok.analyses.stagnation.loss_curves import QUANTITIES, LossCurves
from rocktok.analyses.stagnation.result import (
    DESCRIPTIVE,
    GIVEN,
    StagnationLog,
    StagnationOptions,
    StagnationParams,
    StagnationResult,
    TypeChange,
)
from rocktok.analyses.stagnation.same_text import OfHalf, SequenceTexts, TextHash
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap
from rocktok.stats.group_names import NAMES
from rocktok.stats.groups import FLOORS, HalfFacts, TypeFacts, note_overlap
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
    """Losses over the steps of a log, of rocks and of what they are compared with.

    Args:
        log: an open log, or the path of one, with two steps or more.
        rocks: token ids; None: the largest Rock Scores at the first step.
        pairs: (rock, control), in place of types that are matched here; with `rocks`.
        given_by: names of the files that rocks and pairs come from, for the result's params.
        engine: what makes the passes; default: threads on the cores this process may use.
        table: "fixed", "rollout", or "auto": fixed text where there is any.
        pre: first step; None: the first complete one.
        post: last step; None: the last complete one.
        select_at: "first" or "last": the step at which groups are chosen.
        top_k: rocks at most.
        group_size: types in high_kl and random; None: as many as there are rocks.
        top: types by loss, beside those of the groups, that get a bootstrap; None: 100, of which
            the terminal table has 20.
        all_types: give the other types too, with linearised intervals.
        replicates: of the bootstrap over prompts.
        seed: of halves, groups and replicates.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, has one step only, or holds none of the
            rocks that were given.
    """
    params = options_of(StagnationParams, locals())
    run = Run.begin(log, engine, table, seed)
    steps, notes = run.view.course(pre, post)
    fixed_rocks = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
    return _Course(run, params, fixed_rocks, pairs, given_by or {}, steps, notes).result()


class _OtherTextError(Exception):
    """A step has other text than the one at which groups are chosen."""


@dataclass(frozen=True)
class _Measured:
    """Groups, the curves of their losses, every type and the adjusted contrast where there are."""

    groups: ComparedGroups
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
    steps: list[int]
    notes: tuple[str, ...]

    @property
    def halved(self) -> bool:
        """Whether groups are chosen on one half of the prompts and measured on the other."""
        return self.rocks is None and self.params.select_at == "first"

    @property
    def selected_at(self) -> int:
        """Step at which groups are chosen."""
        return self.steps[0] if self.params.select_at == "first" else self.steps[-1]

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
        members = groups.members
        return StagnationResult(
            log=self._identity(),
            params=self._options(),
            corpus=corpus_row(curves),
            tokens=tuple(self._tokens(measured)),
            groups=tuple(group_rows(curves)),
            curves=tuple(curves.group_rows),
            members={
                "rocks": members["rocks"],
                "high_kl": members["high_kl"],
                "random": members["random"],
                "control": members["control"],
                "loss_control": members["loss_control"],
                "pairs": groups.pairs,
                "rocks_without_control": groups.unmatched,
                "control_source": "matched" if self.pairs is None else "given",
                "balance": groups.balance,
            },
            tests=tuple(comparisons(curves, groups)),
            adjusted=None if measured.adjusted is None else measured.adjusted.result(),
            notes=(*notes, *self._notes_on(groups)),
        )

    def _measured(self, source: Source, *, check_text: bool) -> _Measured:
        """Groups and the curves of their losses. `_OtherTextError`: steps differ in their text."""
        text = TextHash() if check_text else None
        facts = self._facts(source, text)
        half = CHOSEN_ON if self.halved else None
        groups = choose(facts, self.params, half, self.rocks, self.pairs)
        self._check(groups)
        every = EveryType() if self.params.all_types else None
        adjusted = None
        if self.halved and groups.members["rocks"]:
            rocks = rocks_by_cutoff(facts, groups, CHOSEN_ON)
            adjusted = AdjustedSums(facts, rocks, self.params, CHOSEN_ON)
        curves = self._curves(source, facts, groups, every, adjusted, text)
        return _Measured(groups, curves, every, adjusted)

    def _facts(self, source: Source, text: TextHash | None) -> TypeFacts:
        collect = HalfFacts(self.params.seed, positions=True, compiled=source.large)
        self.run.engine.run(source, collect, *([] if text is None else [text]))
        facts = collect.result()
        if not len(facts.token_T):
            at = f"step {source.post} of {source.table}/"
            raise LogError(
                f"{source.log.name}: {at} has no rows; choose others by --pre and --post"
            )
        return facts

    def _shared(self, sources: list[Source], notes: list[str]) -> Source:
        """Only the sequences that every step has, which must be the same text."""
        name, texts = self.run.log.name, []
        for source in sources:
            hashes = SequenceTexts()
            self.run.engine.run(source, hashes)
            texts.append(hashes.result())
        shared = reduce(partial(np.intersect1d, assume_unique=True), (ids for ids, _ in texts))
        if not len(shared):
            raise LogError(
                f"{name}: no sequence of fixed/ stands at all of the steps {self.steps[0]} to "
                f"{self.steps[-1]}; choose others by --pre and --post"
            )
        text_S, *others = (hash_S[np.searchsorted(ids, shared)] for ids, hash_S in texts)
        for step, other_S in zip(self.steps[1:], others, strict=True):
            if (text_S != other_S).any():
                raise LogError(
                    f"{name}: sequence {shared[text_S != other_S][0]} at step {step} is "
                    f"not the text that it is at step {self.steps[0]}; a sequence_id in fixed/ "
                    "must mean the same text at every step"
                )
        most = max(len(ids) for ids, _ in texts)
        if len(shared) < most:
            notes.append(
                f"{len(shared):,} of up to {most:,} sequences of fixed/ stand at every step; "
                "only these are used"
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
        curves = LossCurves(groups.members)
        for step in self.steps:
            bootstrap = PromptBootstrap(types, QUANTITIES, self.params.seed, self.params.replicates)
            # The facts were of the text at the step where groups were chosen.
            other = text if step != source.post else None
            self._step(replace(source, post=step), bootstrap, every, adjusted, other)
            curves.add(step, bootstrap)
        for end, step in zip(curves.ends, (self.steps[0], self.steps[-1]), strict=True):
            if not end.positions:
                raise LogError(
                    f"{source.log.name}: the half of the prompts that is measured has no rows at "
                    f"step {step}; too few prompts to choose on one half and measure on the other"
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
            if source.post in (self.steps[0], self.steps[-1]):
                groups = GroupSums(self.params.seed)
                accumulators.append(groups)
        if self.halved:
            accumulators = [OfHalf(1 - CHOSEN_ON, self.params.seed, accumulators)]
        if adjusted is not None:
            first, last = (source.post == self.steps[end] for end in (0, -1))
            accumulators += adjusted.accumulators(first=first, last=last)
        here = TextHash()
        self.run.engine.run(source, *accumulators, *([] if text is None else [here]))
        if text is not None and here.value != text.value:
            raise _OtherTextError
        if every is not None:
            every.add(source.post, sums, groups)

    def _tokens(self, measured: _Measured) -> list[TypeChange]:
        """Rows by first-step loss on the prompts measured, the largest sum first."""
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

    def _identity(self) -> StagnationLog:
        halved, given = self.halved, self.rocks is not None
        same = "the same text at every step"
        descriptive = GIVEN if self.selected_at == self.steps[0] else DESCRIPTIVE
        return {
            **self.run.log.identity(),
            "table": self.run.table,
            "text": same if self.run.table == "fixed" else "each step's own rollouts",
            "steps": self.steps,
            "passes": self.run.passes,
            "selected_at": "rocks given" if given else self.selected_at,
            "chosen_on": "rocks given"
            if given
            else "half 0 of the prompts"
            if halved
            else "all prompts",
            "measured_on": "half 1 of the prompts" if halved else "all prompts",
            "descriptive": None if halved else descriptive,
        }

    @property
    def _at(self) -> str:
        return f"{self.run.table}/ at step {self.selected_at}"

    def _check(self, groups: ComparedGroups) -> None:
        """That the log has what was given."""
        name = self.run.log.name
        if self.rocks is not None and not groups.members["rocks"]:
            raise LogError(
                f"{name}: none of the {len(self.rocks)} rocks stands in {self._at}; give rocks "
                "of this log"
            )
        if self.pairs and not groups.pairs["control"]:
            raise LogError(
                f"{name}: none of the {len(self.pairs)} pairs of a rock and its control "
                f"stands in {self._at}; give controls of this log"
            )

    def _notes_on(self, groups: ComparedGroups) -> list[str]:
        notes = []
        if self.rocks is not None:
            notes.append(
                "the rocks were given: where they were chosen on these prompts or at a later "
                f"step, this is {DESCRIPTIVE}"
            )
        if self.pairs is not None:
            lost = len(self.pairs) - len(groups.pairs["control"])
            notes.append(
                "control: the pairs given, whatever they were matched on; the balance says how "
                "like they are here" + (f" ({lost} left out: not in {self._at})" if lost else "")
            )
        if self.rocks is None and self.params.select_at == "last":
            notes.append(f"groups chosen at the last step: {DESCRIPTIVE}")
        if self.run.table == "rollout":
            notes.append(
                "each step's own rollouts: learning and drift of the contexts are mixed; fixed "
                "text tells them apart (record with fixed_sequences, or `rocktok rescore`)"
            )
        return notes + self._few(groups)

    def _few(self, groups: ComparedGroups) -> list[str]:
        """What could not be chosen or matched as it was asked for, and why."""
        if not groups.members["rocks"]:
            if not groups.common:
                return [
                    f"no groups: no type stands {FLOORS} in {self._at}; more prompts would tell"
                ]
            return [f"no groups: no type that stands {FLOORS} has a loss in {self._at}"]
        if not groups.others:
            empty = "high_kl, random and what is matched here are empty"
            return [f"{empty}: no type but the rocks stands {FLOORS} in {self._at}"]
        notes = note_overlap(groups.members)
        asked, size = self.params.group_size, len(groups.members["high_kl"])
        if asked is not None and size < asked:
            notes.append(f"high_kl and random have {size} types, not {asked}: there are no more")
        return notes + [
            f"{name}: no rock has a type like it within the calipers"
            for name in NAMES[3:]
            if not groups.pairs[name]
        ]
