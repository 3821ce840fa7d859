"""`stagnation` over a log: the passes, in order.

1. facts by half of the prompts at the step that groups are chosen at;
2. on fixed text whose steps differ in length, the sequences of each step, to use those of all;
3. each step once: the bootstrap over the prompts on which the groups are measured.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok.analyse.accumulate import Accumulator, DistinctValues, TypeSums
from rocktok.analyse.bootstrap import PromptBootstrap
from rocktok.analyse.course import QUANTITIES, Course
from rocktok.analyse.groups import HalfFacts, TypeFacts
from rocktok.analyse.linearised import EveryType, GroupSums
from rocktok.analyse.stagnation import (
    DESCRIPTIVE,
    GIVEN,
    NAMES,
    Chosen,
    StagnationParams,
    StagnationResult,
    change_rows,
    choose,
    corpus_row,
    group_rows,
    tests,
)
from rocktok.engine.choose import choose_course
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError
from rocktok.log.reader import Log
from rocktok.log.sequences import load_prompts

Array = npt.NDArray[Any]
Row = dict[str, Any]

#: Half of the prompts on which groups are chosen; they are measured on the other.
CHOSEN_ON = 0


def stagnation(
    log: Log,
    *,
    rocks: tuple[int, ...] | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> StagnationResult:
    """Losses over the steps of a log, of rocks and of what they are fairly compared with.

    Args:
        log: an open log (`rocktok.open`) with two steps or more.
        rocks: token ids; None: the largest Rock Scores at the first step.
        pairs: (rock, control), in place of types that are matched here; with `rocks`.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyse.stagnation.StagnationParams`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, lacks what was asked, has one step only, or holds none of the
            rocks that were given.
    """
    run = _Run(log, StagnationParams(**options), rocks, engine or Engine())
    run.pairs = pairs
    return run.result()


class _Run:
    def __init__(
        self, log: Log, params: StagnationParams, rocks: tuple[int, ...] | None, engine: Engine
    ) -> None:
        self.log, self.params, self.engine = log, params, engine
        self.passes_before = engine.passes
        self.pairs: tuple[tuple[int, int], ...] | None = None
        self.given = None if rocks is None else np.array(sorted(rocks), dtype=np.int64)
        self.table, self.steps, self.notes = choose_course(
            log, params.table, params.first, params.last
        )
        at = self.steps[0] if params.select_at == "first" else self.steps[-1]
        prompts = load_prompts(log)
        self.source = Source(log, self.table, None, at, prompts, seed=params.seed)

    def result(self) -> StagnationResult:
        """All passes."""
        facts = self._facts()
        halved = self.given is None and self.params.select_at == "first"
        chosen = choose(facts, self.params, CHOSEN_ON if halved else None, self.given, self.pairs)
        self._check(chosen)
        source = replace(self.source, half=1 - CHOSEN_ON if halved else None)
        if self.table == "fixed":
            source = self._same_text(source)
        every = EveryType() if self.params.all_types else None
        course = self._course(source, facts, chosen, every)
        self._note(chosen)
        return StagnationResult(
            log=self._identity(halved),
            params={**asdict(self.params), "rocks": None if self.given is None else "given"},
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

    def _facts(self) -> TypeFacts:
        collect = HalfFacts(self.params.seed, positions=True, compiled=self.source.large)
        self.engine.run(self.source, collect)
        facts = collect.result()
        if not len(facts.token_T):
            at = f"step {self.source.post} of {self.table}/"
            raise LogError(
                f"{self.log.name}: {at} has no rows; choose others by --first and --last"
            )
        return facts

    def _same_text(self, source: Source) -> Source:
        """Only the sequences that every step has, where the steps are not equally long."""
        sources = [replace(source, post=step, half=None) for step in self.steps]
        if len({one.rows for one in sources}) == 1:
            return source
        found = []
        for one in sources:
            ids = DistinctValues("sequence_id")
            self.engine.run(one, ids)
            found.append(ids.result())
        shared = found[0]
        for ids_S in found[1:]:
            shared = np.intersect1d(shared, ids_S, assume_unique=True)
        most = max(len(ids_S) for ids_S in found)
        if not len(shared):
            raise LogError(
                f"{self.log.name}: no sequence of fixed/ stands at all of the steps "
                f"{self.steps[0]} to {self.steps[-1]}; choose others by --first and --last"
            )
        if len(shared) < most:
            self.notes.append(
                f"{len(shared):,} of up to {most:,} sequences of fixed/ stand at every step; "
                "only these are used"
            )
        return replace(source, only=shared)

    def _course(
        self, source: Source, facts: TypeFacts, chosen: Chosen, every: EveryType | None
    ) -> Course:
        order = np.argsort(-facts.loss_HT.sum(axis=0), kind="stable")[: self.params.top]
        members = [v for ids in chosen.members.values() for v in ids]
        types = np.union1d(np.array(members, dtype=np.int64), facts.token_T[order])
        course = Course(chosen.members)
        for step in self.steps:
            bootstrap = PromptBootstrap(types, QUANTITIES, self.params.seed, self.params.replicates)
            self._step(replace(source, post=step), bootstrap, every)
            course.add(step, bootstrap)
        first, last = course.ends
        if not first.positions or not last.positions:
            raise LogError(
                f"{self.log.name}: the half of the prompts that is measured has no rows at "
                f"step {self.steps[0] if not first.positions else self.steps[-1]}; too few "
                "prompts to choose on one half and measure on the other"
            )
        return course

    def _step(self, source: Source, bootstrap: PromptBootstrap, every: EveryType | None) -> None:
        """One pass, for the course and for every type."""
        if every is None:
            self.engine.run(source, bootstrap)
            return
        sums = TypeSums(("loss_post",), compiled=source.large)
        accumulators: list[Accumulator] = [bootstrap, sums]
        groups = None
        if source.post in (self.steps[0], self.steps[-1]):
            groups = GroupSums(self.params.seed)
            accumulators.append(groups)
        self.engine.run(source, *accumulators)
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

    def _identity(self, halved: bool) -> Row:
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
        if self.pairs is not None:
            lost = len(self.pairs) - len(chosen.pairs["control"])
            if lost == len(self.pairs):
                raise LogError(
                    f"{self.log.name}: none of the {lost} pairs of a rock and its control stands "
                    f"in {at}; give controls of this log"
                )
            self.notes.append(
                "control: the pairs given, whatever they were matched on; the balance says how "
                "like they are here" + (f" ({lost} left out: not in {at})" if lost else "")
            )

    def _note(self, chosen: Chosen) -> None:
        if self.given is not None:
            self.notes.append(
                "the rocks were given: where they were chosen on these prompts or at a later "
                f"step, this is {DESCRIPTIVE}"
            )
        elif self.params.select_at == "last":
            self.notes.append(f"groups chosen at the last step: {DESCRIPTIVE}")
        if self.table == "rollout":
            self.notes.append(
                "each step's own rollouts: learning and drift of the contexts are mixed; fixed "
                "text tells them apart (record with fixed_sequences, or `rocktok rescore`)"
            )
        few = [name for name in NAMES[3:] if not chosen.pairs[name]]
        for name in few:
            self.notes.append(f"{name}: no rock has a type like it within the calipers")
