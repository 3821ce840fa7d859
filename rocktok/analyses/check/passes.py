"""`check` over a log: passes over one step, over rollouts, and over the steps of the course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.check import judged, judged_ends
from rocktok.analyses.check import said as says
from rocktok.analyses.check.estimator_sums import log_ratio_known
from rocktok.analyses.check.facts_passes import said_of
from rocktok.analyses.check.grading import unknown
from rocktok.analyses.check.measures import BEGINNING, LOOP_BLOCK, LOOP_WINDOW, REST, SPECIAL
from rocktok.analyses.check.result import (
    CheckOptions,
    CheckParams,
    CheckResult,
    EstimatorRow,
    Finding,
    ordered,
)
from rocktok.analyses.check.said import Said
from rocktok.analyses.check.step_passes import Measured, Request, measure
from rocktok.analyses.check.texts_passes import Texts, cut_shares, load_texts
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.detect.result import DetectResult, DetectRow
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.engine.turns import Companion
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.intervals import Estimate


@public
def check(
    log: LogOrPath,
    *,
    rocks: tuple[int, ...] | None = None,
    detected: DetectResult | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    step: int | None = None,
    replicates: int = 1_000,
    seed: int = 0,
) -> CheckResult:
    """Findings on the health of a run, the worst first.

    Args:
        log: an open log, or the path of one.
        rocks: token ids with which cheaper estimates of the loss are compared; None: the rocks of
            `detect` with its default options; (): no rocks.
        detected: a result of `detect` on this log, if known.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        step: step whose losses are checked; None: the last complete step.
        replicates: number of bootstrap replicates over prompts.
        seed: random seed.

    Raises:
        UsageError: an option is out of range.
        LogError: the log is damaged, or lacks the table, step or columns.
    """
    params = options_of(CheckParams, locals())
    run = Run.begin(log, engine, table, seed)
    at, _, notes = run.view.reference(step)
    look = _Look(run, params, at, rocks, detected)
    findings, estimators = look.result()
    return CheckResult(
        log={
            **run.log.identity(),
            "table": run.table,
            "step": at,
            "rollout_step": look.rollout_steps[-1] if look.rollout_steps else None,
            "rocks": None if look.rocks is None else look.rocks.tolist(),
            "passes": run.passes,
        },
        params=cast(CheckOptions, asdict(params)),
        findings=ordered(findings),
        estimators=tuple(estimators),
        notes=notes,
    )


@dataclass(frozen=True)
class _Look:
    """One look at a log: what is measured, and what is made of it."""

    run: Run
    params: CheckParams
    step: int
    given: tuple[int, ...] | None
    detected: DetectResult | None

    @cached_property
    def said(self) -> Said:
        return said_of(self.run.log)

    @cached_property
    def texts(self) -> Texts:
        return load_texts(self.run.log)

    @cached_property
    def rollout_steps(self) -> list[int]:
        return self.run.log.complete_steps("rollout")

    def _source(self, table: str, step: int) -> Source:
        return Source(self.run.log, table, None, step, self.run.prompts, seed=self.params.seed)

    @property
    def _draws(self) -> dict[str, int]:
        return {"seed": self.params.seed, "replicates": self.params.replicates}

    def result(self) -> tuple[list[Finding], list[EstimatorRow]]:
        """All findings, and the estimators."""
        said, table = self.said, self.run.table
        losses = self._start_losses()
        here = self._at(table, self.step, losses=True)
        there = here
        if table == "fixed" and self.rollout_steps:
            there = self._at("rollout", self.rollout_steps[-1])
        estimators: list[EstimatorRow] = []
        for found in (here,) if there is here else (here, there):
            for sums in (found.k1, found.top_k):
                if sums is not None:
                    estimators += sums.rows(found.table, found.step, self.rocks)
        # Alternatives are of fixed text alone; else what is trained is what counts.
        ends = here.ends if here.ends.known.get("teacher") == "bounds" else there.ends
        findings = [
            says.terminal_ids(said),
            says.tokenizer(said),
            says.template(said),
            says.vocabulary(said, here.told.used(self.run.log)),
            says.loss_mismatch(said),
            self._on_policy(there),
            judged_ends.end_token(ends),
            judged_ends.teacher_end(ends),
            self._student_end(there),
            self._truncated(),
            judged.loops(there.loops, LOOP_WINDOW, LOOP_BLOCK),
            *self._of_losses(here, losses),
            self._cheaper("one_sample", [r for r in estimators if r["k"] is None], here),
            self._cheaper("top_k", [r for r in estimators if r["k"] is not None], here),
        ]
        return findings, estimators

    def _at(
        self, table: str, step: int, *, losses: bool = False, ends_alone: bool = False
    ) -> Measured:
        """A pass over one step; `losses`, `ends_alone`: as in `Request`."""
        request = Request(
            stopped=self.texts.stopped,
            terminal=np.array(self.said.ends, dtype=np.int64),
            special=np.array(sorted(self.said.special or ()), dtype=np.int64),
            losses=losses,
            ends_alone=ends_alone,
            seed=self.params.seed,
            replicates=self.params.replicates,
        )
        return measure(self.run, table, step, request)

    def _of_losses(
        self, here: Measured, losses: Mapping[int, Companion[PromptBootstrap] | None]
    ) -> list[Finding]:
        """Findings that compare parts of the loss with each other."""
        places, exactness = here.told.places, self.run.log.rules.exactness
        mean = places.of("loss") / places.of("")
        rest = places.of("loss", REST) / places.of("", REST)
        shares = [
            float((places.of("loss", at) / places.of("loss")).value) for at in (SPECIAL, BEGINNING)
        ]
        by_means = judged.normalisation(places, here.told.means, here.told.sample)
        return [
            judged.of_signed(judged.special_tokens(self.said, places), mean, exactness, shares[:1]),
            judged.of_signed(judged.opening(places), rest, exactness, shares[1:]),
            judged.of_signed(self._saturation(here, losses), mean, exactness, ()),
            judged.of_signed(by_means, mean, exactness, ()),
        ]

    @cached_property
    def rocks(self) -> Array | None:
        """Rocks, ascending; None where there are none, or the log has no earlier step."""
        ids = self.given
        if ids is None:
            ids = tuple(row["token_id"] for row in self._found())
        return np.array(sorted(set(ids)), dtype=np.int64) if ids else None

    def _found(self) -> tuple[DetectRow, ...]:
        if self.detected is not None:
            return tuple(self.detected.rocks)
        run = self.run
        if run.table != "fixed" or run.log.rules.exactness != "exact":
            return ()
        try:
            found = detect(
                run.log, engine=run.engine, table=run.table, seed=run.seed, replication=False
            )
        except (DamagedError, DataError):
            raise
        except LogError:
            return ()
        return tuple(found.rocks)

    def _on_policy(self, there: Measured) -> Finding:
        why, remedy = "The log has no complete step of rollouts.", "record rollouts (every=…)"
        if there.table == "rollout":
            if there.surprisal is not None or there.k1 is not None:
                return judged.on_policy(self.said, there.surprisal, there.k1, there.step)
            why, remedy = self._no_estimates(there.table)
        return unknown("on_policy", why, remedy)

    def _no_estimates(self, table: str) -> tuple[str, str]:
        """Why estimates of the loss cannot be held against it."""
        exactness = self.run.log.rules.exactness
        if exactness != "exact":
            return (
                f"The recorded losses are {exactness}, so there is no exact loss to compare "
                "estimates with.",
                "score the text exactly with `rocktok rescore`",
            )
        return (
            f"{table}/ has no log-probabilities of its tokens.",
            "record the columns student_logprob and teacher_logprob, which are among the defaults",
        )

    def _student_end(self, last: Measured) -> Finding:
        steps = [
            step
            for step in self.run.log.complete_steps(last.table)
            if step <= last.step
        ]  # fmt: skip
        if len(steps) < 2:
            return judged_ends.student_end(None, None, (last.step, last.step), last.table)
        first = self._at(last.table, steps[0], ends_alone=True)
        return judged_ends.student_end(first.ends, last.ends, (steps[0], last.step), last.table)

    def _truncated(self) -> Finding:
        texts = self.texts
        if not len(texts.sequence_S):
            return unknown(
                "truncated",
                "The log does not say how its texts ended.",
                "write finish_reason (stop or length) into sequences/",
            )
        shares = cut_shares(texts, self.run.prompts, **self._draws)
        return judged.truncated(*shares, len(texts.sequence_S), self.said)

    def _start_losses(self) -> dict[int, Companion[PromptBootstrap] | None]:
        """Steps of fixed text that show whether losses still fall; None: the one checked."""
        steps = self.run.log.complete_steps("fixed")
        chosen = [steps[0], *steps[-max(2, -(-len(steps) // 3)) :]] if len(steps) > 2 else []
        start, here = self.run.engine.start, (self.run.table, self.step)
        return {
            step: None if here == ("fixed", step) else start(partial(self._losses, step))
            for step in chosen
        }

    def _saturation(
        self, here: Measured, losses: Mapping[int, Companion[PromptBootstrap] | None]
    ) -> Finding:
        means: dict[int, Estimate] = {}
        for step, started in losses.items():
            sums = here.told.places if started is None else started.result()
            means[step] = sums.of("loss") / sums.of("")
        return judged.saturation(means, min(self.run.log.complete_steps("fixed"), default=0))

    def _losses(self, step: int) -> PromptBootstrap:
        seed, replicates = self.params.seed, self.params.replicates
        source = self._source("fixed", step)
        nothing = np.zeros(0, np.int64)
        sums = PromptBootstrap(nothing, ("", "loss"), seed, replicates, compiled=source.large)
        self.run.engine.run(source, sums, patient=True)
        return sums

    def _cheaper(self, name: str, rows: list[EstimatorRow], here: Measured) -> Finding:
        why, remedy = self._no_estimates(here.table)
        exact = self.run.log.rules.exactness == "exact"
        if exact and name == "top_k" and here.no_alternatives is not None:
            why, _, remedy = here.no_alternatives.partition("; ")
            why = f"The log {why}." if why.startswith("has no") else f"No likeliest tokens: {why}."
        elif rows or (exact and log_ratio_known(self.run.log.columns(here.table))):
            why, remedy = "No two types occur five times or more.", "record more text"
        return judged.cheaper(name, rows, why, remedy)
