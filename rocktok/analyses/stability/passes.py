"""`stability` over a log: the passes, in order.

1. sums of all types by half of the prompts, and the distinct prompts;
2. halves, nested subsamples and bootstrap replicates of the types with the largest Rock Scores;
3. where there is a second log, sums of all its types by half of the prompts;
4. where there is persistence, `detect` on all prompts, unless that was made already; its tested
   rocks are then named again by half-samples (`rock_passes`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.run import LogOrPath, Run, one_half, opened, options_of, public
from rocktok.analyses.stability.overlap import (
    CANDIDATES,
    LEAST_CANDIDATES,
    SHARES,
    WANTED,
    Sample,
    Samples,
    ablation,
    cutoff_rows,
    in_first_k,
    ranked,
    recommend,
    score_rows,
    short_rankings,
)
from rocktok.analyses.stability.result import (
    Cutoff,
    FirstK,
    RankedType,
    RankingPair,
    Recommended,
    SecondLog,
    StabilityOptions,
    StabilityParams,
    StabilityResult,
)
from rocktok.analyses.stability.rock_passes import Again, named_again, why_not
from rocktok.analyses.stability.scores import Moments
from rocktok.analyses.stability.subsamples import Subsamples, limits
from rocktok.engine.choose import check_comparable
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.engine.turns import Companion
from rocktok.errors import DamagedError, DataError, LogError, UsageError
from rocktok.log.catalogue import Log
from rocktok.stats.groups import HalfFacts, TypeFacts
from rocktok.stats.sums import DistinctValues


@public
def stability(
    log: LogOrPath,
    *,
    other: LogOrPath | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    step: int | None = None,
    sizes: tuple[int, ...] | None = None,
    repeats: int = 40,
    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500),
    context: str = "auto",
    top: int | None = None,
    all_types: bool = False,
    replicates: int = 200,
    seed: int = 0,
) -> StabilityResult:
    """Stability of rocks, and of rankings by Rock Score, over samples of the prompts.

    Args:
        log: an open log, or the path of one.
        other: second log with the same vocabulary, at its last complete step, for scores that are
            the smaller of two; None: two halves of the prompts.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        step: step to analyse; None: the last complete step.
        sizes: numbers of prompts in nested subsamples; None: 10, 20, 40, 60 and 80% of all.
        repeats: number of random splits into halves, and of samples of each size.
        k: cutoffs K of the ranking.
        context: "auto", or "off": skip `detect`, its rocks and its rankings.
        top: number of types by Rock Score, beside the rocks; None: 100, of which the terminal
            table shows 20.
        all_types: include every type.
        replicates: number of bootstrap replicates over prompts, and of half-samples (rounded up
            to an even number).
        seed: random seed of halves, subsamples and replicates.

    Raises:
        UsageError: an option is out of range, or `sizes` exceeds the number of prompts.
        LogError: a log is damaged, lacks the table or step, or the two cannot be compared.
    """
    params = options_of(StabilityParams, locals())
    return run_stability(log, params, other=other, engine=engine)


def run_stability(
    log: LogOrPath,
    params: StabilityParams,
    *,
    other: LogOrPath | None = None,
    engine: Engine | None = None,
    detection: Detection | None = None,
) -> StabilityResult:
    """`stability`; `detection`: of the same log, whose rocks are named again whatever `context`."""
    log, second = opened(log), None
    if other is not None:
        other = opened(other)
        check_comparable(log, other)
    run = Run.begin(log, engine, params.table, params.seed)
    step, _, notes = run.view.reference(params.step)
    source = run.source(step)
    if other is not None:
        second, more = _second(other, run)
        notes += more
    return _Stability(run, params, source, second, notes, detection).result()


def _second(other: Log, run: Run) -> tuple[Source, tuple[str, ...]]:
    """The last complete step of the second log; what to note of it."""
    if other.shards(run.table) and not other.complete_steps(run.table):
        raise LogError(
            f"{other.name}: no step of {run.table}/ is complete on every rank; give another log"
        )
    theirs = Run.begin(other, run.engine, run.table, run.seed)
    step, _, notes = theirs.view.reference(None)
    return theirs.source(step), tuple(f"{other.name}: {note}" for note in notes)


@dataclass(frozen=True)
class _Stability:
    """What is drawn again: a step of a log, and perhaps of a second one."""

    run: Run
    params: StabilityParams
    source: Source
    second: Source | None
    notes: tuple[str, ...]
    detection: Detection | None

    def result(self) -> StabilityResult:
        """All passes."""
        naming = self._start_naming()
        facts, ours, prompt_P = self._whole(self.source)
        sizes = self._sizes(len(prompt_P))
        token_T, count_T = facts.token_T, facts.frequency_HT.sum(axis=0)
        loss_T = facts.loss_HT.sum(axis=0)
        order = ranked(loss_T, count_T, token_T)
        grid, notes = self._grid(len(order))
        kept = order[: max(CANDIDATES * grid[-1], LEAST_CANDIDATES)]
        subsamples = Subsamples(
            token_T[kept], self.params.seed,
            limits(self.params.seed, self.params.repeats, sizes, prompt_P),
            self.params.replicates, compiled=self.source.large,
        )  # fmt: skip
        self.run.engine.run(self.source, subsamples, patient=True)
        samples = Samples(subsamples.types, self._limit(loss_T[order[len(kept) :]]))
        coverage = np.cumsum(loss_T[order]) / (loss_T.sum() or 1.0)
        whole = np.searchsorted(subsamples.types, token_T[kept])
        rows = self.run.engine.aside(
            lambda: cutoff_rows(samples, *subsamples.result(), sizes, grid, coverage, whole)
        )
        best = recommend(rows)
        k = best["k"] if best is not None else grid[-1]
        drawn = self.run.engine.aside(
            lambda: in_first_k(subsamples.types, subsamples.replicated(), subsamples.few_prompts, k)
        )
        notes += _notes_on(rows, best, len(order))
        theirs, beside = self._beside()
        sided = facts.frequency_HT.any(axis=1).all()
        reason = None if sided else one_half(len(prompt_P), self.params.seed)
        if reason is not None:
            notes.append(f"no scores by halves: {reason}")
        detection, no_rocks, more = self._detection(two_halves=reason is None)
        again = None
        if detection is not None:
            no_rocks = why_not(detection)
            if no_rocks is None:
                naming = naming or self._start_naming(detection)
                again = None if naming is None else naming.result()
        rankings, of_rankings = self._rankings(detection, k)
        so_far, more = [*self.notes, *notes], [*more, *of_rankings]
        return StabilityResult(
            log={
                **self.run.log.identity(),
                "table": self.source.table,
                "step": self.source.post,
                "with": beside,
                "passes": self.run.passes,
                "prompts": len(prompt_P),
                "positions": int(count_T.sum()),
                "types": len(token_T),
                "candidates": len(kept),
                "similarity": None if detection is None else detection.result.similarity,
            },
            params=cast(StabilityOptions, asdict(self.params)),
            rocks=None if again is None else again.summary,
            no_rocks=no_rocks,
            cutoffs=tuple(rows),
            recommended=best,
            tokens=tuple(self._tokens(facts, order, coverage, drawn, k, again)),
            scores=tuple(score_rows(ours, theirs, k)),
            rankings=rankings,
            notes=(*so_far, *(note for note in more if note not in so_far)),
        )

    def _start_naming(self, detection: Detection | None = None) -> Companion[Again] | None:
        """Start naming rocks again on half-samples; None where `detect` allows none so far."""
        found = detection or self.detection
        if found is None or why_not(found) is not None:
            return None
        return self.run.engine.start(lambda: named_again(found, self.params.replicates))

    def _beside(self) -> tuple[Sample | None, SecondLog | None]:
        if self.second is None:
            return None, None
        _, theirs, prompt_P = self._whole(self.second)
        return theirs, {
            **self.second.log.identity(),
            "table": self.second.table,
            "step": self.second.post,
            "prompts": len(prompt_P),
        }

    def _whole(self, source: Source) -> tuple[TypeFacts, Sample, Array]:
        halves = HalfFacts(self.params.seed, compiled=source.large)
        prompts = DistinctValues("prompt")
        self.run.engine.run(source, halves, prompts)
        facts = halves.result()
        if not len(facts.token_T):
            raise LogError(f"{source.log.name}: step {source.post} of {source.table}/ has no rows")
        square_HT = halves.squares(facts.token_T)
        moments = [Moments(facts.frequency_HT[h], facts.loss_HT[h], square_HT[h]) for h in range(2)]
        return facts, Sample(facts.token_T, moments), prompts.result()

    def _grid(self, types: int) -> tuple[list[int], list[str]]:
        """The K that there are types for, ascending; all types where there are for none. Notes."""
        above = sorted({k for k in self.params.k if k > types})
        notes = []
        if above:
            notes.append(f"K = {_list(above)}: left out, since there are only {types} types")
        return sorted(set(self.params.k) - set(above)) or [types], notes

    def _limit(self, left_T: Array) -> float | None:
        """What the types that are not drawn again may at most have; see `Samples`."""
        if not len(left_T):
            return -np.inf
        return float(left_T[0]) if self.run.log.rules.exactness == "exact" else None

    def _sizes(self, prompts: int) -> list[int]:
        where = f"step {self.source.post} of {self.run.table}/"
        if prompts < 2:
            raise LogError(
                f"{self.run.log.name}: {where} has one prompt; samples of prompts need two or more"
            )
        asked = self.params.sizes
        if asked is not None and max(asked) > prompts:
            message = (
                f"sizes asks for {max(asked):,} prompts; {where} has {prompts:,}; ask for fewer"
            )
            raise UsageError(message, parameter="sizes")
        return sorted(set(asked or (max(1, round(share * prompts)) for share in SHARES)))

    def _tokens(
        self,
        facts: TypeFacts,
        order: Array,
        coverage: Array,
        drawn: dict[int, FirstK],
        k: int,
        again: Again | None,
    ) -> list[RankedType]:
        """The first by Rock Score; below them rocks, and what half-samples often name."""
        rows: list[RankedType] = []
        shown = set() if again is None else again.shown
        most = len(order) if self.params.all_types else self.params.most
        for rank, t in enumerate(order.tolist()):
            v = int(facts.token_T[t])
            if rank >= most and v not in shown:
                continue
            count = int(facts.frequency_HT[:, t].sum())
            loss = float(facts.loss_HT[:, t].sum())
            rows.append({
                "rank": rank + 1,
                "token_id": v,
                "token": self.run.log.vocab.text(v),
                "frequency": count,
                "mean_loss": loss / count,
                "rock_score": loss,
                "coverage": float(coverage[rank]),
                "k": k,
                "is_rock": None if again is None else v in again.rocks,
                "inclusion": None if again is None else again.inclusion.get(v, 0.0),
                "testable": None if again is None else again.testable.get(v, 0.0),
                **(drawn.get(v) or _UNKNOWN),
            })  # fmt: skip
        return rows

    def _detection(self, *, two_halves: bool) -> tuple[Detection | None, str | None, list[str]]:
        """`detect` on all prompts, or why no rocks can be named again; and what to note of it."""
        if self.detection is not None:
            return self.detection, None, []
        if self.params.context == "off":
            return None, "`detect` was skipped by --context off", []
        options = DetectParams(
            table=self.run.table, seed=self.params.seed, post=self.params.step, all_types=True
        )
        try:
            detection = run_detect(
                self.run.log, options, engine=self.run.engine,
                replicate="auto" if two_halves else False,
            )  # fmt: skip
        except (DamagedError, DataError):
            raise
        except LogError as error:
            reason = f"`detect` with its default options: {error}"
            return None, reason, [f"no rocks, and no rankings by context: {reason}"]
        if detection.steps.pre is None:
            why = detection.result.log["no_context"]
            return detection, why, [f"no rocks, and no rankings by context: {why}"]
        return detection, None, list(detection.result.notes)

    def _rankings(
        self, detection: Detection | None, k: int
    ) -> tuple[tuple[RankingPair, ...] | None, list[str]]:
        """`detect`'s rankings of all types against each other; what to note of them."""
        if detection is None or self.params.context == "off" or detection.steps.pre is None:
            return None, []
        pairs, notes = tuple(ablation(detection.result.tokens, k)), []
        short = short_rankings(detection.result.tokens, k)
        if short:
            sizes = ", ".join(f"{name} {size}" for name, size in short.items())
            notes.append(
                f"rankings of `detect` in which few types have a score above 0 ({sizes}): against "
                f"the first {k} of a full ranking their Jaccard is below 0.5, whatever their order"
            )
        if any(row["jaccard"] is None for row in pairs):
            notes.append("an empty ranking of `detect` has no Jaccard")
        return pairs, notes


def _notes_on(rows: list[Cutoff], best: Recommended | None, types: int) -> list[str]:
    notes = []
    able = [row["k"] for row in rows if row["eligible"]]
    if best is None and able:
        notes.append(
            f"no eligible K ({_list(able)}) reaches a mean Jaccard of {WANTED} between halves; "
            "record more prompts"
        )
    beyond = [row["k"] for row in rows if not row["eligible"]]
    if beyond:
        notes.append(
            f"K = {_list(beyond)}: never recommended, since two random picks of more than a "
            f"third of the {types} types overlap strongly"
        )
    if rows[0]["certain"] is None:
        notes.append(
            "losses may be negative, so the types that were not resampled have no bound: "
            "`certain` is null"
        )
    unsure = [row["k"] for row in rows if row["certain"] is not None and row["certain"] < 1]
    if unsure:
        notes.append(
            f"for K = {_list(unsure)} a type that was not resampled might be among the first K of "
            "some samples; `certain` is the share of samples in which none can be"
        )
    return notes


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


_UNKNOWN: FirstK = {
    "in_first_k": None,
    "rank_low": None,
    "rank_high": None,
    "few_prompts_carry_it": False,
}
