"""The passes behind context consistency: whose windows are judged, and in how many rounds.

Types are judged down a bound until no other can be a rock; where rocks are tested, those that are
hard enough to pass. Their windows are collected in rounds: each round is one pass, and holds no
more windows than fit in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import context as contexts
from rocktok.analyses.detect import judging
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.context import Context, ContextRule, PartnerCounts
from rocktok.analyses.detect.hardness import Hardness
from rocktok.analyses.detect.null import Null
from rocktok.analyses.detect.permute import DrawLimits, Drawn
from rocktok.analyses.detect.persistence import (
    Choice,
    PersistentWindows,
    Thresholds,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.windows import FreePools
from rocktok.engine.heap import give_back
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.engine.turns import Companion

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
        drawing: limits of the occurrences that are drawn for `permuted`; None: it is not asked for.
    """

    source: Source
    engine: Engine
    params: DetectParams
    thresholds: Thresholds
    rule: ContextRule
    null: Null | None
    hardness: Hardness | None = None
    unsketched: int = 0
    drawing: Companion[Array] | None = None

    def draw_limits(self, types: TypeTable) -> Array:
        """Limits of as many occurrences of each type that may be judged as are persistent. A pass.

        By token id, as of `DrawLimits`.
        """
        assert types.persistent_T is not None
        persistent_T = types.persistent_T
        if self.source.rows > ROUND_WINDOWS:
            persistent_T = self._alone(persistent_T, self._order(types))
        limits = DrawLimits(self.params.seed, types.token_T, persistent_T, types.frequency_T)
        self.engine.run(self.source, limits)
        return limits.result()

    def _order(self, types: TypeTable) -> list[int]:
        """Types in the order in which they are judged, as far as they are."""
        if self.hardness is not None:
            return analysis.testable(types, self.params, self.hardness.tests)
        return analysis.candidates(types, self.params)

    @staticmethod
    def _alone(values_T: Array, places: Collection[int]) -> Array:
        """The values at some places, 0 elsewhere."""
        return np.where(np.isin(np.arange(len(values_T)), list(places)), values_T, 0)

    def permuted(self, types: TypeTable) -> TypeTable:
        """The types judged anew, as many occurrences of each drawn at random as are persistent.

        Null, similarity, partners and walk are the same. Where the log is too large for its windows
        to be held at once, only types that were judged before. Passes of the windows.
        """
        assert types.persistent_T is not None and self.drawing is not None
        persistent_T, limit_V = types.persistent_T, self.drawing.result().copy()
        if self.source.rows > ROUND_WINDOWS:
            persistent_T = self._alone(persistent_T, types.context)
            limit_V[types.token_T[persistent_T == 0]] = 0
        drawn = replace(types, persistent_T=persistent_T, context={}, tested=None)
        rocks_alone = replace(self, params=replace(self.params, all_types=False))
        return rocks_alone.judged(drawn, Drawn(self.params.seed, limit_V))

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
        rounds = self._rounds(types, self._order(types), choice, windows, unfilled)
        if self.hardness is not None:
            return analysis.with_tests(types, self.params, self.hardness.tests, rounds)
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
