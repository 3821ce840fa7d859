"""`stability` over a log: the passes, in order.

1. sums of all types by half of the prompts, and the distinct prompts;
2. halves, nested subsamples and bootstrap replicates of the types with the largest Rock Scores;
3. where there is a second log, sums of all its types by half of the prompts;
4. where there is persistence, `detect` on all prompts and on each half.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.stability.overlap import (
    CANDIDATES,
    LEAST_CANDIDATES,
    SHARES,
    WANTED,
    Sample,
    Samples,
    StabilityParams,
    StabilityResult,
    ablation,
    cutoff_rows,
    inclusion,
    jaccard_of_some,
    ranked,
    recommend,
    score_rows,
)
from rocktok.analyses.stability.scores import Moments
from rocktok.analyses.stability.subsamples import Subsamples, limits
from rocktok.engine.choose import check_comparable, choose_table
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import DamagedError, DataError, LogError, UsageError
from rocktok.log.catalogue import Log
from rocktok.log.sequences import load_prompts
from rocktok.stats.arrays import padded
from rocktok.stats.groups import HalfFacts, TypeFacts
from rocktok.stats.sums import DistinctValues

Row = dict[str, Any]


def stability(
    log: Log, *, other: Log | None = None, engine: Engine | None = None, **options: Any
) -> StabilityResult:
    """Whether other samples of the prompts would rank the same types first.

    Args:
        log: an open log (`rocktok.open`).
        other: a second one of the same vocabulary, whose last complete step is the second log of
            the scores that take the smaller of two; None: two halves of the prompts are the two.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyses.stability.overlap.StabilityParams`.

    Raises:
        UsageError: options out of range, or more prompts asked for than there are.
        LogError: a log is damaged, or lacks what was asked, or the two cannot be compared.
    """
    params = StabilityParams(**options)
    if other is not None:
        check_comparable(log, other)
    return _Run(log, other, params, engine or Engine()).result()


class _Run:
    def __init__(
        self, log: Log, other: Log | None, params: StabilityParams, engine: Engine
    ) -> None:
        self.log, self.params, self.engine = log, params, engine
        self.passes_before = engine.passes
        self.table, _, self.step, self.notes = choose_table(log, params.table, params.step)
        prompts = load_prompts(log)
        self.source = Source(log, self.table, None, self.step, prompts, seed=params.seed)
        self.other: Source | None = None
        if other is not None:
            if other.shards(self.table) and not other.complete_steps(self.table):
                raise LogError(
                    f"{other.name}: no step of {self.table}/ is complete on every rank; give "
                    "another log"
                )
            table, _, step, notes = choose_table(other, self.table, None)
            self.other = Source(other, table, None, step, load_prompts(other), seed=params.seed)
            self.notes += [f"{other.name}: {note}" for note in notes]

    def result(self) -> StabilityResult:
        """All passes."""
        facts, ours, prompt_P = self._whole(self.source)
        sizes = self._sizes(len(prompt_P))
        token_T, count_T = facts.token_T, facts.frequency_HT.sum(axis=0)
        loss_T = facts.loss_HT.sum(axis=0)
        order = ranked(loss_T, count_T, token_T)
        grid = self._grid(len(order))
        kept = order[: max(CANDIDATES * grid[-1], LEAST_CANDIDATES)]
        subsamples = Subsamples(
            token_T[kept], self.params.seed,
            limits(self.params.seed, self.params.repeats, sizes, prompt_P),
            self.params.replicates, compiled=self.source.large,
        )  # fmt: skip
        self.engine.run(self.source, subsamples)
        samples = Samples(subsamples.types, self._limit(loss_T[order[len(kept) :]]))
        coverage = np.cumsum(loss_T[order]) / (loss_T.sum() or 1.0)
        whole = np.searchsorted(subsamples.types, token_T[kept])
        rows = cutoff_rows(samples, *subsamples.result(), sizes, grid, coverage, whole)
        best = recommend(rows)
        k = best["k"] if best is not None else grid[-1]
        drawn = inclusion(subsamples.types, subsamples.replicated(), k)
        self._note(best, rows, len(order))
        theirs, beside = None, None
        if self.other is not None:
            _, theirs, other_P = self._whole(self.other)
            beside = {**_about(self.other), "prompts": len(other_P)}
        rankings = self._rankings(k)
        return StabilityResult(
            log={
                **_about(self.source),
                "with": beside,
                "passes": self.engine.passes - self.passes_before,
                "prompts": len(prompt_P),
                "positions": int(count_T.sum()),
                "types": len(token_T),
                "candidates": len(kept),
            },
            params=asdict(self.params),
            cutoffs=tuple(rows),
            recommended=best,
            tokens=tuple(self._tokens(facts, order, coverage, drawn, k)),
            scores=tuple(score_rows(ours, theirs, k)),
            rankings=rankings,
            notes=tuple(self.notes),
        )

    def _whole(self, source: Source) -> tuple[TypeFacts, Sample, Array]:
        halves = HalfFacts(self.params.seed, compiled=source.large)
        prompts = DistinctValues("prompt")
        self.engine.run(source, halves, prompts)
        facts = halves.result()
        if not len(facts.token_T):
            raise LogError(f"{source.log.name}: step {source.post} of {source.table}/ has no rows")
        length = int(facts.token_T[-1]) + 1
        moments = []
        for h, sums in enumerate(halves.sums):
            # Either half may lack the last types.
            square_T = padded(sums.square_V["loss_post"], length)[facts.token_T]
            moments.append(Moments(facts.frequency_HT[h], facts.loss_HT[h], square_T))
        return facts, Sample(facts.token_T, moments), prompts.result()

    def _grid(self, types: int) -> list[int]:
        """The K that there are types for, ascending; all types where there are for none."""
        above = sorted({k for k in self.params.k if k > types})
        if above:
            self.notes.append(f"K = {_list(above)}: left out, as there are only {types} types")
        return sorted(set(self.params.k) - set(above)) or [types]

    def _limit(self, left_T: Array) -> float | None:
        """What the types that are not drawn again may at most have; see `Samples`."""
        if not len(left_T):
            return -np.inf
        return float(left_T[0]) if self.log.rules.exactness == "exact" else None

    def _sizes(self, prompts: int) -> list[int]:
        if prompts < 2:
            raise LogError(
                f"{self.log.name}: step {self.step} of {self.table}/ has one prompt; samples of "
                "prompts need two or more"
            )
        asked = self.params.sizes
        if asked is not None and max(asked) > prompts:
            message = (
                f"sizes asks for {max(asked):,} prompts; step {self.step} of {self.table}/ has "
                f"{prompts:,}; ask for fewer"
            )
            raise UsageError(message, parameter="sizes")
        return sorted(set(asked or (max(1, round(share * prompts)) for share in SHARES)))

    def _tokens(
        self, facts: TypeFacts, order: Array, coverage: Array, drawn: dict[int, Row], k: int
    ) -> list[Row]:
        rows = []
        for rank, t in enumerate(order[: self.params.top].tolist()):
            v, count = int(facts.token_T[t]), int(facts.frequency_HT[:, t].sum())
            loss = float(facts.loss_HT[:, t].sum())
            row: Row = {"rank": rank + 1, "token_id": v, "token": self.log.vocab.text(v)}
            row |= {"frequency": count, "mean_loss": loss / count, "rock_score": loss}
            row["coverage"] = float(coverage[rank])
            rows.append({**row, "k": k, **(drawn.get(v) or _UNKNOWN)})
        return rows

    def _rankings(self, k: int) -> Row | None:
        """`detect`'s rankings of all prompts against each other, and of one half against other."""
        if self.params.context == "off":
            return None
        same: dict[str, Any] = {"table": self.table, "seed": self.params.seed, "top_k": k}
        if self.params.step is not None:
            same["post"] = self.params.step
        try:
            whole = detect(self.log, engine=self.engine, all_types=True, **same)
            reason = whole.log["no_context"]
            sides = [] if reason else [self._rocks_of(half, same) for half in range(2)]
        except (DamagedError, DataError):
            raise
        except LogError as error:
            reason = f"`detect` with its defaults: {error}"
        if reason:
            self.notes.append(f"no rankings by persistence and context: {reason}")
            return None
        pairs = ablation(whole.tokens, k)
        self.notes += [note for note in whole.notes if note not in self.notes]
        if any(row["jaccard"] is None for row in pairs):
            self.notes.append("a ranking of `detect` without any type has no Jaccard with another")
        return {
            "pairs": pairs,
            "rocks_of_halves": {"k": k, "first": len(sides[0]), "second": len(sides[1]),
                                "jaccard": jaccard_of_some(*sides)},
        }  # fmt: skip

    def _rocks_of(self, half: int, same: Row) -> Array:
        found = detect(self.log, engine=self.engine, half=half, **same)
        return np.array([row["token_id"] for row in found.rocks], dtype=np.int64)

    def _note(self, best: Row | None, rows: list[Row], types: int) -> None:
        able = [row["k"] for row in rows if row["eligible"]]
        if best is None and able:
            self.notes.append(
                f"no K that may be recommended ({_list(able)}) reaches a mean Jaccard of {WANTED} "
                "between halves; more prompts would tell"
            )
        beyond = [row["k"] for row in rows if not row["eligible"]]
        if beyond:
            self.notes.append(
                f"K = {_list(beyond)}: not recommended whatever the overlap, as any two picks of "
                f"more than a third of the {types} types have much in common"
            )
        if rows[0]["certain"] is None:
            self.notes.append(
                "losses may be negative, so that nothing bounds those of the types that were not "
                "drawn again: `certain` is null"
            )
        unsure = [row["k"] for row in rows if row["certain"] is not None and row["certain"] < 1]
        if unsure:
            self.notes.append(
                f"for K = {_list(unsure)} a type that was not drawn again might belong to some "
                "sample's first K; `certain` says in how many none can"
            )


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _about(source: Source) -> Row:
    return {**source.log.identity(), "table": source.table, "step": source.post}


_UNKNOWN: Row = {"inclusion": None, "rank_low": None, "rank_high": None}
