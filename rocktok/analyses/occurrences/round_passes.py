"""Every persistent occurrence of a log judged, in rounds that hold a bounded number of windows.

The same verdicts as those of `detect`, of all types with a persistent occurrence. Of a type with
more than `cap` of them a sample is judged, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import judging
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.context import SAMPLE, PartnerCounts, Partners
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.persistence import (
    Choice,
    Others,
    PersistentWindows,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.windows import FreePools
from rocktok.analyses.occurrences.judged import JudgedType, judge_types, judged_type

#: Windows held at once, of about 200 bytes each with the partners listed.
ROUND_WINDOWS = 1 << 21


@dataclass(frozen=True)
class Rounds:
    """All types with persistent occurrences, judged.

    Attributes:
        contexts: how contexts are judged, as `detect` leaves it.
        types: all types seen.
        most: partners to list for an occurrence.
    """

    contexts: Contexts
    types: TypeTable
    most: int

    def __iter__(self) -> Iterator[list[JudgedType]]:
        """Round by round, types by ascending id; one or two passes each."""
        unfilled = self._unfilled()
        for tokens in self._rounds():
            yield self._judged(tokens, unfilled)
            unfilled = None

    def _unfilled(self) -> FreePools | None:
        """Pools of the null that `detect` has not filled, as it judged no type by windows."""
        null = self.contexts.null
        free = None if null is None else null.free
        if free is None or any(pool.seen for pool in free.pools.values()):
            return None
        return free

    def _rounds(self) -> Iterator[list[int]]:
        tokens: list[int] = []
        held = 0
        for v, (persistent, others) in self._counts.items():
            size = self._size(persistent) + (0 if self._streamed(others) else others)
            if tokens and held + size > ROUND_WINDOWS:
                yield tokens
                tokens, held = [], 0
            tokens.append(v)
            held += size
        if tokens:
            yield tokens

    @cached_property
    def _counts(self) -> dict[int, tuple[int, int]]:
        """Token id → persistent occurrences, of types with any, and the others."""
        persistent_T = self.types.persistent_T
        assert persistent_T is not None
        here_T = persistent_T > 0
        both = zip(
            persistent_T[here_T].tolist(),
            (self.types.frequency_T - persistent_T)[here_T].tolist(),
            strict=True,
        )
        return dict(zip(self.types.token_T[here_T].tolist(), both, strict=True))

    def _is_sampled(self, persistent: int) -> bool:
        params = self.contexts.params
        return not params.exact and persistent > params.cap

    def _streamed(self, others: int) -> bool:
        """Whether occurrences that are not persistent are compared as they are read, not held."""
        return others > self.contexts.params.cap

    def _size(self, persistent: int) -> int:
        return self._sample_size if self._is_sampled(persistent) else persistent

    @property
    def _sample_size(self) -> int:
        return min(SAMPLE, self.contexts.params.cap)

    def _judged(self, tokens: list[int], unfilled: FreePools | None) -> list[JudgedType]:
        """The types of one round, by ascending id."""
        contexts, counts = self.contexts, self._counts
        persistent = {v: counts[v][0] for v in tokens}
        held = {
            v: counts[v][1] for v in tokens if counts[v][1] > 0 and not self._streamed(counts[v][1])
        }
        windows = self._windows(contexts.thresholds, persistent)
        others = self._windows(Others(contexts.thresholds), held)
        contexts.engine.run(
            contexts.source,
            windows,
            *([others] if held else []),
            *([] if unfilled is None else [unfilled]),
        )
        rows = windows.result()
        more = others.result() if held else {}
        apart = {
            v for v in tokens if self._is_sampled(counts[v][0]) or self._streamed(counts[v][1])
        }
        found = {one.token_id: one for one in self._apart(sorted(apart), rows, more)}
        together = [v for v in tokens if v not in apart]
        found |= {one.token_id: one for one in self._together(together, rows, more)}
        return [found[v] for v in tokens]

    def _windows(self, choice: Choice, counts: dict[int, int]) -> PersistentWindows:
        """Collects the windows of some types, as many of each as are judged."""
        contexts = self.contexts
        sampled: Callable[[int], bool] = lambda _: False  # noqa: E731
        if choice is contexts.thresholds:
            sampled = self._is_sampled
        return PersistentWindows(
            choice,
            contexts.params.window_size,
            contexts.params.seed,
            sample_limits(counts or {0: 0}, self._sample_size, sampled),
            contents=(contexts.rule.similarity.contents,),
        )

    def _together(
        self, tokens: list[int], rows: dict[str, Array], more: dict[str, Array]
    ) -> Iterator[JudgedType]:
        """Types whose windows are all at hand, on the threads of this process."""
        contexts, counts = self.contexts, self._counts
        size_T = np.array([counts[v][0] for v in tokens], dtype=np.int64)
        rule = contexts.rule
        if contexts.source.large or judging.compiled_pays(size_T):
            rule = rule.on_workers()
        else:
            rule = replace(rule, similarity=replace(rule.similarity, jobs=1))
        null = contexts.null if contexts.params.eta == "auto" else None
        calls = ((rule, null, rows, more, part, self.most) for part in judging.cut(tokens, size_T))
        for found in contexts.engine.on_threads(judge_types, calls, contexts.engine.jobs + 1):
            yield from found

    def _apart(
        self, tokens: list[int], rows: dict[str, Array], more: dict[str, Array]
    ) -> Iterator[JudgedType]:
        """Types too frequent for that: compared with what they have to be in one more pass."""
        contexts, counts = self.contexts, self._counts
        if not tokens:
            return
        rule = contexts.rule
        samples = {v: of_type(rows, v, self._limit(counts[v][0])) for v in tokens}
        pool = contexts.null if contexts.params.eta == "auto" else None
        nulls = {v: None if pool is None else pool.nearest(v) for v in tokens}
        ours = {v: rule.windows(sample) for v, sample in samples.items()}
        compared: dict[int, Windows] = {}
        for v in tokens:
            draws = nulls[v]
            compared[v] = ours[v] if draws is None else ours[v].joined(draws[0])
        streamed = {v: ours[v] for v in tokens if self._streamed(counts[v][1])}
        own = self._counting(contexts.thresholds, compared)
        beside = self._counting(Others(contexts.thresholds), streamed)
        contexts.engine.run(contexts.source, own, *([beside] if streamed else []))
        for v in tokens:
            size = len(ours[v])
            null = None if nulls[v] is None else own.result(v, slice(size, None))
            if v in streamed:
                more_M = beside.similar[v]
            else:
                more_M = (
                    rule.similarity.count_similar(ours[v], rule.windows(of_type(more, v)))
                    if more
                    else np.zeros(size, np.int64)
                )
            mine: Partners = own.result(v, slice(0, size))
            yield judged_type(rule, v, samples[v], mine, null, more_M, self.most)

    def _limit(self, persistent: int) -> int | None:
        return self._sample_size if self._is_sampled(persistent) else None

    def _counting(self, choice: Choice, compared: dict[int, Windows]) -> PartnerCounts:
        contexts = self.contexts
        return PartnerCounts(
            choice,
            contexts.params.window_size,
            contexts.params.seed,
            contexts.rule.on_workers(),
            compared,
        )
