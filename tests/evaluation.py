"""The tested rule on a log in memory: accumulators and contexts as on a log on disk, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from rocktok.analyses.detect.clusters import Clusters, PromptList, choose_clusters
from rocktok.analyses.detect.context import retention
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.hardness import hardness_of, votes_of
from rocktok.analyses.detect.judge_passes import judge_contexts
from rocktok.analyses.detect.neighbours import Neighbours, RockFlags
from rocktok.analyses.detect.params import WINDOW
from rocktok.analyses.detect.persistence import PersistentWindows, Thresholds, of_type
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import FDR, Replication, TestedTypes, replication
from rocktok.analyses.detect.votes import Expected
from rocktok.hashing import halves, prompt_hash
from rocktok.stats.quantiles import quantile
from tests.planted import Array, PlantedLog

Batch = dict[str, Array]


def batch_of(log: PlantedLog) -> Batch:
    """All rows of a log as one batch."""
    post = (log.rows["step"] == log.rows["step"].max()).to_numpy()
    rows = {name: log.rows[name].to_numpy() for name in ("token_id", "sequence_id", "position")}
    batch = {name: values[post] for name, values in rows.items()}
    for name, values in rows.items():
        assert (values[~post] == batch[name]).all(), "both steps have the same rows in one order"
    loss = log.rows["loss"].to_numpy()
    known, names = log.sequences["sequence_id"].to_numpy(), log.sequences["prompt_id"]
    number_S, first = names.factorize()
    hashes = np.array([prompt_hash(str(name)) for name in first], dtype=np.uint64)
    prompt = hashes[number_S[np.searchsorted(known, batch["sequence_id"])]]
    if log.context is not None:
        batch["context"] = log.context
        batch["has_context"] = np.ones(len(log.context), dtype=bool)
    return {**batch, "prompt": prompt, "loss_pre": loss[~post], "loss_post": loss[post]}


class MemoryEngine:
    """Feeds one batch to accumulators."""

    jobs = 1

    def run(self, source: Any, *accumulators: Any) -> None:
        for accumulator in accumulators:
            accumulator.update(source.batch)

    def aside(self, function: Callable[[], Any]) -> Any:
        """At once."""
        return function()

    def asides(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], ahead: int
    ) -> Iterator[Any]:
        """One call after another."""
        for call in calls:
            yield function(*call)


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


def _sources(batch: Batch, seed: int, most: int) -> tuple[Any, Array, Clusters]:
    """What passes read, rows by token id, and who votes."""
    count_V = np.bincount(batch["token_id"])
    prompts = PromptList()
    prompts.update(batch)
    clusters = choose_clusters(prompts.result(), count_V, seed, most=most)
    # Compiled loops, whose bits are those of the others: half of the time.
    source = SimpleNamespace(batch=batch, rows=len(batch["token_id"]), large=True)
    return cast(Any, source), count_V, clusters


def _thresholds(batch: Batch, at: float) -> Thresholds:
    return Thresholds(quantile(batch["loss_pre"], at), quantile(batch["loss_post"], at))


def may_have_rocks(
    batch: Batch, *, quantile_of_losses: float = 0.8, most: int = 4096, seed: int = 0
) -> bool:
    """Whether any type is hard enough to pass, whatever its contexts: if none is, `evaluate` names
    no rock, and most logs without rocks need no contexts to be known as such.
    """
    source, _, clusters = _sources(batch, seed, most)
    sums = HardSums(_thresholds(batch, quantile_of_losses), clusters, compiled=True)
    MemoryEngine().run(source, sums)
    votes = votes_of(sums)
    if votes is not None:
        MemoryEngine().run(source, votes)
    return bool(hardness_of(sums, votes).tests.worth_judging(FDR).any())


def evaluate(
    batch: Batch,
    *,
    quantile_of_losses: float = 0.8,
    most: int = 4096,
    all_types: bool = False,
    fdr: float = 0.05,
    halves_too: bool = False,
    seed: int = 0,
    similarity: str = "surprisal",
    gamma: float | Literal["auto"] = "auto",
    window: int = WINDOW,
) -> Evaluation:
    """Thresholds, sums, tests, the contexts of what may pass, rocks and their flags."""
    params = DetectParams(
        quantile_pre=quantile_of_losses,
        quantile_post=quantile_of_losses,
        seed=seed,
        fdr=fdr,
        all_types=all_types,
        similarity=similarity,
        gamma=gamma,
        window=window,
    )
    thresholds = _thresholds(batch, quantile_of_losses)
    source, count_V, clusters = _sources(batch, seed, most)
    token_T = np.flatnonzero(count_V)
    loss_V = np.bincount(batch["token_id"], batch["loss_post"].astype(np.float64))
    types = TypeTable(token_T, count_V[token_T], loss_V[token_T])
    types, contexts = judge_contexts(
        source,
        cast(Any, MemoryEngine()),
        params,
        thresholds,
        types,
        count_V=count_V,
        clusters=clusters,
        embeddings=None,
        null=False,
    )
    assert types.tested is not None
    assert contexts.hardness is not None
    tested, expected = types.tested, contexts.hardness.expected
    judged = _judged(batch, types, contexts) if all_types else {}
    flags = flags_of(batch, thresholds, expected, token_T[tested.is_rock])
    replicated = None
    if halves_too:
        half_N = halves(batch["prompt"], seed)
        one, other = ({n: x[half_N == h] for n, x in batch.items()} for h in (0, 1))
        first, second = (
            evaluate(
                half,
                quantile_of_losses=quantile_of_losses,
                most=most,
                fdr=fdr,
                seed=seed,
                similarity=similarity,
                gamma=gamma,
                window=window,
            )
            for half in (one, other)
        )
        replicated = replication(np.array(first.rocks), second.types.hard)
    return Evaluation(tested, flags, thresholds, judged, replicated)


def _judged(
    batch: Batch, types: TypeTable, contexts: Contexts
) -> dict[int, tuple[Array, Array] | None]:
    """Of each type judged: prompts of its persistent occurrences, and which are retained."""
    params, contents = contexts.params, (contexts.rule.similarity.contents,)
    windows = PersistentWindows(
        contexts.thresholds, params.window_size, params.seed, contents=contents
    )
    windows.update(batch)
    rule, held = contexts.rule, windows.result()
    judged: dict[int, tuple[Array, Array] | None] = {}
    for index in types.context:
        v = int(types.token_T[index])
        rows, draws = of_type(held, v), contexts._draws(v)
        ours = rule.windows(rows)
        null = None if draws is None else rule._count(draws[0], ours)
        retained = retention(rule._count(ours, ours), null, rule.eta)
        judged[v] = None if retained is None else (rows["prompt"], retained.retained_M)
    return judged


def flags_of(batch: Batch, thresholds: Thresholds, expected: Expected, rocks: Array) -> RockFlags:
    """Flags of some types."""
    beside = Neighbours(thresholds, expected, rocks)
    beside.update(batch)
    return beside.result()
