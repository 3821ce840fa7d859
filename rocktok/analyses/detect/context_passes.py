"""The passes behind context consistency: who is persistent, in which windows, against what null.

Types are judged down a bound until no other can be a rock; where rocks are tested, those that are
hard enough to pass. Their windows are collected in rounds: each round is one pass, and holds no
more windows than fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import context as contexts
from rocktok.analyses.detect import judging
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.clusters import Clusters
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.context import Context, ContextRule, PartnerCounts
from rocktok.analyses.detect.gamma import gamma_of, random_pairs
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.hardness import Hardness, hardness_of, votes_of
from rocktok.analyses.detect.null import DRAWS, Null, distances, scarce_types
from rocktok.analyses.detect.permute import DrawLimits, Drawn
from rocktok.analyses.detect.persistence import (
    Choice,
    HardCounts,
    PersistentWindows,
    Thresholds,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.detect.windows import FreePools, Pool, SketchCount, contents_of
from rocktok.engine.heap import give_back
from rocktok.engine.passes import Engine
from rocktok.engine.source import REMEDIES, Source
from rocktok.errors import LogError
from rocktok.stats.arrays import padded

#: Windows held at once, of about 100 bytes each.
ROUND_WINDOWS = 1 << 22

#: Types judged by a sample in one round, at least: each costs, as it is compared with all.
ROUND_TYPES = 50


@dataclass(frozen=True)
class Contexts:
    """How the contexts of a log are judged, in as few passes as memory allows.

    Attributes:
        source: rows of both steps. engine: what makes the passes.
        params: options, with γ as it is used.
        thresholds: who is persistent.
        rule: what similar, and enough of it, means.
        null: what η "auto" draws from; None where η is a number.
        hardness: what the tested rule knows of how hard types are; None by the other.
        unsketched: positions that similarity "hidden" cannot judge, as they have no sketch.
    """

    source: Source
    engine: Engine
    params: DetectParams
    thresholds: Thresholds
    rule: ContextRule
    null: Null | None
    hardness: Hardness | None = None
    unsketched: int = 0

    def permuted(self, types: TypeTable) -> TypeTable:
        """The types judged anew, as many occurrences of each drawn at random as are persistent.

        Null, similarity, partners and walk are the same. Where the log is too large for its windows
        to be held at once, only types that were judged before. One pass, and those of the windows.
        """
        assert types.persistent_T is not None
        persistent_T = types.persistent_T
        if self.source.rows > ROUND_WINDOWS:
            judged_T = np.isin(np.arange(len(persistent_T)), list(types.context))
            persistent_T = np.where(judged_T, persistent_T, 0)
        limits = DrawLimits(self.params.seed, types.token_T, persistent_T, types.frequency_T)
        self.engine.run(self.source, limits)
        drawn = replace(types, persistent_T=persistent_T, context={}, tested=None)
        rocks_alone = replace(self, params=replace(self.params, all_types=False))
        return rocks_alone.judged(drawn, Drawn(self.params.seed, limits.result()))

    def judged(
        self,
        types: TypeTable,
        choice: Choice,
        windows: dict[str, Array] | None = None,
        unfilled: FreePools | None = None,
    ) -> TypeTable:
        """The types with the contexts of the rows that `choice` chooses, as far as rocks may be.

        Args:
            windows: of all those rows, where they can be held at once.
            unfilled: pools of the null that the first round has yet to fill.
        """
        if self.hardness is not None:
            tests = self.hardness.tests
            order = analysis.testable(types, self.params, tests)
            rounds = self._rounds(types, order, choice, windows, unfilled)
            return analysis.with_tests(types, self.params, tests, rounds)
        order = analysis.candidates(types, self.params)
        rounds = self._rounds(types, order, choice, windows, unfilled)
        return replace(types, context=analysis.walk(types, self.params, rounds))

    def of_types(self, types: TypeTable, places: list[int]) -> dict[int, Context]:
        """Contexts of the types at some places, whether `judged` judged them or not.

        Passes over their windows alone; none where there are no places.
        """
        free = None if self.null is None else self.null.free
        # Filled in the first round of windows, if there was one.
        empty = free is not None and not any(pool.seen for pool in free.pools.values())
        rounds = self._rounds(types, places, self.thresholds, None, free if empty else None)
        return dict(zip(places, rounds, strict=True))

    def _rounds(
        self,
        types: TypeTable,
        order: list[int],
        choice: Choice,
        windows: dict[str, Array] | None,
        unfilled: FreePools | None,
    ) -> Iterator[Context]:
        """Contexts of some types in their order, round by round."""
        at = 0
        while at < len(order):
            ahead = order
            if windows is None:
                ahead = self._round(types, order[at:])
                windows = self._collect(types, ahead, choice, unfilled)
                unfilled = None
            yield from self._of_round(types, ahead, choice, windows)
            windows = None  # before those of the next round are read
            at += len(ahead)

    def _of_round(
        self, types: TypeTable, order: list[int], choice: Choice, windows: dict[str, Array]
    ) -> Iterator[Context]:
        """Contexts of types whose windows are at hand, in their order."""
        assert types.persistent_T is not None
        persistent_T = types.persistent_T
        sampled: dict[int, Context] = {}
        judged: dict[int, Context] = {}
        if self.hardness is not None:
            # All are judged: those that need no pass first, while analyses beside this one work.
            whole = [i for i in order if not self._is_sampled(persistent_T[i])]
            judged = dict(zip(whole, self._whole(types, whole, windows), strict=True))
        at = 0
        while at < len(order):
            if order[at] in judged:
                yield judged.pop(order[at])
                at += 1
                continue
            if not self._is_sampled(persistent_T[order[at]]):
                rest = order[at:]
                whole = list(takewhile(lambda i: not self._is_sampled(persistent_T[i]), rest))
                yield from self._whole(types, whole, windows)
                at += len(whole)
                continue
            v = int(types.token_T[order[at]])
            if v not in sampled:
                sampled = self._sampled(types, self._round(types, order[at:]), choice, windows)
            yield sampled[v]
            at += 1

    def _whole(
        self, types: TypeTable, order: list[int], windows: dict[str, Array]
    ) -> Iterator[Context]:
        """Contexts of types of which every persistent occurrence is judged."""
        assert types.persistent_T is not None
        size_T, tokens = types.persistent_T[order], types.token_T[order].tolist()
        large = self.source.large or judging.compiled_pays(size_T)
        null = self.null if self.params.eta == "auto" else None
        if self.rule.similarity.kind == "embedding" or not large:
            for part in judging.cut(tokens, size_T, first=judging.FIRST):
                yield from judging.judge(self.rule, null, windows, part)
            return
        # Types are judged side by side: one thread for each.
        rule = replace(self.rule, similarity=self.rule.similarity.compiled())
        parts = list(judging.cut(tokens, size_T))
        # Where all are judged those that take longest come first, so that no thread waits for them.
        whole = self.hardness is not None
        places = judging.longest_first(parts, size_T) if whole else list(range(len(parts)))
        calls = ((rule, null, windows, parts[at]) for at in places)
        # All are wanted, and held: none that take less time wait for those before them.
        ahead = len(parts) if whole else self.engine.jobs + 1
        judged = self.engine.asides(judging.judge, calls, ahead)
        if not whole:
            for contexts_of in judged:
                yield from contexts_of
            return
        by_part = dict(zip(places, judged, strict=True))
        for at in range(len(parts)):
            yield from by_part.pop(at)

    def _collect(
        self, types: TypeTable, ahead: list[int], choice: Choice, unfilled: FreePools | None
    ) -> dict[str, Array]:
        """One pass: the windows of some types, as many of each as are judged."""
        assert types.persistent_T is not None
        counts_T = types.persistent_T[ahead]
        persistent = dict(zip(types.token_T[ahead].tolist(), counts_T.tolist(), strict=True))
        limit_V = sample_limits(persistent, self._sample_size, self._is_sampled)
        collect = PersistentWindows(
            choice,
            self.params.window_size,
            self.params.seed,
            limit_V,
            contents=(self.rule.similarity.contents,),
            compiled=self.source.large,
        )
        self.engine.run(self.source, collect, *(() if unfilled is None else (unfilled,)))
        windows = collect.result()
        if self.source.large:
            give_back()
        return windows

    def _is_sampled(self, persistent: int) -> bool:
        return not self.params.exact and persistent > self.params.cap

    @property
    def _sample_size(self) -> int:
        return min(contexts.SAMPLE, self.params.cap)

    def _round(self, types: TypeTable, order: list[int]) -> list[int]:
        """The first types of the order, as many as one pass may collect or compare."""
        assert types.persistent_T is not None
        ahead: list[int] = []
        windows = frequent = 0
        for index in order:
            persistent = int(types.persistent_T[index])
            sampled = self._is_sampled(persistent)
            windows += self._sample_size if sampled else persistent
            frequent += sampled
            most = max(self.params.most_rocks, ROUND_TYPES)
            if ahead and (windows > ROUND_WINDOWS or frequent > most):
                break
            ahead.append(index)
        return ahead

    def _sampled(
        self, types: TypeTable, ahead: list[int], choice: Choice, windows: dict[str, Array]
    ) -> dict[int, Context]:
        """One pass: samples of the frequent types among some, compared with all their partners."""
        assert types.persistent_T is not None
        counts = {int(types.token_T[i]): int(types.persistent_T[i]) for i in ahead}
        persistent = {v: n for v, n in counts.items() if self._is_sampled(n)}
        samples = {v: of_type(windows, v, self._sample_size) for v in persistent}
        nulls = {v: self._draws(v) for v in persistent}
        compared: dict[int, Windows] = {}
        for v, rows in samples.items():
            draws, ours = nulls[v], self.rule.windows(rows)
            compared[v] = ours if draws is None else ours.joined(draws[0])
        partners = PartnerCounts(
            choice, self.params.window_size, self.params.seed, self.rule.on_workers(), compared
        )
        self.engine.run(self.source, partners)
        by_token = {}
        for v, rows in samples.items():
            draws, size = nulls[v], len(rows["loss"])
            own = partners.result(v, slice(0, size))
            null = None if draws is None else partners.result(v, slice(size, None))
            distance = None if draws is None else draws[1]
            # Of hidden states those that have a sketch; of windows all that are persistent.
            judgeable = partners.judgeable[v]
            by_token[v] = self.rule.conclude(rows, judgeable, own, null, distance)
        return by_token

    def _draws(self, v: int) -> tuple[Windows, int] | None:
        if self.params.eta != "auto" or self.null is None:
            return None
        return self.null.nearest(v)


def judge_contexts(
    source: Source,
    engine: Engine,
    params: DetectParams,
    thresholds: Thresholds,
    types: TypeTable,
    *,
    count_V: Array,
    clusters: Clusters | None,
    embeddings: Array | None,
    null: bool,
) -> tuple[TypeTable, Contexts]:
    """The types with what persistence and contexts came to, and how these were judged.

    One pass for the hard rows of each type, and a pool for the null; in a small log it collects all
    windows, too. For a test in a large log another, where the occurrences vote. Then those of the
    rounds.

    Args:
        source: rows of both steps.
        types: of all rows; count_V: rows by token id.
        clusters: prompts that vote on each type, where rocks are tested; None: they are not.
        null: whether positions are drawn for the null, whatever η is.
    """
    rows, sketched = int(count_V.sum()), params.similarity == "hidden"
    draw = null or params.eta == "auto"
    hard = HardCounts(thresholds)
    reach, compiled = params.window_size, source.large
    pool = Pool(params.seed, 2 * reach, total=rows, sketched=sketched, compiled=compiled)
    contents = (contents_of(params.similarity),)
    collect = PersistentWindows(
        thresholds, reach, params.seed, contents=contents, compiled=compiled
    )
    sketches = SketchCount()
    small = rows <= ROUND_WINDOWS
    sums = None if clusters is None else HardSums(thresholds, clusters, compiled=source.large)
    engine.run(
        source,
        hard,
        *([pool] if draw or params.min_similarity is None else []),
        *([collect] if small else []),
        *([] if sums is None else [sums]),
        *([sketches] if sketched else []),
    )
    if sketched and sketches.missing == sketches.rows:
        raise LogError(
            f"{source.log.name}: contexts/ has no rows for the positions in "
            f"{source.table}/; {REMEDIES['contexts']}"
        )
    length = len(count_V)
    both, pre, post = (
        padded(hard.count_V[name], length)[types.token_T] for name in ("both", "pre", "post")
    )
    types = replace(types, persistent_T=both, hard_pre_T=pre, hard_post_T=post)
    free = _free_pools(types, params, pool, source.large) if draw and not pool.complete else None
    votes = None if sums is None else votes_of(sums)
    # A test must know which types leave a null to draw from, whether these are judged or not.
    if votes is not None or (free is not None and (small or sums is not None)):
        fill = [] if free is None else [free]
        engine.run(source, *fill, *([] if votes is None else [votes]))
        unfilled = None
    else:
        unfilled = free
    gamma = params.min_similarity
    if gamma is None:
        gamma = gamma_of(random_pairs(pool.result(), params.partners))
    similarity = Similarity(
        params.similarity,
        gamma,
        2 * params.window_size,
        contexts.surprisal(count_V),
        embeddings,
        engine.jobs,
    )
    null_pool = Null(pool.result(), free, params.window_size, params.partners) if draw else None
    hardness = None
    if sums is not None:
        hardness = engine.aside(partial(hardness_of, sums, votes))
        if null_pool is not None:
            hardness = hardness.where(null_pool.judgeable(hardness.tests.token_T))
    judged = Contexts(
        source,
        engine,
        replace(params, gamma=gamma),
        thresholds,
        ContextRule(similarity, params.partners, params.eta, clusters),
        null_pool,
        hardness,
        sketches.missing,
    )
    if small:
        return judged.judged(types, thresholds, collect.result()), judged
    return judged.judged(types, thresholds, unfilled=unfilled), judged


def _free_pools(
    types: TypeTable, params: DetectParams, pool: Pool, compiled: bool
) -> FreePools | None:
    """Pools yet to be filled, for types too frequent for the shared one; None: none is."""
    assert types.persistent_T is not None
    scarce_T = scarce_types(pool.result(), types.token_T) & (types.persistent_T > 0)
    if not scarce_T.any():
        return None
    near = distances(params.window_size)
    return FreePools(
        params.seed,
        2 * params.window_size,
        types.token_T[scarce_T].tolist(),
        near,
        DRAWS,
        sketched=params.similarity == "hidden",
        compiled=compiled,
    )
