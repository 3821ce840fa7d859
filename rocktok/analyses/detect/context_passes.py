"""The passes behind context consistency: who is persistent, in which windows, against what null.

Types are judged down a bound until no other can be a rock. Their windows are collected in rounds:
each round is one pass, and holds no more windows than fit in memory.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import context as contexts
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect import windows
from rocktok.analyses.detect.context import Context, ContextRule, PartnerCounts
from rocktok.analyses.detect.permute import DrawLimits, Drawn
from rocktok.analyses.detect.persistence import (
    Choice,
    HardCounts,
    PersistentWindows,
    Thresholds,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import DetectParams, TypeTable
from rocktok.analyses.detect.similarity import Similarity, Windows, labels
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.stats.arrays import distinct, padded

#: Windows held at once, of about 100 bytes each.
ROUND_WINDOWS = 1 << 22

#: Types judged by a sample in one round, at least: each costs, as it is compared with all.
ROUND_TYPES = 50


class Contexts:
    """Judges the contexts of persistent occurrences, in as few passes as memory allows."""

    def __init__(
        self,
        source: Source,
        engine: Engine,
        params: DetectParams,
        thresholds: Thresholds,
        embeddings: Array | None,
        null: bool,
    ) -> None:
        self.source, self.engine, self.params, self.null = source, engine, params, null
        self.thresholds, self.embeddings = thresholds, embeddings
        self.choice: Choice = thresholds
        self._pool: dict[str, Array] = {}
        self._free: windows.FreePools | None = None
        self._wanted_free: windows.FreePools | None = None
        self._held: dict[str, Array] = {}
        self._holds: set[int] = set()
        self._judged: dict[int, Context] = {}

    def judge(self, types: TypeTable, count_V: Array, rows: int) -> None:
        """Fill in what persistence and contexts came to. `rows`: of the joined steps."""
        self._count(types, len(count_V), rows)
        assert types.persistent_T is not None
        params = self.params
        similarity = Similarity(
            params.similarity,
            params.gamma,
            2 * params.window,
            contexts.surprisal(count_V),
            self.embeddings,
            self.engine.jobs,
        )
        self.rule = ContextRule(similarity, params.partners, params.eta)
        self._walk(types)

    def _walk(self, types: TypeTable) -> None:
        params = self.params
        assert types.persistent_T is not None
        order = analysis.candidates(types, params)
        place = {index: at for at, index in enumerate(order)}
        persistent = types.persistent_T

        def judge(index: int) -> Context:
            v = int(types.token_T[index])
            if v not in self._holds:
                self._collect(types, order[place[index] :])
            if not self._is_sampled(persistent[index]):
                return self.rule.judge(v, of_type(self._held, v), self._draws)
            if v not in self._judged:
                self._judge_samples(types, self._round(types, order[place[index] :]))
            return self._judged[v]

        analysis.walk(types, params, judge)
        self._held, self._holds = {}, set()

    def permuted(self, types: TypeTable) -> TypeTable:
        """The types judged anew, as many occurrences of each drawn at random as are persistent.

        Null, similarity, partners and walk are the same. Where the log is too large for its windows
        to be held at once, only types that `judge` has judged. One pass, and those of the windows.
        """
        assert types.persistent_T is not None
        persistent_T = types.persistent_T
        if self.source.rows > ROUND_WINDOWS:
            judged_T = np.isin(np.arange(len(persistent_T)), list(types.context))
            persistent_T = np.where(judged_T, persistent_T, 0)
        limits = DrawLimits(self.params.seed, types.token_T, persistent_T, types.frequency_T)
        self.engine.run(self.source, limits)
        again = copy.copy(self)
        again.choice = Drawn(self.params.seed, limits.result())
        again.params = replace(self.params, all_types=False)
        again._judged = {}
        drawn = replace(types, persistent_T=persistent_T, context={})
        again._walk(drawn)
        return drawn

    def _count(self, types: TypeTable, length: int, rows: int) -> None:
        """One pass: the hard rows of each type, and a pool for the null; small logs: windows."""
        params = self.params
        hard = HardCounts(self.thresholds)
        pool = windows.Pool(params.seed, 2 * params.window, total=rows)
        everything = rows <= ROUND_WINDOWS
        collect = PersistentWindows(self.choice, params.window, params.seed)
        self.engine.run(
            self.source, hard, *([pool] if self.null else []), *([collect] if everything else [])
        )
        counts = [padded(c, length)[types.token_T] for c in hard.count_V.values()]
        types.persistent_T, types.hard_pre_T, types.hard_post_T = counts
        if everything:
            self._held, self._holds = collect.result(), set(types.token_T.tolist())
        if self.null:
            self._pool = pool.result()
            self._wanted_free = None if pool.complete else self._scarce(types, length)
        if everything and self._wanted_free is not None:
            self._take_free()

    def _collect(self, types: TypeTable, order: list[int]) -> None:
        """One pass: the windows of the first types in the order, as many as may be held."""
        chosen = self._round(types, order)
        ids = types.token_T[chosen]
        assert types.persistent_T is not None
        persistent = dict(zip(ids.tolist(), types.persistent_T[chosen].tolist(), strict=True))
        self._held = {}
        limit_V = sample_limits(persistent, self._sample_size, self._is_sampled)
        w, seed = self.params.window, self.params.seed
        collect = PersistentWindows(self.choice, w, seed, limit_V)
        self._take_free(collect)
        self._held, self._holds = collect.result(), set(ids.tolist())

    def _is_sampled(self, persistent: int) -> bool:
        return not self.params.exact and persistent > self.params.cap

    @property
    def _sample_size(self) -> int:
        return min(contexts.SAMPLE, self.params.cap)

    def _round(self, types: TypeTable, order: list[int]) -> list[int]:
        assert types.persistent_T is not None
        chosen: list[int] = []
        held = frequent = 0
        for index in order:
            persistent = int(types.persistent_T[index])
            sampled = self._is_sampled(persistent)
            held += self._sample_size if sampled else persistent
            frequent += sampled
            if chosen and (held > ROUND_WINDOWS or frequent > max(self.params.top_k, ROUND_TYPES)):
                break
            chosen.append(index)
        return chosen

    def _judge_samples(self, types: TypeTable, chosen: list[int]) -> None:
        """One pass: samples of the frequent types among some, compared with all their partners."""
        assert types.persistent_T is not None
        counted = {int(types.token_T[i]): int(types.persistent_T[i]) for i in chosen}
        persistent = {v: n for v, n in counted.items() if self._is_sampled(n)}
        samples = {v: of_type(self._held, v, self._sample_size) for v in persistent}
        nulls = {v: self._draws(v) if self.params.eta == "auto" else None for v in persistent}
        judged = {}
        for v, rows in samples.items():
            drawn = nulls[v]
            ours = self.rule.windows(rows)
            judged[v] = ours if drawn is None else ours.joined(drawn[0])
        counts = PartnerCounts(
            self.choice, self.params.window, self.params.seed, self.rule.on_workers(), judged
        )
        self.engine.run(self.source, counts)
        for v, rows in samples.items():
            drawn, size = nulls[v], len(rows["loss"])
            own = counts.result(v, slice(0, size))
            null = None if drawn is None else counts.result(v, slice(size, None))
            distance = None if drawn is None else drawn[1]
            self._judged[v] = self.rule.conclude(rows, persistent[v], own, null, distance)

    # -- the null --------------------------------------------------------------------------

    def _scarce(self, types: TypeTable, length: int) -> windows.FreePools | None:
        """Pools for types too frequent for the shared one, where there are such types."""
        assert types.persistent_T is not None
        around = self._pool["around"]
        row_P = np.repeat(np.arange(len(around)), around.shape[1])
        here = around.ravel() != windows.MISSING
        pairs = distinct(row_P[here] * np.int64(length) + around.ravel()[here])
        free_V = len(around) - np.bincount(pairs % length, minlength=length)
        scarce = (free_V[types.token_T] < contexts.DRAWS) & (types.persistent_T > 0)
        chosen = types.token_T[scarce].tolist()
        if not chosen:
            return None
        reach, near = 2 * self.params.window, contexts.distances(self.params.window)
        return windows.FreePools(self.params.seed, reach, chosen, near, contexts.DRAWS)

    def _take_free(self, *others: PersistentWindows) -> None:
        """A pass for accumulators, and for the pools of frequent types where these are due."""
        pools = [] if self._wanted_free is None else [self._wanted_free]
        self.engine.run(self.source, *others, *pools)
        self._free, self._wanted_free = self._wanted_free or self._free, None

    def _draws(self, v: int) -> tuple[Windows, int] | None:
        for distance in contexts.distances(self.params.window):
            drawn = self.draws_at(v, distance)
            if drawn is not None:
                return drawn, distance
        return None

    def draws_at(self, v: int, distance: int) -> Windows | None:
        """Windows of the null of v, none within a distance of it; None if there are too few."""
        if self._free is not None and (v, distance) in self._free.pools:
            drawn = self._free.pools[(v, distance)].result()
            rows = np.arange(len(drawn.get("hash", ())))
        else:
            drawn = self._pool
            rows = self._free_rows(v, distance)
        if len(rows) < contexts.MIN_DRAWS:
            return None
        reach, w = 2 * self.params.window, self.params.window
        near = [reach + k for k in windows.offsets(w).tolist()]
        picked = {name: values[rows] for name, values in drawn.items()}
        label_D = labels(picked, self.params.partners)
        return Windows(picked["around"][:, near], label_D)

    def _free_rows(self, v: int, distance: int) -> Array:
        """The first rows of the pool with no v within a distance; enough of them for the draw."""
        reach = 2 * self.params.window
        around = self._pool["around"][:, reach - distance : reach + distance + 1]
        stop = 2 * contexts.DRAWS
        while True:
            free = np.flatnonzero(~(around[:stop] == v).any(axis=1))
            if len(free) >= contexts.DRAWS or stop >= len(around):
                return free[: contexts.DRAWS]
            stop *= 2
