"""Context consistency: which persistent occurrences of a type recur in contexts like others'.

Array suffixes: M judged occurrences; D draws of the null; V token ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.clusters import Clusters
from rocktok.analyses.detect.compared import Windows, labels, partner_counts
from rocktok.analyses.detect.null import null_threshold
from rocktok.analyses.detect.persistence import (
    Choice,
    PersistentWindows,
    needs_of,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.detect.tested import ClusterCounts, context_counts
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import distinct

#: Occurrences that are judged of a type with too many of them: the 95% interval of the share that
#: is retained is then at most 0.028 wide.
SAMPLE = 5_000

#: Partners of frequent types that wait, of some 100 bytes each: each comparison makes an index.
_TOGETHER = 1 << 17

_Z95 = 1.959964


@dataclass(frozen=True)
class Context:
    """What context consistency came to for one type.

    Attributes:
        persistent: |O_PH(v)|.
        judged: how many of these were judged: all, or a sample.
        prompts: distinct prompts among the judged.
        judgeable: False where too few positions are left to draw a null from.
        hits: retained occurrences among the judged; hit_loss: their loss at post, nats.
        hit_sequences, hit_positions: where these stand; None where that is of no use.
        eta, eta_count: what rate and count had to exceed; null_distance: of the draws.
        interval: 95%, of the share of the persistent occurrences that is retained.
        voters, votes: clusters of prompts with judged occurrences, and the sum over these of the
            retained share; 0 where no rule asks.
        by_cluster: of these; None where no rule asks, and in a summary.
    """

    persistent: int
    judged: int
    prompts: int
    judgeable: bool = False
    hits: int = 0
    hit_loss: float = 0.0
    hit_sequences: Array | None = None
    hit_positions: Array | None = None
    eta: float | None = None
    eta_count: int | None = None
    null_distance: int | None = None
    interval: tuple[float, float] | None = None
    voters: int = 0
    votes: float = 0.0
    by_cluster: ClusterCounts | None = None

    @property
    def sampled(self) -> bool:
        """Whether not all persistent occurrences were judged."""
        return self.judged < self.persistent

    @property
    def share(self) -> float:
        """Retained among persistent occurrences."""
        return self.hits / self.judged if self.judged else 0.0

    @property
    def retained(self) -> float:
        """|𝓡(v)|: whole where all were judged, else estimated."""
        return self.hits * self.persistent / self.judged if self.sampled else self.hits

    @property
    def retained_loss(self) -> float:
        """Loss of the retained occurrences at post, nats; estimated where sampled."""
        return self.hit_loss * self.persistent / self.judged if self.sampled else self.hit_loss

    def summary(self) -> Context:
        """The same without what grows with the occurrences."""
        return replace(self, hit_sequences=None, hit_positions=None, by_cluster=None)


def surprisal(count_V: Array) -> Array:
    """−ln(n_u / n) by token id; 0 for an id that does not occur."""
    total = count_V.sum()
    weight_V = np.zeros(len(count_V))
    seen = count_V > 0
    weight_V[seen] = -np.log(count_V[seen] / total)
    return weight_V


@dataclass(frozen=True)
class Partners:
    """Of each row, how many partners it has among the persistent occurrences, and similar ones."""

    similar_M: Array
    partners_M: Array

    @property
    def rate_M(self) -> Array:
        """ρ: the similar share; 0 where there are no partners."""
        zero_M = np.zeros(len(self.partners_M))
        return np.divide(self.similar_M, self.partners_M, out=zero_M, where=self.partners_M > 0)


@dataclass(frozen=True)
class Retention:
    """Which rows are retained, and what their rate and (η "auto") their count had to exceed."""

    retained_M: Array
    eta: float
    eta_count: int | None


def retention(
    own: Partners, null: Partners | None, eta: float | Literal["auto"]
) -> Retention | None:
    """What η retains, a number or "auto"; None where η is "auto" and there is no null."""
    if eta != "auto":
        return Retention((own.rate_M >= eta) & (own.rate_M > 0), float(eta), None)
    if null is None:
        return None
    count, rate = null_threshold(null.similar_M), null_threshold(null.rate_M)
    retained_M: Array = (own.similar_M > count) & (own.rate_M > rate)
    return Retention(retained_M, rate, int(count))


@dataclass(frozen=True)
class ContextRule:
    """How occurrences are retained: similarity, partners, η; `clusters`: whose votes count."""

    similarity: Similarity
    partners: str
    eta: float | Literal["auto"]
    clusters: Clusters | None = None

    def judge(self, rows: dict[str, Array], draws: tuple[Windows, int] | None) -> Context:
        """Judge all persistent occurrences of a type, as from `persistence.of_type`.

        `draws`: of its null, for η "auto", with their distance; None: too few could be drawn.
        """
        ours = self.windows(rows)
        if draws is None:
            return self.conclude(rows, len(ours), self._count(ours, ours), None, None)
        drawn, distance = draws
        own_M, drawn_D = self.similarity.count_with_draws(ours, drawn)
        own = Partners(own_M, partner_counts(ours, ours))
        null = Partners(drawn_D, partner_counts(drawn, ours))
        return self.conclude(rows, len(ours), own, null, distance)

    def conclude(
        self,
        rows: dict[str, Array],
        persistent: int,
        own: Partners,
        null: Partners | None,
        distance: int | None,
    ) -> Context:
        """Which of the judged rows are retained, once the partners of each are counted.

        Args:
            rows: all persistent occurrences of a type, or a uniform sample.
            persistent: how many there are.
            own: of the rows. null: of the draws, for η "auto"; None: too few could be drawn.
            distance: of the draws.
        """
        context = Context(persistent, len(rows["loss"]), len(distinct(rows["prompt"])))
        retained = retention(own, null, self.eta)
        if retained is None:
            return context
        retained_M = retained.retained_M
        counts = None
        if self.clusters is not None:
            counts = context_counts(self.clusters.of(rows["prompt"]), retained_M)
        context = replace(
            context,
            judgeable=True,
            hits=int(retained_M.sum()),
            hit_loss=float(rows["loss"][retained_M].sum(dtype=np.float64)),
            hit_sequences=rows["sequence"][retained_M],
            hit_positions=rows["position"][retained_M],
            eta=retained.eta,
            eta_count=retained.eta_count,
            null_distance=distance,
            voters=0 if counts is None else len(counts.cluster_C),
            votes=0.0 if counts is None else counts.votes,
            by_cluster=counts,
        )
        return replace(context, interval=share_interval(context)) if context.sampled else context

    def on_workers(self) -> ContextRule:
        """The same for the engine's workers: one thread each, and compiled loops at once."""
        return replace(self, similarity=self.similarity.compiled(), clusters=None)

    def windows(self, rows: dict[str, Array]) -> Windows:
        """Windows of persistent occurrences, or sketches, with labels by the partner rule."""
        return Windows(rows[self.similarity.contents], labels(rows, self.partners))

    def _count(self, ours: Windows, theirs: Windows) -> Partners:
        similar_M = self.similarity.count_similar(ours, theirs)
        return Partners(similar_M, partner_counts(ours, theirs))


def share_interval(context: Context) -> tuple[float, float]:
    """95% interval of the retained share of all persistent occurrences, from a uniform sample.

    Every judged occurrence was compared with all its partners, so that the sample is the only
    source of error: Wilson's interval (Wilson 1927), for a sample drawn without replacement.
    """
    left = 1 - (context.judged - 1) / (context.persistent - 1)
    z = _Z95 * _Z95 * left / context.judged
    share = context.share
    middle = (share + z / 2) / (1 + z)
    half = float(np.sqrt(z * (share * (1 - share) + z / 4)) / (1 + z))
    return max(0.0, middle - half), min(1.0, middle + half)


class PartnerCounts:
    """Compares samples of frequent types, and the draws of their nulls, with all their partners.

    Args:
        choice: which rows are partners; `Thresholds` chooses the persistent ones.
        reach: tokens on each side of a window.
        seed: of the hash that labels rows where all others are partners.
        rule: similarity (of one thread: the engine has its own) and partners.
        compared: token id → windows; shared by copies, never changed.

    `similar`, `partners`: token id → int64 counts, one for each window in `compared`. `judgeable`:
    token id → persistent occurrences, of which those compared are a sample.
    """

    def __init__(
        self,
        choice: Choice,
        reach: int,
        seed: int,
        rule: ContextRule,
        compared: dict[int, Windows],
    ) -> None:
        self.contents = (rule.similarity.contents,)
        self.needs = needs_of(self.contents)
        self.choice, self.reach, self.seed = choice, reach, seed
        self.rule, self.compared = rule, compared
        self.similar, self.partners = (
            {v: np.zeros(len(w), dtype=np.int64) for v, w in compared.items()} for _ in range(2)
        )
        self.judgeable = dict.fromkeys(compared, 0)
        #: Partners that wait to be compared.
        self._waiting: PersistentWindows | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        same = type(self)(self.choice, self.reach, self.seed, self.rule, self.compared)
        same.merge(self)
        return same

    def update(self, batch: Batch) -> None:
        """Compare with the persistent occurrences of a joined batch, many at a time."""
        if self._waiting is None:
            limit_V = sample_limits(dict.fromkeys(self.compared, 0), 0, lambda _: False)
            # What is compared is many: the loops of these comparisons are loaded anyway.
            compiled = self.rule.similarity.loaded
            self._waiting = PersistentWindows(
                self.choice, self.reach, self.seed, limit_V, contents=self.contents,
                compiled=compiled,
            )  # fmt: skip
        self._waiting.update(batch)
        if self._waiting.count > _TOGETHER:
            self._compare()

    def _compare(self) -> None:
        rows = {} if self._waiting is None else self._waiting.result()
        self._waiting = None
        for v in np.unique(rows["token"]).tolist() if rows else []:
            ours, theirs = self.compared[v], self.rule.windows(of_type(rows, v))
            self.similar[v] += self.rule.similarity.count_similar(ours, theirs)
            self.partners[v] += partner_counts(ours, theirs)
            self.judgeable[v] += len(theirs)

    def close(self) -> None:
        """Compare what waits, and let go of what was compared."""
        self._compare()
        self.compared = {}

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        for v in self.similar:
            self.similar[v] += other.similar[v]
            self.partners[v] += other.partners[v]
            self.judgeable[v] += other.judgeable[v]

    def result(self, v: int, rows: slice) -> Partners:
        """Of some of the windows judged for a type."""
        return Partners(self.similar[v][rows], self.partners[v][rows])
