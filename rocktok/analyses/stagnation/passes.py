"""`stagnation` over a log: the passes, in order.

1. facts by half of the prompts at the step that groups are chosen at;
2. each step once: the bootstrap over the prompts on which the groups are measured.

On fixed text both also hash the text. Where steps differ in length, or a hash is not the first's,
the sequences of each step are compared, and all is done again with those that every step has.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial, reduce
from typing import Any

import numpy as np

from rocktok.analyses.stagnation.choose import Chosen, choose
from rocktok.analyses.stagnation.every_type import EveryType, GroupSums
from rocktok.analyses.stagnation.learning import change_rows, corpus_row, group_rows, tests
from rocktok.analyses.stagnation.loss_curves import QUANTITIES, Course
from rocktok.analyses.stagnation.result import (
    DESCRIPTIVE,
    GIVEN,
    StagnationParams,
    StagnationResult,
)
from rocktok.analyses.stagnation.same_text import OfHalf, SequenceTexts, TextHash
from rocktok.engine.choose import choose_course
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.log.reader import Log
from rocktok.log.sequences import load_prompts
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.group_names import NAMES
from rocktok.stats.groups import FLOORS, HalfFacts, TypeFacts, note_overlap
from rocktok.stats.sums import TypeSums

Row = dict[str, Any]

#: Half of the prompts on which groups are chosen; they are measured on the other.
CHOSEN_ON = 0


def stagnation(
    log: Log,
    *,
    rocks: tuple[int, ...] | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
    given_by: Row | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> StagnationResult:
    """Losses over the steps of a log, of rocks and of what they are fairly compared with.

    Args:
        log: an open log (`rocktok.open`) with two steps or more.
        rocks: token ids; None: the largest Rock Scores at the first step.
        pairs: (rock, control), in place of types that are matched here; with `rocks`.
        given_by: what the result's params say of where rocks and pairs come from.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyses.stagnation.learning.StagnationParams`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, has one step only, or holds none of the
            rocks that were given.
    """
    run = _Run(log, StagnationParams(**options), rocks, engine or Engine())
    run.pairs, run.given_by = pairs, given_by or {}
    return run.result()


class _OtherTextError(Exception):
    """A step has other text than the one at which groups are chosen."""


class _Run:
    def __init__(
        self, log: Log, params: StagnationParams, rocks: tuple[int, ...] | None, engine: Engine
    ) -> None:
        self.log, self.params, self.engine = log, params, engine
        self.passes_before = engine.passes
        self.pairs: tuple[tuple[int, int], ...] | None = None
        self.given_by: Row = {}
        self.halved = False
        self.given = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
        self.table, self.steps, self.notes = choose_course(
            log, params.table, params.first, params.last
        )
        at = self.steps[0] if params.select_at == "first" else self.steps[-1]
        prompts = load_prompts(log)
        self.source = Source(log, self.table, None, at, prompts, seed=params.seed)

    def result(self) -> StagnationResult:
        """All passes."""
        self.halved = self.given is None and self.params.select_at == "first"
        fixed = self.table == "fixed"
        sources = [replace(self.source, post=step) for step in self.steps]
        if fixed and len({source.rows for source in sources}) > 1:
            self._keep_shared(sources)
        try:
            chosen, course, every = self._measured(check_text=fixed)
        except _OtherTextError:
            self._keep_shared(sources)
            chosen, course, every = self._measured(check_text=False)
        self._note(chosen)
        return StagnationResult(
            log=self._identity(),
            params=self._parameters(),
            corpus=corpus_row(course),
            tokens=tuple(self._tokens(course, every, chosen)),
            groups=tuple(group_rows(course)),
            curves=tuple(course.group_rows),
            members={
                **chosen.members,
                "pairs": chosen.pairs,
                "rocks_without_control": chosen.unmatched,
                "control_source": "matched" if self.pairs is None else "given",
                "balance": chosen.balance,
            },
            tests=tuple(tests(course, chosen)),
            notes=tuple(self.notes),
        )

    def _measured(self, *, check_text: bool) -> tuple[Chosen, Course, EveryType | None]:
        """Groups and the course of their losses. `_OtherTextError`: steps differ in their text."""
        # Once texts were compared one by one, those that are left are the same.
        text = TextHash() if check_text and self.source.only is None else None
        facts = self._facts(text)
        half = CHOSEN_ON if self.halved else None
        chosen = choose(facts, self.params, half, self.given, self.pairs)
        self._check(chosen)
        every = EveryType() if self.params.all_types else None
        return chosen, self._course(facts, chosen, every, text), every

    def _facts(self, text: TextHash | None) -> TypeFacts:
        collect = HalfFacts(self.params.seed, positions=True, compiled=self.source.large)
        self.engine.run(self.source, collect, *([] if text is None else [text]))
        facts = collect.result()
        if not len(facts.token_T):
            at = f"step {self.source.post} of {self.table}/"
            raise LogError(
                f"{self.log.name}: {at} has no rows; choose others by --first and --last"
            )
        return facts

    def _keep_shared(self, sources: list[Source]) -> None:
        """From here on only the sequences that every step has, which must be the same text."""
        found = []
        for source in sources:
            texts = SequenceTexts()
            self.engine.run(source, texts)
            found.append(texts.result())
        shared = reduce(partial(np.intersect1d, assume_unique=True), (ids for ids, _ in found))
        if not len(shared):
            raise LogError(
                f"{self.log.name}: no sequence of fixed/ stands at all of the steps "
                f"{self.steps[0]} to {self.steps[-1]}; choose others by --first and --last"
            )
        text_S, *others = (hashes[np.searchsorted(ids, shared)] for ids, hashes in found)
        for step, other_S in zip(self.steps[1:], others, strict=True):
            if (text_S != other_S).any():
                raise LogError(
                    f"{self.log.name}: sequence {shared[text_S != other_S][0]} at step {step} is "
                    f"not the text that it is at step {self.steps[0]}; a sequence_id in fixed/ "
                    "must mean the same text at every step"
                )
        most = max(len(ids) for ids, _ in found)
        if len(shared) < most:
            self.notes.append(
                f"{len(shared):,} of up to {most:,} sequences of fixed/ stand at every step; "
                "only these are used"
            )
        self.source = replace(self.source, only=shared)

    def _course(
        self, facts: TypeFacts, chosen: Chosen, every: EveryType | None, text: TextHash | None
    ) -> Course:
        order = np.argsort(-facts.loss_HT.sum(axis=0), kind="stable")[: self.params.top]
        members = [v for ids in chosen.members.values() for v in ids]
        types = np.union1d(np.array(members, dtype=np.int64), facts.token_T[order])
        course = Course(chosen.members)
        for step in self.steps:
            bootstrap = PromptBootstrap(types, QUANTITIES, self.params.seed, self.params.replicates)
            self._step(replace(self.source, post=step), bootstrap, every, text)
            course.add(step, bootstrap)
        first, last = course.ends
        if not first.positions or not last.positions:
            raise LogError(
                f"{self.log.name}: the half of the prompts that is measured has no rows at "
                f"step {self.steps[0] if not first.positions else self.steps[-1]}; too few "
                "prompts to choose on one half and measure on the other"
            )
        return course

    def _step(
        self,
        source: Source,
        bootstrap: PromptBootstrap,
        every: EveryType | None,
        text: TextHash | None,
    ) -> None:
        """One pass, for the course and for every type, which also looks at the text."""
        sums = TypeSums(("loss_post",), compiled=source.large)
        groups = None
        accumulators: list[Accumulator] = [bootstrap]
        if every is not None:
            accumulators.append(sums)
            if source.post in (self.steps[0], self.steps[-1]):
                groups = GroupSums(self.params.seed)
                accumulators.append(groups)
        if self.halved:
            accumulators = [OfHalf(1 - CHOSEN_ON, self.params.seed, accumulators)]
        here = TextHash()
        # The facts were of the text at the step of the source.
        checked = text is not None and source.post != self.source.post
        self.engine.run(source, *accumulators, *([here] if checked else []))
        if text is not None and checked and here.value != text.value:
            raise _OtherTextError
        if every is not None:
            every.add(source.post, sums, groups)

    def _tokens(self, course: Course, every: EveryType | None, chosen: Chosen) -> list[Row]:
        """Rows by first-step loss on the prompts measured, the largest sum first."""
        drawn = course.ends[0].types
        rows = change_rows(course, drawn)
        if every is not None:
            rows += every.rows(drawn)
        rows.sort(key=lambda row: -(row["loss_first"] or 0.0) * row["frequency_first"])
        for row in rows:
            v = row["token_id"]
            row["token"], row["groups"] = self.log.vocab.text(v), chosen.of(v)
        order = ("token_id", "token", "groups")
        return [{name: row[name] for name in order} | row for row in rows]

    def _parameters(self) -> Row:
        """Every option, and what was given and by what."""
        given = {
            "rocks": None if self.given is None else "given",
            "controls": None if self.pairs is None else "given",
        }
        files = {"rocks_file": None, "controls_file": None, "control_kind": None}
        return {**asdict(self.params), **given, **files, **self.given_by}

    def _identity(self) -> Row:
        halved = self.halved
        chosen_on = "half 0 of the prompts" if halved else "all prompts"
        return {
            **self.log.identity(),
            "table": self.table,
            "text": "the same text at every step" if self.table == "fixed"
            else "each step's own rollouts",
            "steps": self.steps,
            "passes": self.engine.passes - self.passes_before,
            "selected_at": "rocks given" if self.given is not None else self.source.post,
            "chosen_on": "rocks given" if self.given is not None else chosen_on,
            "measured_on": "half 1 of the prompts" if halved else "all prompts",
            "descriptive": None if halved else GIVEN if self.source.post == self.steps[0]
            else DESCRIPTIVE,
        }  # fmt: skip

    def _check(self, chosen: Chosen) -> None:
        """That the log has what was given."""
        at = f"{self.table}/ at step {self.source.post}"
        if self.given is not None and not chosen.members["rocks"]:
            raise LogError(
                f"{self.log.name}: none of the {len(self.given)} rocks stands in {at}; give rocks "
                "of this log"
            )
        if self.pairs and not chosen.pairs["control"]:
            raise LogError(
                f"{self.log.name}: none of the {len(self.pairs)} pairs of a rock and its control "
                f"stands in {at}; give controls of this log"
            )

    def _note(self, chosen: Chosen) -> None:
        if self.given is not None:
            self.notes.append(
                "the rocks were given: where they were chosen on these prompts or at a later "
                f"step, this is {DESCRIPTIVE}"
            )
        if self.pairs is not None:
            lost = len(self.pairs) - len(chosen.pairs["control"])
            at = f"{self.table}/ at step {self.source.post}"
            self.notes.append(
                "control: the pairs given, whatever they were matched on; the balance says how "
                "like they are here" + (f" ({lost} left out: not in {at})" if lost else "")
            )
        if self.given is None and self.params.select_at == "last":
            self.notes.append(f"groups chosen at the last step: {DESCRIPTIVE}")
        if self.table == "rollout":
            self.notes.append(
                "each step's own rollouts: learning and drift of the contexts are mixed; fixed "
                "text tells them apart (record with fixed_sequences, or `rocktok rescore`)"
            )
        self.notes += self._few(chosen)

    def _few(self, chosen: Chosen) -> list[str]:
        """What could not be chosen or matched as it was asked for, and why."""
        at = f"{self.table}/ at step {self.source.post}"
        if not chosen.members["rocks"]:
            if not chosen.common:
                return [f"no groups: no type stands {FLOORS} in {at}; more prompts would tell"]
            return [f"no groups: no type that stands {FLOORS} has a loss in {at}"]
        if not chosen.others:
            empty = "high_kl, random and what is matched here are empty"
            return [f"{empty}: no type but the rocks stands {FLOORS} in {at}"]
        notes = note_overlap(chosen.members)
        asked, found = self.params.group_size, len(chosen.members["high_kl"])
        if asked is not None and found < asked:
            notes.append(f"high_kl and random have {found} types, not {asked}: there are no more")
        for name in NAMES[3:]:
            if not chosen.pairs[name]:
                notes.append(f"{name}: no rock has a type like it within the calipers")
        return notes
