"""Runs a baseline and its arms on a backend.

An arm's completion is the baseline's up to the first place where the arm acts, and is generated
from there on. That is exact where a step depends on the completion so far alone. Greedy decoding
takes the likeliest token, and a ban changes it only where that token is the banned one. Sampling by
the Gumbel-max rule, with draws that all arms share (`draws`), takes the largest sum, and a ban
changes it only where that is the banned token's. An arm that would act nowhere in a baseline is the
baseline there, and is not generated. (Computed anew, a text may differ from itself where two tokens
are level within the rounding of the arithmetic, which depends on the shape of a batch; sharing the
prefix keeps such differences out of the comparison.)

Batches, and with them the last bits of all numbers, depend on the problems, the arm and the options
alone: texts are sorted by length, then by place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rocktok.replay.intervene.arms import IN_CONTEXT, REPLACE
from rocktok.replay.intervene.backend import Scores, Span, Start
from rocktok.replay.intervene.draws import stream_of
from rocktok.replay.intervene.edits import edit_share
from rocktok.replay.intervene.rules import Rule, first_ban, first_replacement
from rocktok.replay.intervene.work import Part, Work

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.replay.intervene.arms import Plan
    from rocktok.replay.intervene.backend import Backend, Decoding

#: Tokens behind the place where an arm first acted that are compared.
AFTER = 32


@dataclass(frozen=True)
class Case:
    """One completion of each arm: of which problem (its place), with which draws."""

    problem: int
    seed: int
    rollout: int


@dataclass(frozen=True)
class Acted:
    """What became of an arm in the N cases.

    Attributes:
        correct_N: bool.
        truncated_N: bool, cut at the limit of tokens.
        tokens_N: int32, length of each completion.
        first_N: int32, first place where the arm acted; −1: nowhere.
        loss_N, base_loss_N: float64, mean loss of the tokens behind it in the arm's text and in the
            baseline's; NaN where there are none.
        edit_N: float64, distance of these tokens; NaN where there are none.
    """

    correct_N: Array
    truncated_N: Array
    tokens_N: Array
    first_N: Array
    loss_N: Array
    base_loss_N: Array
    edit_N: Array


@dataclass(frozen=True)
class Baseline:
    """The N completions of a baseline; `scores`: of each, where there is a teacher."""

    texts: list[Array]
    correct_N: Array
    truncated_N: Array
    scores: list[Scores] | None = None


@dataclass(frozen=True)
class Trial:
    """What all arms have in common.

    Attributes:
        prompts: token ids of each problem's prompt.
        cases: in the order of the rows.
        problem_ids: by which draws are named.
        is_correct: (place of a problem, completion) → whether it is answered.
        scored: whether there is a teacher.
        batch_tokens: tokens of a batch at most, completions counted at their longest.
        replace_all: whether `replace` acts at every occurrence, not at the first alone.
    """

    backend: Backend
    decoding: Decoding
    prompts: Sequence[Array]
    cases: Sequence[Case]
    problem_ids: Sequence[str]
    is_correct: Callable[[int, Array], bool]
    scored: bool
    batch_tokens: int
    replace_all: bool = False
    work: Work = field(default_factory=Work)
    #: Called with the number of completions that a finished batch has.
    tell: Callable[[int], None] = lambda _: None

    def stream(self, case: int, replicate: int = 0) -> int:
        """Names the draws of a case; `replicate`: number of the baseline."""
        one = self.cases[case]
        return stream_of(one.seed, replicate, self.problem_ids[one.problem], one.rollout)

    def prompt(self, case: int) -> Array:
        """Token ids of a case's prompt."""
        return self.prompts[self.cases[case].problem]

    def batches(self, members: Sequence[int], length_N: Sequence[int]) -> Iterator[list[int]]:
        """Cases in batches: by length of what stands already, then by place."""
        batch: list[int] = []
        longest = 0
        for case in sorted(members, key=lambda case: (length_N[case], case)):
            longest = max(longest, len(self.prompt(case)) + self.decoding.max_new_tokens)
            if batch and longest * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch, longest = [], len(self.prompt(case)) + self.decoding.max_new_tokens
            batch.append(case)
        if batch:
            yield batch

    # -- the baseline ----------------------------------------------------------------------------

    def baseline(self, replicate: int = 0) -> Baseline:
        """Completions without intervention; those of the first one are scored."""
        texts: list[Array] = [np.zeros(0, np.int32)] * len(self.cases)
        scores: list[Scores | None] = [None] * len(self.cases)
        correct_N = np.zeros(len(self.cases), dtype=bool)
        truncated_N = np.zeros(len(self.cases), dtype=bool)
        scored = self.scored and replicate == 0
        length_N = [len(self.prompt(case)) for case in range(len(self.cases))]
        for number, batch in enumerate(self.batches(range(len(self.cases)), length_N)):
            name = f"baseline-{replicate + 1}-{number:05d}"
            part = self.work.part(name, partial(self._write, batch, replicate, scored))
            for case, text_T in zip(batch, _split(part, "text"), strict=True):
                texts[case] = text_T
                correct_N[case] = self.is_correct(self.cases[case].problem, text_T)
                truncated_N[case] = self.decoding.truncated(text_T)
            if scored:
                losses, teacher = _split(part, "loss"), _split(part, "teacher")
                for case, loss_T, teacher_T in zip(batch, losses, teacher, strict=True):
                    scores[case] = Scores(loss_T, teacher_T)
            self.tell(len(batch))
        kept = [one for one in scores if one is not None]
        return Baseline(texts, correct_N, truncated_N, kept if scored else None)

    def _write(self, batch: list[int], replicate: int, scored: bool) -> Part:
        nothing = np.zeros(0, np.int32)
        starts = [Start(self.prompt(c), nothing, self.stream(c, replicate)) for c in batch]
        texts = self.backend.generate(starts, Rule())
        part = _joined("text", texts)
        if scored:
            spans = [Span(s.prompt_T, text) for s, text in zip(starts, texts, strict=True)]
            found = self.backend.score(spans)
            part |= _joined("loss", [one.loss_T for one in found])
            part |= _joined("teacher", [one.teacher_T for one in found])
        return part

    # -- an arm ----------------------------------------------------------------------------------

    def first_places(self, plan: Plan, baseline: Baseline) -> Array:
        """(N,) int32, the first place of each completion where an arm acts; −1: nowhere."""
        token_id, rule = plan.candidate.token_id, _rule(plan)
        first_N = np.full(len(self.cases), -1, dtype=np.int32)
        for case, text_T in enumerate(baseline.texts):
            if plan.mode == REPLACE:
                assert baseline.scores is not None
                place = first_replacement(text_T, baseline.scores[case].teacher_T, token_id)
            else:
                place = first_ban(text_T, rule)
            if place is not None:
                first_N[case] = place
        return first_N

    def arm(self, plan: Plan, baseline: Baseline, first_N: Array) -> Acted:
        """What becomes of an arm, which acts first at `first_N`."""
        base_N = [len(text_T) for text_T in baseline.texts]
        nan_N = np.full(len(base_N), np.nan)
        acted = Acted(
            baseline.correct_N.copy(), baseline.truncated_N.copy(), np.array(base_N, np.int32),
            first_N, nan_N, nan_N.copy(), nan_N.copy(),
        )  # fmt: skip
        fired = np.flatnonzero(first_N >= 0).tolist()
        length_N = [len(self.prompt(case)) + int(first_N[case]) for case in range(len(base_N))]
        # The same token in another group is the same arm.
        stem = f"{plan.mode}-{plan.candidate.token_id}"
        if plan.mode == IN_CONTEXT:
            stem += f"-{plan.candidate.group}"
        for number, batch in enumerate(self.batches(fired, length_N)):
            part = self.work.part(
                f"{stem}-{number:05d}",
                partial(self._act, plan, baseline, batch, first_N[batch]),
            )
            for case, text_T in zip(batch, _split(part, "text"), strict=True):
                acted.correct_N[case] = self.is_correct(self.cases[case].problem, text_T)
                acted.truncated_N[case] = self.decoding.truncated(text_T)
                acted.tokens_N[case] = len(text_T)
            for name, values_N in (("loss", acted.loss_N), ("base_loss", acted.base_loss_N),
                                   ("edit", acted.edit_N)):  # fmt: skip
                values_N[batch] = part[name]
            self.tell(len(batch))
        return acted

    def completions(
        self, plan: Plan, baseline: Baseline, batch: Sequence[int], first_B: Array
    ) -> list[Array]:
        """An arm's completions of some cases in which it acts, at `first_B`."""
        written = []
        for case, first in zip(batch, first_B.tolist(), strict=True):
            kept_T = baseline.texts[case][:first]
            if plan.mode == REPLACE:
                assert baseline.scores is not None
                kept_T = np.append(kept_T, baseline.scores[case].teacher_T[first])
            written.append(kept_T.astype(np.int32))
        if plan.mode == REPLACE and self.replace_all:
            return self._replace_on(plan.candidate.token_id, batch, written)
        return self._continue(batch, written, _rule(plan))

    def _continue(self, batch: Sequence[int], written: list[Array], rule: Rule) -> list[Array]:
        """Whole completions; those that have ended stay."""
        texts = list(written)
        going = [i for i, text_T in enumerate(texts) if not self.decoding.ended(text_T)]
        if going:
            starts = [Start(self.prompt(batch[i]), texts[i], self.stream(batch[i])) for i in going]
            for i, text_T in zip(going, self.backend.generate(starts, rule), strict=True):
                texts[i] = text_T
        return texts

    def _replace_on(self, token_id: int, batch: Sequence[int], texts: list[Array]) -> list[Array]:
        """Replace at every further occurrence, too: pause behind each, ask the teacher, go on."""
        rule, texts = Rule(pause=token_id), list(texts)
        going = [i for i, text_T in enumerate(texts) if not self.decoding.ended(text_T)]
        while going:
            cases = [batch[i] for i in going]
            found = self._continue(cases, [texts[i] for i in going], rule)
            for i, text_T in zip(going, found, strict=True):
                texts[i] = text_T
            paused = [i for i in going if int(texts[i][-1]) == token_id]
            spans = [Span(np.concatenate((self.prompt(batch[i]), texts[i][:-1])), texts[i][-1:])
                     for i in paused]  # fmt: skip
            for i, scores in zip(paused, self.backend.score(spans), strict=True):
                texts[i] = np.append(texts[i][:-1], scores.teacher_T[0]).astype(np.int32)
            going = [i for i in paused if not self.decoding.ended(texts[i])]
        return texts

    def _act(self, plan: Plan, baseline: Baseline, batch: list[int], first_B: Array) -> Part:
        """Completions of a batch and what is measured behind the place where the arm acted.

        Whether they are right is asked anew when a stopped run goes on: a checker may have been
        corrected meanwhile.
        """
        texts = self.completions(plan, baseline, batch, first_B)
        after = [
            (texts[i][first + 1 : first + 1 + AFTER],
             baseline.texts[case][first + 1 : first + 1 + AFTER])
            for i, (case, first) in enumerate(zip(batch, first_B.tolist(), strict=True))
        ]  # fmt: skip
        part: Part = {
            **_joined("text", texts),
            "edit": _numbers(edit_share(ours, theirs) for ours, theirs in after),
            "loss": np.full(len(batch), np.nan),
            "base_loss": np.full(len(batch), np.nan),
        }
        if baseline.scores is not None:
            spans = [
                Span(np.concatenate((self.prompt(case), texts[i][: first + 1])), after[i][0])
                for i, (case, first) in enumerate(zip(batch, first_B.tolist(), strict=True))
            ]
            part["loss"] = _numbers(_mean(s.loss_T) for s in self.backend.score(spans))
            part["base_loss"] = _numbers(
                _mean(baseline.scores[case].loss_T[first + 1 : first + 1 + AFTER])
                for case, first in zip(batch, first_B.tolist(), strict=True)
            )
        return part


def _rule(plan: Plan) -> Rule:
    return Rule() if plan.mode == REPLACE else Rule(plan.candidate.token_id, plan.contexts)


def _mean(loss_T: Array) -> float | None:
    return float(loss_T.astype(np.float64).mean()) if len(loss_T) else None


def _numbers(values: Iterator[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _joined(name: str, rows: Sequence[Array]) -> Part:
    """Rows of unlike length as two arrays of a part."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return {name: np.concatenate(list(rows)), f"{name}_lengths": lengths}


def _split(part: Part, name: str) -> list[Array]:
    """What `_joined` joined."""
    return np.split(part[name], np.cumsum(part[f"{name}_lengths"])[:-1])
