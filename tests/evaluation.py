"""The tested rule on a log in memory: accumulators and contexts as on a log on disk, no files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rocktok.analyses.detect.clusters import PromptList, choose_clusters
from rocktok.analyses.detect.context import Context, ContextRule, Partners, retention, surprisal
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.neighbours import Neighbours, RockFlags
from rocktok.analyses.detect.null import DRAWS, Null, distances, scarce_types
from rocktok.analyses.detect.persistence import (
    HardCounts,
    PersistentWindows,
    Thresholds,
    of_type,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.detect.tested import (
    Recurrence,
    Replication,
    TestedTypes,
    context_votes,
    hard_tests,
    judge_types,
    replication,
)
from rocktok.analyses.detect.votes import Expected, OccurrenceSums
from rocktok.analyses.detect.windows import FreePools, Pool
from rocktok.hashing import halves, prompt_hash
from rocktok.stats.arrays import padded
from rocktok.stats.quantiles import quantile
from tests.planted import Array, PlantedLog
from tests.worlds import frame_of

Batch = dict[str, Array]


def batch_of(log: PlantedLog) -> Batch:
    """All rows of a log as one batch."""
    frame = frame_of(log)
    names, number = np.unique(frame["prompt"].to_numpy().astype(str), return_inverse=True)
    hashes = np.array([prompt_hash(str(name)) for name in names], dtype=np.uint64)
    columns = ("token_id", "sequence_id", "position", "loss_pre", "loss_post")
    return {"prompt": hashes[number], **{name: frame[name].to_numpy() for name in columns}}


@dataclass(frozen=True)
class RecordingRule(ContextRule):
    """Keeps, of each type judged: the prompts of its rows, and whether each is retained."""

    record: list[tuple[Array, Array]] = field(default_factory=list)

    def conclude(
        self,
        rows: dict[str, Array],
        persistent: int,
        own: Partners,
        null: Partners | None,
        distance: int | None,
    ) -> Context:
        decided = retention(own, null, self.eta)
        retained_M = np.zeros(len(rows["prompt"]), bool) if decided is None else decided.retained_M
        self.record.append((rows["prompt"], retained_M))
        return super().conclude(rows, persistent, own, null, distance)


@dataclass
class Evaluation:
    """What the rule makes of a log.

    `judged`: prompts of a type's judged occurrences, retained or not; None where there is no null.
    """

    types: TestedTypes
    flags: RockFlags
    thresholds: Thresholds
    judged: dict[int, tuple[Array, Array] | None]
    replicated: Replication | None = None

    @property
    def rocks(self) -> list[int]:
        """Token ids."""
        return self.types.hard.token_T[self.types.is_rock].tolist()

    @property
    def told_apart(self) -> list[int]:
        """Rocks that are not bound to a position."""
        return self.flags.token_R[~self.flags.position_bound].tolist()


def evaluate(
    batch: Batch,
    *,
    quantile_of_losses: float = 0.8,
    most: int = 4096,
    all_types: bool = False,
    fdr: float = 0.05,
    halves_too: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Thresholds, sums, tests, the contexts of what may pass, rocks and their flags."""
    params = DetectParams(
        quantile_pre=quantile_of_losses, quantile_post=quantile_of_losses, seed=seed
    )
    thresholds = Thresholds(
        quantile(batch["loss_pre"], quantile_of_losses),
        quantile(batch["loss_post"], quantile_of_losses),
    )
    count_V = np.bincount(batch["token_id"])
    prompts = PromptList()
    prompts.update(batch)
    clusters = choose_clusters(prompts.result(), count_V, seed, most=most)
    sums = HardSums(thresholds, clusters)
    sums.update(batch)
    expected: Any = sums.expected()
    if not clusters.one_pass:
        occurrences = OccurrenceSums(thresholds, expected)
        occurrences.update(batch)
        expected = expected.with_all(occurrences)
    hard = hard_tests(expected.all_votes())
    token_T = hard.token_T
    loss_V = np.bincount(batch["token_id"], batch["loss_post"].astype(np.float64))
    types = TypeTable(token_T, count_V[token_T], loss_V[token_T])
    counts, pool = (
        HardCounts(thresholds),
        Pool(seed, 2 * params.window, total=len(batch["token_id"])),
    )
    windows = PersistentWindows(thresholds, params.window, seed)
    for accumulator in (counts, pool, windows):
        accumulator.update(batch)
    persistent_T = padded(counts.count_V["both"], len(count_V))[token_T]
    types = replace(types, persistent_T=persistent_T)
    scarce_T = scarce_types(pool.result(), token_T) & (persistent_T > 0)
    free = None
    if scarce_T.any() and not pool.complete:
        near = distances(params.window)
        free = FreePools(seed, 2 * params.window, token_T[scarce_T].tolist(), near, DRAWS)
        free.update(batch)
    null = Null(pool.result(), free, params.window, params.partners)
    similarity = Similarity(
        params.similarity, params.gamma, 2 * params.window, surprisal(count_V), None, 1
    )
    rule = RecordingRule(similarity, params.partners, params.eta)
    rows, worth = windows.result(), hard.worth_judging(fdr)
    if all_types:
        worth = persistent_T > 0
    recurrence: dict[int, Recurrence] = {}
    judged: dict[int, tuple[Array, Array] | None] = {}
    for place in np.flatnonzero(worth).tolist():
        v = int(token_T[place])
        context = rule.judge(of_type(rows, v), null.nearest(v))
        prompt_M, retained_M = rule.record[-1]
        voters, votes_sum = context_votes(clusters.of(prompt_M), retained_M)
        recurrence[place] = Recurrence(
            context.judged, context.hits, voters, votes_sum, context.judgeable, context.retained
        )
        judged[v] = rule.record[-1] if context.judgeable else None
    mean_T = types.loss_T / types.frequency_T
    tested = judge_types(hard, recurrence, mean_T, persistent_T, fdr)
    flags = flags_of(batch, thresholds, expected, token_T[tested.is_rock])
    replicated = None
    if halves_too:
        half_N = halves(batch["prompt"], seed)
        one, other = ({n: x[half_N == h] for n, x in batch.items()} for h in (0, 1))
        first = evaluate(one, quantile_of_losses=quantile_of_losses, most=most, fdr=fdr, seed=seed)
        second = evaluate(other, quantile_of_losses=quantile_of_losses, most=most, fdr=0, seed=seed)
        replicated = replication(np.array(first.rocks), second.types.hard)
    return Evaluation(tested, flags, thresholds, judged, replicated)


def flags_of(batch: Batch, thresholds: Thresholds, expected: Expected, rocks: Array) -> RockFlags:
    """Flags of some types."""
    beside = Neighbours(thresholds, expected, rocks)
    beside.update(batch)
    return beside.result()
