"""One pass of `check` over one step of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.check.ends import Ends
from rocktok.analyses.check.estimator_sums import EstimatorSums, Name, log_ratio_known, top_k_names
from rocktok.analyses.check.measures import (
    SequenceSample,
    Stopped,
    UntoldMass,
    loops,
    loss_places,
    sequence_means,
    surprisals,
)
from rocktok.analyses.check.said import Used
from rocktok.analyses.run import Run
from rocktok.engine.source import Source
from rocktok.log.catalogue import Log
from rocktok.stats.accumulator import Accumulator
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.sums import TypeSums


@dataclass(frozen=True)
class Request:
    """What a pass needs beside the rows.

    `losses`: whether places and means of the loss are told; `ends_alone`: whether nothing is but
    the ends of texts. `stopped`: texts that a terminal token ended; `terminal`, `special`:
    ascending token ids.
    """

    stopped: Stopped
    terminal: Array
    special: Array
    losses: bool
    ends_alone: bool
    seed: int
    replicates: int


@dataclass(frozen=True)
class Told:
    """Of the step that is looked at: its loss by place and by sequence, its ids.

    Attributes:
        places, means, sample: of the loss.
        types: occurrences by token id.
        untold: mass on ids that are no token; None: not known.
    """

    places: PromptBootstrap
    means: PromptBootstrap
    sample: SequenceSample
    types: TypeSums
    untold: UntoldMass | None

    def used(self, log: Log) -> Used:
        """Which ids stand in the text."""
        count_V = self.types.count_V
        used = np.flatnonzero(count_V)
        known = log.vocab.texts
        beyond = [int(v) for v in used if int(v) not in known] if known else []
        return Used(
            positions=int(count_V.sum()),
            types=len(used),
            known=(log.facts.tokens or len(known)) if known else None,
            beyond=int(count_V[beyond].sum()),
            mass=self.untold.result() if self.untold is not None else {},
        )


@dataclass(frozen=True)
class Measured:
    """What came of a pass; None where it was not asked for, or the log has nothing for it.

    Attributes:
        table, step: what was read.
        loops: sequences, and those that end in a loop.
        ends: last tokens of texts that stopped.
        k1: estimates from one sample.
        surprisal: of the text's tokens, beside the student's entropy.
        top_k: estimates from the likeliest tokens.
        no_alternatives: why there are none, and the remedy.
        losses: of the step that is looked at.
    """

    table: str
    step: int
    loops: PromptBootstrap
    ends: Ends
    k1: EstimatorSums | None
    top_k: EstimatorSums | None
    surprisal: PromptBootstrap | None
    no_alternatives: str | None
    losses: Told | None

    @property
    def told(self) -> Told:
        """What was asked for of the losses."""
        assert self.losses is not None
        return self.losses


def measure(run: Run, table: str, step: int, request: Request) -> Measured:
    """Make the pass."""
    log = run.log
    draws = {"seed": request.seed, "replicates": request.replicates}
    source = Source(log, table, None, step, run.prompts, seed=request.seed)
    columns, lacking = log.columns(table), source.lacks("alternatives")
    exact = log.rules.exactness == "exact"
    recorded = 0 if lacking is not None else _recorded(log, step)
    ends = Ends(request.stopped, request.terminal, columns, alternatives=bool(recorded), **draws)
    in_loop, loop_sums = loops(**draws)
    todo: list[Accumulator] = [ends]
    k1 = top_k = surprisal = None
    whole = not request.ends_alone
    if whole:
        todo.append(in_loop)
    if whole and exact and log_ratio_known(columns):
        k1 = EstimatorSums([Name("k1"), Name("k3")], columns, compiled=source.large, **draws)
        todo.append(k1)
    if whole and exact and {"student_logprob", "student_entropy"} <= set(columns):
        of_tokens, surprisal = surprisals(**draws, compiled=source.large)
        todo.append(of_tokens)
    told = None
    if request.losses:
        if exact and recorded:
            names = top_k_names(recorded)
            top_k = EstimatorSums(names, columns, recorded=recorded, compiled=source.large, **draws)
            todo.append(top_k)
        by_place, places = loss_places(request.special, **draws, compiled=source.large)
        by_sequence, means = sequence_means(**draws)
        untold = UntoldMass(_known(log)) if recorded and log.vocab.texts else None
        types = TypeSums(("loss",), compiled=source.large)
        told = Told(places, means, SequenceSample(request.seed), types, untold)
        todo += [by_place, by_sequence, told.sample, types, *([untold] if untold else [])]
    run.engine.run(source, *todo)
    return Measured(table, step, loop_sums, ends, k1, top_k, surprisal, lacking, told)


def _recorded(log: Log, step: int) -> int:
    """How many alternatives a row has at a step."""
    for rows in log.scan("alternatives", ["student_ids", "teacher_ids"], [step]):
        return min(int(rows.columns[n].shape[1]) for n in ("student_ids", "teacher_ids"))
    return 0


def _known(log: Log) -> Array:
    """Which ids are tokens, (V,) bool; the last one stands for all beyond, which are none."""
    known_V = np.zeros(max(log.vocab.texts) + 2, dtype=bool)
    known_V[list(log.vocab.texts)] = True
    return known_V
